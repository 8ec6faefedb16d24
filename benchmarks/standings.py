"""What a comparison found: a row a problem, the figures of a set, the tables that show them."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import ours, peers
from benchmarks.functions import parse
from benchmarks.networks import Network
from benchmarks.problems import Problem
from benchmarks.report import NONE, align

# Only larger problems say something about arithmetic, and about threads.
LARGE_MACS = 1_000_000
PARALLEL_FLOPS = 50_000_000
WORST = 5


@dataclasses.dataclass
class Entry:
    """What one contender did: seconds a call, with warm and cold weights, or why none."""

    rounds: list[float] = dataclasses.field(default_factory=list)
    cold: list[float] = dataclasses.field(default_factory=list)
    why: str = ""
    inexact: bool = False

    def seconds(self, cold: bool = False) -> float | None:
        """The best round: whatever disturbs a computation makes it slower."""
        return min(self.cold if cold else self.rounds, default=None)


@dataclasses.dataclass
class Row:
    """A problem, and everyone's result. `floor` is the longer of the machine's two limits, in
    seconds; `limit` says which."""

    set: str
    problem: Problem | Network
    count: int
    dtype: str
    threads: int
    limit: str
    floor: float
    entries: dict[str, Entry]

    def as_json(self) -> dict:
        """For `from_json`; some of it is for other readers alone."""
        p = self.problem
        plain = dataclasses.asdict(self) | {"problem": str(p), "flops": p.flops}
        for entry in plain["entries"].values():
            for times in ("rounds", "cold"):
                entry[times] = [float(f"{seconds:.4g}") for seconds in entry[times]]
            entry["seconds"] = min(entry["rounds"], default=None)
        return plain

    @classmethod
    def from_json(cls, plain: dict) -> "Row":
        """What `as_json` gave."""
        names = [field.name for field in dataclasses.fields(cls)]
        row = cls(**{name: plain[name] for name in names})
        row.problem = parse(plain["problem"])
        row.entries = {
            name: Entry(entry["rounds"], entry["cold"], entry["why"], entry["inexact"])
            for name, entry in plain["entries"].items()
        }
        return row

    @property
    def label(self) -> str:
        p = self.problem
        return p.label or p.shape.removeprefix("conv2d_")

    def seconds(self, name: str, cold: bool = False) -> float | None:
        """The contender's time, if it has one."""
        return self.entries[name].seconds(cold) if name in self.entries else None

    def best_peer(self, cold: bool = False) -> str | None:
        """The fastest of those whose values are right."""
        times = {
            name: self.seconds(name, cold)
            for name, entry in self.entries.items()
            if name in peers.PEERS and not entry.inexact and self.seconds(name, cold)
        }
        return min(times, key=times.__getitem__, default=None)

    def ratio(self, name: str, cold: bool = False) -> float | None:
        """How many times faster than the best peer; None where either has no time."""
        best, seconds = self.best_peer(cold), self.seconds(name, cold)
        return self.seconds(best, cold) / seconds if best and seconds else None

    def percent(self, name: str) -> float | None:
        """Of the machine's limit."""
        seconds = self.seconds(name)
        return 100 * self.floor / seconds if seconds else None


Key = tuple[str, str, int]  # set, element type, threads


def groups(rows: list[Row]) -> dict[Key, list[Row]]:
    """The rows that are summed up together."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault((row.set, row.dtype, row.threads), []).append(row)
    return found


def figures(rows: list[Row], name: str) -> dict[str, float | int | None]:
    """What a group's rows say about one of ours: speeds are over the best peer."""
    paired = [row for row in rows if row.ratio(name)]
    ratios = [row.ratio(name) for row in paired]
    percents = [row.percent(name) for row in rows if row.percent(name)]
    return {
        "layers": len(paired),
        "mean": _mean(ratios),
        "least": min(ratios, default=None),
        "below_0.9": sum(ratio < 0.9 for ratio in ratios),
        "large": _mean([row.ratio(name) for row in paired if row.problem.macs >= LARGE_MACS]),
        "time": _summed(paired, name),
        "cold": _mean([row.ratio(name, cold=True) for row in paired if row.ratio(name, cold=True)]),
        "ceiling": _mean([row.seconds(row.best_peer()) / row.floor for row in paired]),
        "percent": statistics.median(percents) if percents else None,
        "least_percent": min(percents, default=None),
    }


def _mean(ratios: list[float]) -> float | None:
    return statistics.geometric_mean(ratios) if ratios else None


def _summed(rows: list[Row], name: str) -> float | None:
    """The peers' time, each layer's best, over ours; as often as models have the layer."""
    ours_ = math.fsum(row.count * row.seconds(name) for row in rows)
    theirs = math.fsum(row.count * row.seconds(row.best_peer()) for row in rows)
    return theirs / ours_ if ours_ else None


