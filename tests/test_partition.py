"""Parts are even work for more threads than this machine has: no hardware is needed to count it.

The harness runs the parts of a plan one by one and counts what each writes. An output is one chain
of the same length everywhere, so outputs are multiply-adds.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import harness
from cases import FUSED, Case, parse

SHAPES = Path(__file__).parents[1] / "benchmarks" / "shapes" / "networks"
NETWORKS = ("resnet50", "mobilenet_v2", "vgg16")
THREADS = (*range(2, 17), 20, 24, 32)
LARGE = 50e6
EVEN = 1.25  # most work of a part, over the mean, for up to 16 threads
UNEVEN = 2  # for more, and the exceptions

#: Algorithms whose parts may be UNEVEN for some numbers of threads, and why.
EXCEPTIONS = {
    "direct": "items are bands of whole rows, and a finer cut would copy more of the rows they share",
    "channels": "items are whole panels of output channels: half a panel costs as much as one",
}


def layers() -> list[str]:
    """The dense layers of the networks with 50 MFLOP or more, as cases."""
    lines = []
    for network in NETWORKS:
        with (SHAPES / f"{network}.csv").open() as file:
            lines += [_line(row) for row in csv.DictReader(file) if row["op"] == "conv2d"]
    return [line for line in dict.fromkeys(lines) if _flops(parse(line)) >= LARGE]


def _line(row: dict[str, str]) -> str:
    return (
        "conv2d c{ic}-{oc} g{groups} i{ih}x{iw} k{kh}x{kw} s{sh}x{sw} p{ph}x{pw} nobias"
    ).format(**row)


def _flops(case: Case) -> float:
    height, width = case.out_size
    taps = case.kernel[0] * case.kernel[1]
    return 2 * case.oc * height * width * case.ic // case.groups * taps


@pytest.mark.parametrize("isa", FUSED)
@pytest.mark.parametrize("line", layers())
def test_parts_are_even(line, isa):
    case = parse(line)
    answers = harness.run("native", [harness.parts_line(case, isa, n) for n in THREADS])
    for threads, answer in zip(THREADS, answers, strict=True):
        written = [int(n) for n in harness.bits(answer).split()]
        assert sum(written) == case.oc * case.out_size[0] * case.out_size[1]
        algorithm = answer.partition(":")[0].removeprefix("ok ")
        most = UNEVEN if algorithm in EXCEPTIONS or threads > 16 else EVEN
        assert max(written) <= most * sum(written) / threads, (algorithm, threads, written)
