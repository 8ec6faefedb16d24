"""fastconv side by side with every peer that is installed: `python benchmarks/compare.py --help`.

README.md beside this file says what is measured, how, and how to read the tables.
"""

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # As a script, Python looks for modules beside this file, where some have common names. The
    # root comes last: fastconv may be installed from elsewhere.
    sys.path[0:1] = []
    sys.path.append(str(ROOT))

import fastconv
from benchmarks import checking, machine, peers, problems, standings, workers
from benchmarks.ours import OURS
from benchmarks.problems import Layer

TYPES = {"float32": "f32", "float64": "f64"}
PEERS = ["torch", "onednn", "onnxruntime", "openvino", "filter2d"]
# A round lasts so many seconds, or one call.
ROUND = 0.004
COLD_ROUNDS = 3


def main(arguments: list[str] | None = None) -> None:
    """Measure what the options ask for, or load it; then report, in all ways asked for."""
    options = _options(arguments)
    if options.load:
        documents = [json.loads(path.read_text("utf-8")) for path in options.load]
        rows = [standings.Row.from_json(row) for each in documents for row in each["rows"]]
        facts = documents[0]["facts"]
    else:
        rows, facts = _measured(options)
    print(_heading(facts))
    print(standings.text(rows, options.rows))
    if options.json:
        document = {"facts": facts, "rows": [row.as_json() for row in rows]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    add = parser.add_argument
    add(
        "--set",
        nargs="+",
        metavar="NAME",
        choices=["all", *problems.set_names()],
        default=["all"],
        help="all (networks and every class), " + ", ".join(problems.set_names()),
    )
    add(
        "--shapes",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="CSV files of layers instead of sets",
    )
    add(
        "--sample",
        type=int,
        default=24,
        metavar="N",
        help="at most N layers a set, drawn by how many models have them; 0: all (default 24)",
    )
    add("--seed", type=int, default=0, help="of the sample")
    add("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    add("--dtype", nargs="+", choices=TYPES, default=["float32"])
    add("--isa", choices=fastconv.isas(), help="fastconv's; peers take what they like")
    add(
        "--peers",
        nargs="*",
        choices=peers.PEERS,
        metavar="NAME",
        default=[name for name in PEERS if name in peers.installed()],
        help="of " + ", ".join(peers.PEERS),
    )
    add("--rounds", type=int, default=5, help="of which the median counts (default 5)")
    add("--no-cold", dest="cold", action="store_false", help="leave out the cold weights")
    add(
        "--quick", action="store_true", help="three layers a set, one thread count, no cold weights"
    )
    add("--rows", action="store_true", help="also print every layer")
    add("--json", type=Path, metavar="FILE", help="write all that was measured")
    add("--load", nargs="+", type=Path, metavar="FILE", help="report such files; measure nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.sample, options.rounds, options.cold = 3, 3, False
        options.threads = options.threads[-1:]
    return options  # fmt: skip


def _measured(options: argparse.Namespace) -> tuple[list[standings.Row], dict]:
    from tqdm import tqdm

    if options.isa:
        os.environ["FASTCONV_ISA"] = options.isa  # of the workers
    jobs = [
        (name, layer, TYPES[dtype], threads)
        for name, layers in _sets(options)
        for dtype in options.dtype
        for threads in options.threads
        for layer in layers
    ]
    rows = []
    try:
        with fastconv.using(isa=options.isa), tqdm(jobs, unit="layer", smoothing=0.05) as progress:
            for name, layer, dtype, threads in progress:
                progress.set_postfix_str(f"{name}: {layer.problem.label}, {threads} threads")
                rows.append(_contest(name, layer, dtype, threads, options))
        return rows, _facts(options)
    finally:
        workers.close_all()


def _sets(options: argparse.Namespace) -> Iterator[tuple[str, list[Layer]]]:
    """The layers to measure, by the name of their set."""
    sets = {path.stem: problems.distinct(problems.read(path)) for path in options.shapes}
    names = problems.all_sets() if "all" in options.set else options.set
    for name, layers in (sets or {name: problems.layer_set(name) for name in names}).items():
        yield name, problems.draw(layers, options.sample or len(layers), options.seed)


def _contest(
    name: str, layer: Layer, dtype: str, threads: int, options: argparse.Namespace
) -> standings.Row:
    """Everyone's times on one layer: prepared, compared with the reference, measured in turns."""
    problem = layer.problem
    team = {name: workers.get(name, threads) for name in [*OURS, *options.peers]}
    entries = _prepared(team, problem, dtype)
    able = [name for name, entry in entries.items() if not entry.why]
    calls = {name: team[name].ask("calls", ROUND) for name in able}
    turns = random.Random(problem.shape)
    for _ in range(options.rounds):
        for each in turns.sample(able, len(able)):
            entries[each].rounds.append(team[each].ask("time", calls[each]))
    for _ in range(COLD_ROUNDS if options.cold else 0):
        for each in turns.sample(able, len(able)):
            entries[each].cold.append(team[each].ask("cold"))
    limit, floor = machine.limit(problem, dtype, threads)
    return standings.Row(name, problem, layer.count, dtype, threads, limit, floor, entries)


def _prepared(team: dict, problem: problems.Problem, dtype: str) -> dict[str, standings.Entry]:
    """Everyone's call built and checked. All at once, for nothing is timed here."""
    entries = {name: standings.Entry() for name in team}
    for worker in team.values():
        worker.send("prepare", str(problem), dtype)
    for name, worker in team.items():
        try:
            checking.compare(problem, dtype, worker.receive())
        except checking.OutsideTheBound:
            if name in OURS:
                raise
            entries[name].inexact = True
        except ValueError as error:
            entries[name].why = str(error).removeprefix("cannot: ")
    return entries


def _facts(options: argparse.Namespace) -> dict:
    """Where, when and with what."""
    return machine.facts() | {
        "isa": options.isa or fastconv.isas()[0],
        "versions": {name: workers.version(name) for name in options.peers},
    }


def _heading(facts: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"\n{facts['cpu']}, {facts['cpus']} CPUs, {facts['isa']}, {facts['date']}\n"
        f"fastconv {facts['fastconv']}, NumPy {facts['numpy']}, {versions}\n"
    )


if __name__ == "__main__":
    main()