def scaling(rows: list[Row], name: str) -> dict[tuple[str, str, int], list[tuple[float, str]]]:
    """(speed over one thread, label) of the larger problems, by set, element type, threads."""
    single = {
        (row.set, row.dtype, str(row.problem)): row.seconds(name)
        for row in rows
        if row.threads == 1 and row.problem.flops >= PARALLEL_FLOPS
    }
    found: dict[tuple[str, str, int], list[tuple[float, str]]] = {}
    for row in rows:
        alone, seconds = single.get((row.set, row.dtype, str(row.problem))), row.seconds(name)
        if row.threads > 1 and alone and seconds:
            found.setdefault((row.set, row.dtype, row.threads), []).append(
                (alone / seconds, row.label)
            )
    return found


# The columns of the summary: title, and how to show the figure.
_times = "{:.2f}".format
_speed = "{:.2f}x".format
_percent = "{:.0f}".format


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "layers": ("layers", str),
    "mean": ("mean", _times),
    "large": (">=1M", _times),
    "time": ("time", _times),
    "cold": ("cold", _times),
    "ceiling": ("at limit", _times),
    "least": ("least", _times),
    "below_0.9": ("<0.9", str),
    "percent": ("% limit", _percent),
    "least_percent": ("least %", _percent),
}


def summary_cells(rows: list[Row]) -> Iterator[tuple[str, list[str]]]:
    """(set, element type, threads, ours, figures...) a line, the head first."""
    yield ["set", "type", "threads", "fastconv", *(title for title, _ in COLUMNS.values())]
    for (name, dtype, threads), group in groups(rows).items():
        for contender in ours.OURS:
            if any(contender in row.entries for row in group):
                found = figures(group, contender)
                cells = [_figure(found[key], show) for key, (_, show) in COLUMNS.items()]
                yield [name, dtype, str(threads), contender, *cells]


def text(rows: list[Row], detailed: bool) -> str:
    """The whole report for a terminal."""
    blocks = [_every_row(key, group) for key, group in groups(rows).items()] if detailed else []
    head, *lines = summary_cells(rows)
    blocks += [HOW_TO_READ, align([head], lines)]
    blocks += [_worst(rows), _scaling(rows), *_reasons(rows)]
    return "\n\n".join(block for block in blocks if block)


HOW_TO_READ = """\
Speed over the best peer of each layer (its time over ours): mean, geometric; >=1M, of the layers of
at least a million multiply-adds; time, of the summed times, as often as models have the layer; cold,
the mean with weights out of the caches; at limit, what the mean would be if every layer took no more
than the machine's limit (FMA peak or copying, whichever takes longer); least; <0.9, how many layers
are slower than that. % limit: median per cent of that limit; least."""


def _every_row(key: Key, rows: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.entries))
    title = f"{key[0]}, {key[1]}, {key[2]} threads: us"
    head = [title, "limit", *names, "layer", "function", "%"]
    lines = []
    for row in rows:
        cells = [_cell(row.entries.get(name)) for name in names]
        ratios = [_figure(row.ratio(name), _speed) for name in ours.OURS]
        best = max((row.percent(name) or 0 for name in ours.OURS), default=0)
        limit = f"{1e6 * row.floor:.1f}{'c' if row.limit == 'copy' else ' '}"
        lines.append([row.label, limit, *cells, *ratios, f"{best:.0f}"])
    return align([head], lines)


def _cell(entry: Entry | None) -> str:
    if entry is None or not entry.rounds:
        return NONE
    return f"{'!' if entry.inexact else ''}{1e6 * entry.seconds():.1f}"


def _figure(value: float | None, show: Callable[[float], str]) -> str:
    return NONE if value is None else show(value)


def _worst(rows: list[Row]) -> str:
    """The layers of each group that lose most, or win least."""
    lines = []
    for (name, dtype, threads), group in groups(rows).items():
        contender = next((own for own in ours.OURS if any(own in r.entries for r in group)), None)
        paired = sorted((r for r in group if r.ratio(contender)), key=lambda r: r.ratio(contender))
        for row in paired[:WORST]:
            best, seconds = row.best_peer(), row.seconds(contender)
            lines.append(
                [
                    f"{name}, {dtype}, {threads} threads",
                    f"{row.ratio(contender):.2f}x",
                    _figure(row.ratio("function"), _speed),
                    f"{row.problem.flops / seconds / 1e9:.1f}",
                    f"{row.percent(contender):.0f}%{'c' if row.limit == 'copy' else ' '}",
                    f"{1e6 * seconds:.1f}",
                    f"{1e6 * row.seconds(best):.1f}",
                    f"  {best}",
                    f"  {row.problem}",
                ]
            )
    head = [
        "the worst of each",
        "layer",
        "function",
        "GF/s",
        "limit",
        "us",
        "peer",
        "  which",
        "  problem",
    ]
    return align([head], lines, last_left=True) if lines else ""


