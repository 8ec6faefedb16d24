"""The report: a table a suite, element type and thread count, a row a problem; and its plot."""

import collections
import itertools
import statistics
from collections.abc import Iterable, Iterator

import numpy as np

from benchmarks import machine, peers, workers
from benchmarks.functions import Call
from benchmarks.measure import Result
from benchmarks.problems import DTYPES

Row = dict[str, Result]  # a contender each, "auto" first
NONE = "-"


def text(results: list[Result]) -> str:
    """The whole report."""
    blocks = [_how_to_read(results)]
    for title, rows in _tables(results):
        blocks.append(_speeds(title, rows))
        if any(set(row) & set(peers.PEERS) for row in rows):
            blocks.append(_against_peers(rows))
    blocks.append(_summary(results))
    blocks += _reasons(results)
    return "\n\n".join(block for block in blocks if block)


def _tables(results: list[Result]) -> Iterator[tuple[str, list[Row]]]:
    """The results of a table, as rows, under the table's title."""
    tables: dict[tuple, dict[str, Row]] = collections.defaultdict(dict)
    for result in results:
        case = result.case
        table = tables[result.suite, case.dtype, case.threads]
        table.setdefault(str(case.problem), {})[case.contender] = result
    for (suite, dtype, threads), rows in tables.items():
        title = f"{suite}, {np.dtype(DTYPES[dtype])}, {threads} thread{'s' * (threads > 1)}"
        yield title, list(rows.values())


def _how_to_read(results: list[Result]) -> str:
    settings = sorted({(r.case.dtype, r.case.threads) for r in results})
    lines = [
        f"FMA peak, {np.dtype(DTYPES[dtype])}, {threads} threads: "
        f"{machine.fma_peak(dtype, threads) / 1e9:.0f} GF/s"
        for dtype, threads in settings
    ]
    return "\n".join(
        [
            "Measured limits of this machine:",
            *(f"  {line}" for line in lines),
            "  copy bandwidth: np.copyto between buffers of each problem's size",
            "Cells: GF/s (pools and functions: GB/s), the best round, and per cent of the limit,",
            "which is the copy bandwidth where a c follows. `auto` names the algorithm it took.",
        ]
    )


def _speeds(title: str, rows: list[Row]) -> str:
    contenders = [name for name in _names(rows) if name not in peers.PEERS]
    halves = [name.partition("+") for name in contenders]
    heads = [[title, *(first for first, _, _ in halves)]]
    if any(plus for _, plus, _ in halves):
        heads.append(["", *(plus + second for _, plus, second in halves)])
    lines = [[_label(row), *(_cell(row.get(name)) for name in contenders)] for row in rows]
    return align(heads, lines)


def _against_peers(rows: list[Row]) -> str:
    contenders = [name for name in _names(rows) if name in peers.PEERS]
    head = ["against peers", "auto", *contenders, "auto / best peer"]
    lines = []
    for row in rows:
        cells = [_cell(row.get(name)) for name in ("auto", *contenders)]
        ratio = _ratio(row, contenders)
        lines.append([_label(row), *cells, f"{ratio:.2f}x" if ratio else NONE])
    return align([head], lines)


def _summary(results: list[Result]) -> str:
    """Geometric means of auto's speed over everyone else's, and the worst problem of each."""
    lines = []
    for title, rows in _tables(results):
        for name in _names(rows):
            ratios = {_label(row): _ratio(row, [name]) for row in rows if name != "auto"}
            ratios = {label: ratio for label, ratio in ratios.items() if ratio}
            if ratios:
                worst = min(ratios, key=ratios.__getitem__)
                mean = statistics.geometric_mean(ratios.values())
                least = f"{ratios[worst]:.2f}x"
                lines.append([f"{title}: {name}", f"{mean:.2f}x", least, f"  {worst}"])
    return align([["auto's speed over", "mean", "least", "  at"]], lines, last_left=True)


