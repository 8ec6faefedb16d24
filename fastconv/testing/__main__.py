"""`python -m fastconv.testing RUN`: the command."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import platform
import sys
from pathlib import Path

import fastconv.testing
from fastconv._cli import CommandError, positive
from fastconv.testing._records import Records
from fastconv.testing._run import MOST_VIOLATIONS, Run, Tally, explained, perform
from fastconv.testing._scorecard import page


def runs() -> dict[str, Run]:
    """All runs by name: the modules of this package that define RUN, in the order of the alphabet."""
    found = {}
    for module in pkgutil.iter_modules(fastconv.testing.__path__):
        if not module.name.startswith("_"):
            found[module.name] = importlib.import_module(f"fastconv.testing.{module.name}")
    return {name: module.RUN for name, module in found.items() if hasattr(module, "RUN")}


def main(arguments: list[str] | None = None) -> None:
    """Does what the arguments say. SystemExit with 1 where a promise is broken, 2 for bad arguments."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status = options.act(options)
    except (CommandError, OSError) as error:
        parser.exit(2, f"fastconv.testing: {error}\n")
    except KeyboardInterrupt:
        goes_on = f"; goes on with --state {options.state}" if options.state else ""
        parser.exit(130, f"interrupted{goes_on}\n")
    if status:
        parser.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastconv.testing", description=fastconv.testing.__doc__
    )
    commands = parser.add_subparsers(metavar="RUN", required=True)
    for name, run in runs().items():
        text = sys.modules[f"fastconv.testing.{name}"].__doc__ or ""
        command = _command(commands, name, text, run.cases)
        command.add_argument("--replay", metavar="LINE", help="check this one case")
        command.set_defaults(act=_one, names=[name])
    everything = _command(commands, "all", "Every run, one after another.", None)
    everything.set_defaults(act=_all, names=list(runs()))
    card = commands.add_parser("scorecard", help="a page of what runs recorded")
    card.add_argument("--state", type=Path, metavar="FILE", required=True, help="their records")
    card.add_argument("--output", type=Path, metavar="PAGE", required=True)
    card.set_defaults(act=_scorecard)
    return parser


def _command(commands, name: str, text: str, cases: int | None) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text.partition("\n")[0].rstrip("."),
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    if cases is not None:
        add("--cases", type=positive, help=f"how many in all (default: {cases}, as in CI)")
    add("--full", action="store_true", help="as many as in a full run")
    add("--processes", type=positive, metavar="N", help="workers (default: one for each CPU)")
    add("--state", type=Path, metavar="FILE", help="record there; go on with what it holds")
    return command


def _one(options: argparse.Namespace) -> int:
    (name,) = options.names
    if options.replay is not None:
        return _replay(runs()[name], options.replay)
    return _performed(name, options, Records(options.state))


def _all(options: argparse.Namespace) -> int:
    records = Records(options.state)
    options.cases = None
    return max([_performed(name, options, records) for name in options.names])


def _scorecard(options: argparse.Namespace) -> int:
    cpus = len(os.sched_getaffinity(0))
    machine = f"{platform.machine()} with {', '.join(fastconv.isas())}, {cpus} CPUs"
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(page(Records(options.state), runs(), machine), "utf-8")
    return 0


def _replay(run: Run, line: str) -> int:
    try:
        counts = run.check(line)
    except Exception as error:
        print(f"VIOLATION: {explained(error)}")
        return 1
    print("holds:", _counted(counts))
    return 0


def _performed(name: str, options: argparse.Namespace, records: Records) -> int:
    run = runs()[name]
    cases = options.cases or (run.full if options.full else run.cases)
    tally = records.tally(name)
    perform(f"fastconv.testing.{name}", cases, tally, options.processes, lambda _: records.save())
    print(f"{name}: {_summary(tally)}", flush=True)
    if len(tally.violations) >= MOST_VIOLATIONS:
        print(f"{name}: stopped at {MOST_VIOLATIONS} violations")
    return int(bool(tally.violations))


def _summary(tally: Tally) -> str:
    counts = f" ({_counted(tally.counts)})" if tally.counts else ""
    time = f"{tally.seconds:.0f} s"
    return f"{tally.cases} cases{counts}, {len(tally.violations)} violations, {time}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counts.items())


if __name__ == "__main__":
    main()