def _scaling(rows: list[Row]) -> str:
    lines = []
    for contender in ours.OURS:
        for (name, dtype, threads), speeds in scaling(rows, contender).items():
            least, label = min(speeds)
            median = statistics.median(speed for speed, _ in speeds)
            cells = [str(len(speeds)), f"{median:.2f}x", f"{least:.2f}x", f"  {label}"]
            lines.append([f"{contender}: {name}, {dtype}, {threads} threads", *cells])
    head = ["over one thread, from 50 MFLOP on", "layers", "median", "least", "  at"]
    return align([head], lines, last_left=True) if lines else ""


def _reasons(rows: list[Row]) -> Iterator[str]:
    """Who could not, and whose values were outside the bound."""
    whys: dict[str, list[str]] = {}
    wrong: dict[str, list[str]] = {}
    for row in rows:
        for name, entry in row.entries.items():
            if entry.why:
                whys.setdefault(f"{name}: {entry.why}", []).append(row.problem.shape)
            if entry.inexact:
                wrong.setdefault(name, []).append(row.problem.shape)
    if whys:
        lines = [f"  {why}; {len(names)} times, first {names[0]}" for why, names in whys.items()]
        yield "\n".join(["Without a time:", *lines])
    if wrong:
        lines = [f"  {name}, {len(names)} times, first {names[0]}" for name, names in wrong.items()]
        yield "\n".join(["Outside the rounding bound, so no rival:", *lines])


# Where the README's table begins and ends.
MARKS = "<!-- measured -->", "<!-- /measured -->"


def write_readme(path: Path, rows: list[Row], text_before: str, text_after: str) -> None:
    """Put the summary between the README's marks and leave the rest alone."""
    before, begin, rest = path.read_text("utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise ValueError(f"{path} has no place for the table: {MARKS[0]} {MARKS[1]}")
    tables = [table for table in (markdown(rows), networks_markdown(rows)) if table]
    new = "\n\n".join([f"{begin}\n{text_before}", *tables, f"{text_after}\n{end}"])
    path.write_text(before + new + after, "utf-8")


def markdown(rows: list[Row]) -> str:
    """The summary as a table, layer and function in one cell."""
    shown = {key: column for key, column in COLUMNS.items() if key != "layers"}
    heads = ["set", "type", "threads", "layers", *(title for title, _ in shown.values())]
    lines = [heads, ["---"] * len(heads)]
    for (name, dtype, threads), group in groups(rows).items():
        found = {own: figures(group, own) for own in ours.OURS}
        cells = [
            " / ".join(dict.fromkeys(_figure(found[own][key], show) for own in ours.OURS))
            for key, (_, show) in shown.items()
        ]
        lines.append([name, dtype, str(threads), str(len(group)), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def networks_markdown(rows: list[Row]) -> str:
    """Milliseconds of every whole network, ours and the peers', and the speed over the best of these."""
    rows = [row for row in rows if isinstance(row.problem, Network)]
    if not rows:
        return ""
    names = dict.fromkeys(name for row in rows for name in row.entries)
    rivals = [name for name in names if name in peers.PEERS]
    threads = sorted({row.threads for row in rows})
    heads = ["network, ms"]
    for count in threads:
        heads += [f"prepared, {count} thr.", *rivals, "over the best", "% limit"]
    lines = [heads, ["---"] * len(heads)]
    for (name, dtype, label), group in _by_network(rows).items():
        cells = [f"{label} ({name}, {dtype})"]
        for count in threads:
            cells += _network_cells(group.get(count), rivals)
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _by_network(rows: list[Row]) -> dict[tuple[str, str, str], dict[int, Row]]:
    """The rows of a set, element type and label, by threads."""
    found: dict[tuple[str, str, str], dict[int, Row]] = {}
    for row in rows:
        found.setdefault((row.set, row.dtype, row.label), {})[row.threads] = row
    return found


def _network_cells(row: Row | None, rivals: list[str]) -> list[str]:
    if row is None:
        return [NONE] * (len(rivals) + 3)
    times = [_figure(row.seconds(name), _milliseconds) for name in ("layer", *rivals)]
    return [*times, _figure(row.ratio("layer"), _times), _figure(row.percent("layer"), _percent)]
