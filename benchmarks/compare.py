"""fastconv side by side with every peer that is installed: `python benchmarks/compare.py --help`.

README.md beside this file says what is measured, how, and how to read the tables.
"""

import argparse
import json
import os
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
from benchmarks import (
    contest,
    drawing,
    files,
    machine,
    networks,
    peers,
    problems,
    standings,
    workers,
)
from benchmarks.problems import Layer

TYPES = {"float32": "f32", "float64": "f64"}
README = ROOT / "README.md"
ALT = "Speed over the best peer and per cent of the machine's limit, layer by layer"
AGAIN = (
    "`python benchmarks/compare.py --readme` measures it again; "
    "[benchmarks/README.md](benchmarks/README.md) says how."
)
SAMPLE, QUICK_SAMPLE = 20, 3
PEERS = ["torch", "onednn", "onnxruntime", "openvino", "filter2d"]


def main(arguments: list[str] | None = None) -> None:
    """Measure what the options ask for, or load it; then report, in all ways asked for."""
    options = _options(arguments)
    rows, facts = _loaded(options.load) if options.load else _measured(options)
    print("", _conditions(facts), standings.text(rows, options.rows), sep="\n\n")
    if options.json:
        _write(options.json, rows, facts)
    if options.plot:
        drawing.plot(rows, options.plot)
    if options.readme:
        pictures = [f"![{ALT}]({path.as_posix()})" for path in _within_the_clone(options.plot)]
        below = "\n\n".join([standings.HOW_TO_READ, *pictures, AGAIN])
        standings.write_readme(README, rows, _conditions(facts), below)


def _within_the_clone(path: Path | None) -> list[Path]:
    """The path from the root on, if there is one."""
    if path is None or not path.resolve().is_relative_to(ROOT):
        return []
    return [path.resolve().relative_to(ROOT)]


def _loaded(paths: list[Path]) -> tuple[list[standings.Row], dict]:
    """The rows of earlier runs; of equal ones the last counts."""
    documents = [json.loads(path.read_text("utf-8")) for path in paths]
    rows = [standings.Row.from_json(row) for each in documents for row in each["rows"]]
    unique = {(row.set, row.dtype, row.threads, row.problem): row for row in rows}
    return list(unique.values()), documents[-1]["facts"]


def _write(path: Path, rows: list[standings.Row], facts: dict) -> None:
    """JSON, a line a layer."""
    lines = ",\n".join(json.dumps(row.as_json()) for row in rows)
    path.write_text(f'{{"facts": {json.dumps(facts)},\n"rows": [\n{lines}\n]}}\n', "utf-8")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    add = parser.add_argument
    add(
        "--set",
        nargs="+",
        metavar="NAME",
        choices=["all", "networks", "onnx", *problems.set_names()],
        default=["all"],
        help="all (networks, files, their layers, every class), networks (as a whole), "
        "onnx (files of the packages onnx and rapidocr), " + ", ".join(problems.set_names()),
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
        metavar="N",
        help="at most N layers a set, drawn by how many models have them; 0: all (default "
        f"{SAMPLE}, {QUICK_SAMPLE} with --quick)",
    )
    add("--seed", type=int, default=0, help="of the sample")
    counts = sorted({1, min(2, fastconv.get_num_threads())})
    add("--threads", nargs="+", type=int, default=counts, metavar="N", help="default 1 2")
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
    add("--rounds", type=int, default=5, help="of which the best counts (default 5)")
    add("--no-cold", dest="cold", action="store_false", help="leave out the cold weights")
    add(
        "--quick", action="store_true", help="three layers a set, one thread count, no cold weights"
    )
    add("--rows", action="store_true", help="also print every layer")
    add("--json", type=Path, metavar="FILE", help="write all that was measured")
    add("--plot", type=Path, metavar="FILE", help="draw it (SVG, PNG or PDF; needs matplotlib)")
    add("--readme", action="store_true", help="write the table into README.md, between its marks")
    add("--load", nargs="+", type=Path, metavar="FILE", help="report such files; measure nothing")
    options = parser.parse_args(arguments)
    if options.sample is None:
        options.sample = QUICK_SAMPLE if options.quick else SAMPLE
    if options.quick:
        options.rounds, options.cold, options.threads = 3, False, options.threads[-1:]
    return options


def _measured(options: argparse.Namespace) -> tuple[list[standings.Row], dict]:
    from tqdm import tqdm

    if options.isa:
        os.environ["FASTCONV_ISA"] = options.isa  # of the workers
    jobs = [
        (name, layer, TYPES[dtype], threads)
        for name, layers in _sets(options)
        for dtype in options.dtype
        for layer in layers
        for threads in options.threads
    ]
    how = {"peers": options.peers, "rounds": options.rounds, "cold": options.cold}
    rows = []
    with fastconv.using(isa=options.isa), tqdm(jobs, unit="layer", smoothing=0.05) as progress:
        try:
            for name, layer, dtype, threads in progress:
                progress.set_postfix_str(f"{layer.problem.label}, {threads} threads")
                rows.append(contest.hold(name, layer, dtype, threads, **how))
        except KeyboardInterrupt:
            progress.write("interrupted: what follows is what was measured so far")
        finally:
            workers.close_all()
        return rows, _facts(options, rows)


def _sets(options: argparse.Namespace) -> Iterator[tuple[str, list[Layer]]]:
    """The layers to measure, by the name of their set."""
    sets = {path.stem: problems.distinct(problems.read(path)) for path in options.shapes}
    names = ["networks", "onnx", *problems.all_sets()] if "all" in options.set else options.set
    for name, layers in (sets or {name: _set(name) for name in names}).items():
        yield name, problems.draw(layers, options.sample or len(layers), options.seed)


def _set(name: str) -> list[Layer]:
    whole = {"networks": networks.all_networks, "onnx": files.all_files}
    if name in whole:
        return [Layer(network) for network in whole[name]()]
    return problems.layer_set(name)


def _facts(options: argparse.Namespace, rows: list[standings.Row]) -> dict:
    """Where, when and with what."""
    peaks = {
        f"{dtype}, {threads}": machine.fma_peak(dtype, threads) / 1e9
        for dtype, threads in sorted({(row.dtype, row.threads) for row in rows})
    }
    versions = {name: workers.version(name) for name in options.peers}
    return machine.facts() | {"versions": versions, "fma_peak": peaks}


def _conditions(facts: dict) -> str:
    versions = {"fastconv": facts["fastconv"], "NumPy": facts["numpy"], **facts["versions"]}
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    peaks = ", ".join(f"{peak:.0f} GF/s ({of})" for of, peak in facts["fma_peak"].items())
    return (
        f"{facts['date']}, {facts['cpu']}, {facts['cpus']} CPUs, {facts['isa']}. "
        f"FMA peak by element type and threads: {peaks}.\n"
        f"{packages}."
    )


if __name__ == "__main__":
    main()
