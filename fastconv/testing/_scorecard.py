"""The scorecard: what the last full runs showed, as a page of the documentation."""

from __future__ import annotations

from fastconv.testing._records import Records
from fastconv.testing._run import Run, Tally

PAGE = """# Scorecard

What fastconv promises is in [SECURITY.md](../SECURITY.md); this is what the runs of `python -m fastconv.testing`
found when they tested it. The page is made by the runs, of what they recorded:

```sh
python -m fastconv.testing all --full --state runs.json       # goes on where it was stopped
python -m fastconv.testing scorecard --state runs.json --output docs/scorecard.md
```

Build {build}; {machine}.

| run | cases | | violations | what holds |
|---|---:|---|---:|---|
{rows}

Times are those of all workers together on this machine. A run alone, or one case of it:

```sh
python -m fastconv.testing RUN --cases N
python -m fastconv.testing RUN --replay 'LINE'
```
"""


def page(records: Records, runs: dict[str, Run], machine: str) -> str:
    rows = [
        _row(name, runs[name], tally) for name, tally in records.tallies.items() if name in runs
    ]
    return PAGE.format(build=records.build, machine=machine, rows="\n".join(rows))


def _row(name: str, run: Run, tally: Tally) -> str:
    counts = [f"{_grouped(n)} {what}" for what, n in tally.counts.items()]
    minutes = f"{tally.seconds / 60:.1f} min"
    found = ", ".join([*counts, minutes])
    return (
        f"| {name} | {_grouped(tally.cases)} | {found} | {len(tally.violations)} | {run.promise} |"
    )


def _grouped(n: int) -> str:
    return f"{n:,}".replace(",", " ")