def _reasons(results: list[Result]) -> Iterator[str]:
    """What a dash and an exclamation mark stand for."""
    whys: dict[str, list[str]] = collections.defaultdict(list)
    for result in results:
        if result.why:
            whys[f"{result.case.contender}: {result.why}"].append(str(result.case.problem))
    if whys:
        lines = [f"  {why}; {len(names)} times, first {names[0]}" for why, names in whys.items()]
        yield "\n".join(["A dash is a contender that cannot:", *lines])
    if any(result.inexact for result in results):
        yield "! values outside the rounding bound that every other result was checked against"
    used = dict.fromkeys(r.case.contender for r in results if r.case.contender in peers.PEERS)
    if used:
        versions = ", ".join(f"{name} {workers.version(name)}" for name in used)
        yield f"Peers, each in its own process with the same number of threads: {versions}"


def _names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(itertools.chain.from_iterable(rows)))


def _label(row: Row) -> str:
    """A layer's name says where to find the rest; other problems tell their shape."""
    problem = next(iter(row.values())).case.problem
    if isinstance(problem, Call):
        return problem.op
    return problem.label or problem.shape.removeprefix("conv2d_")


def _cell(result: Result | None) -> str:
    if result is None or result.seconds is None:
        return NONE
    problem = result.case.problem
    if not problem.nbytes(result.case.dtype):
        return f"{1e6 * result.seconds:.1f} us"
    name, floor = result.limit
    work = problem.flops if problem.is_conv else problem.nbytes(result.case.dtype)
    speed = work / result.seconds / 1e9
    percent = f"{100 * floor / result.seconds:.0f}%{'c' if name == 'copy' else ' '}"
    took = f"{result.took} " if result.case.contender == "auto" and result.took else ""
    marks = "!" if result.inexact else ""
    return f"{marks}{took}{speed:.{0 if speed >= 10 else 1}f} {percent:>5}"


def _ratio(row: Row, contenders: Iterable[str]) -> float | None:
    """How many times faster auto is than the fastest of the contenders."""
    times = [row[name].seconds for name in contenders if name in row and row[name].seconds]
    auto = row["auto"].seconds if "auto" in row else None
    return min(times) / auto if times and auto else None


def align(heads: list[list[str]], lines: list[list[str]], last_left: bool = False) -> str:
    """Columns as wide as their widest cell: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*heads, *lines, strict=True)]
    rendered = []
    for line in [*heads, *lines]:
        cells = [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
        if last_left:
            cells[-1] = line[-1]
        rendered.append("  ".join(cells).rstrip())
    rendered.insert(len(heads), "-" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(rendered)


def plot(results: list[Result], path: str) -> None:
    """Per cent of each problem's limit: a panel a table, a row of points a problem."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tables = list(_tables(results))
    # The legend stands beside its panel and needs a line a contender.
    heights = [max(len(rows), len(_names(rows))) + 3 for _, rows in tables]
    styles = {
        name: ("ovs^DPX*<>"[i % 10], f"C{i % 10}")
        for i, name in enumerate(dict.fromkeys(r.case.contender for r in results))
    }
    figure, panels = pyplot.subplots(
        len(tables),
        figsize=(10, 0.28 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for panel, (title, rows) in zip(panels[:, 0], tables, strict=True):
        _draw(panel, title, rows, styles)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw(panel, title: str, rows: list[Row], styles: dict[str, tuple[str, str]]) -> None:
    for name in _names(rows):
        points = [
            (100 * row[name].limit[1] / row[name].seconds, y)
            for y, row in enumerate(rows)
            if name in row and row[name].seconds
        ]
        if points:
            marker, colour = styles[name]
            ring = {"s": 90, "facecolors": "none", "edgecolors": "black"}
            look = ring if name == "auto" else {"color": colour}
            panel.scatter(*np.transpose(points), label=name, marker=marker, **look)
    panel.set_yticks(range(len(rows)), [_label(row) for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xlim(left=0)
    panel.set_xlabel("per cent of the measured limit")
    panel.set_title(title, loc="left")
    panel.grid(axis="y", alpha=0.4)
    panel.axvline(100, color="grey", linestyle=":")
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
