"""The picture of a comparison: each layer's speed over the best peer, and its share of the limit."""

from pathlib import Path

from benchmarks import ours
from benchmarks.standings import Row, groups

WIN, LOSS, FMA, COPY = "#2a6f97", "#d1495b", "#e09f3e", "#5f8f5f"
GAP = 3  # places between two sets
TICKS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]


def plot(rows: list[Row], path: Path) -> None:
    """A row of panels for each element type and number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fastconv"  # the same picture is the same file
    from matplotlib import pyplot

    tables: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        tables.setdefault((row.dtype, row.threads), []).append(row)
    figure, panels = pyplot.subplots(
        2 * len(tables),
        figsize=(12, 7.5 * len(tables)),
        height_ratios=[3, 2] * len(tables),
        squeeze=False,
        layout="constrained",
    )
    for i, ((dtype, threads), table) in enumerate(tables.items()):
        title = f"float{dtype[1:]}, {threads} thread{'s' * (threads > 1)}"
        _speeds(panels[2 * i, 0], table, title)
        _percents(panels[2 * i + 1, 0], table, title)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _speeds(panel, rows: list[Row], title: str) -> None:
    """Layers sorted within each set; what stands above the line of 1 is faster than everyone."""
    ends = []
    for start, name, group in _places(rows, "ratio"):
        for contender, marker in zip(ours.OURS, "o_", strict=True):
            points = [(start + i, row.ratio(contender)) for i, row in enumerate(group)]
            points = [point for point in points if point[1]]
            ends += [ratio for _, ratio in points]
            colours = [WIN if ratio >= 1 else LOSS for _, ratio in points]
            x, y = zip(*points, strict=True) if points else ((), ())
            panel.scatter(x, y, c=colours, s=14, marker=marker, linewidths=0.8)
        _name(panel, start, len(group), name)
    panel.axhline(1, color="black", linewidth=0.8)
    panel.set_yscale("log")
    ticks = [t for t in TICKS if min(ends, default=1) / 2 <= t <= 2 * max(ends, default=1)]
    panel.set_yticks(ticks, [f"{t:g}x" for t in ticks])
    panel.minorticks_off()
    panel.set_ylabel("speed over the best peer")
    panel.set_title(f"{title}: dots, layers prepared once; dashes, functions", loc="left")


def _percents(panel, rows: list[Row], title: str) -> None:
    """The same for per cent of the roofline, in two colours for its two sides."""
    for start, name, group in _places(rows, "percent"):
        for limit, colour in (("FMA", FMA), ("copy", COPY)):
            points = [
                (start + i, max(row.percent(own) or 0 for own in ours.OURS))
                for i, row in enumerate(group)
                if row.limit == limit
            ]
            x, y = zip(*points, strict=True) if points else ((), ())
            panel.scatter(x, y, c=colour, s=14, linewidths=0, label=None if start else limit)
        _name(panel, start, len(group), name)
    panel.axhline(100, color="black", linewidth=0.8)
    panel.set_ylim(0, 130)
    panel.set_ylabel("per cent of the limit")
    panel.scatter([], [], c=FMA, s=14, label="arithmetic is the limit")
    panel.scatter([], [], c=COPY, s=14, label="memory is")
    handles, labels = panel.get_legend_handles_labels()
    panel.legend(
        handles[-2:], labels[-2:], loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False
    )
    panel.set_title(f"{title}: share of what the machine can do", loc="left")


def _places(rows: list[Row], by: str):
    """(first place, set, its rows sorted by a figure of the first of ours that has it)."""
    start = 0
    for (name, _, _), group in groups(rows).items():
        figure = {
            id(row): next(filter(None, (getattr(row, by)(own) for own in ours.OURS)), 0)
            for row in group
        }
        yield start, name, sorted(group, key=lambda row: figure[id(row)])
        start += len(group) + GAP


def _name(panel, start: int, length: int, name: str) -> None:
    """The name of a set below its layers, and a line before them."""
    if start:
        panel.axvline(start - (GAP + 1) / 2, color="lightgrey", linewidth=0.8)
    panel.set_xlim(-GAP, start + length + GAP - 1)
    ticks = [*panel.get_xticks()] if start else []
    labels = [label.get_text() for label in panel.get_xticklabels()] if start else []
    panel.set_xticks([*ticks, start + (length - 1) / 2], [*labels, name], rotation=30, ha="right")
    panel.grid(axis="y", alpha=0.3)
