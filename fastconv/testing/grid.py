"""Integers, compared with ==: every algorithm, instruction set and element type.

The values are so small that no partial sum needs rounding, in any order.
"""

from __future__ import annotations

import random

import numpy as np

import fastconv as fc
from fastconv import reference
from fastconv.testing._cases import draw, parse
from fastconv.testing._run import Run, Violation


def line(index: int) -> str:
    return str(draw(random.Random(index), 20_000))


def check(line: str) -> dict[str, int]:
    case, calls = parse(line), 0
    expected = case.reference(reference, *case.integers(np.float64))
    for dtype in (np.float32, np.float64):
        x, w, b = case.integers(dtype)
        for isa in fc.isas():
            with fc.using(isa=isa):
                y = case.run(x, w, b)
            if not np.array_equal(y, expected):
                raise Violation(f"{isa} {y.dtype}: {np.sum(y != expected)} of {y.size} differ")
            calls += 1
    return {"calls": calls}


RUN = Run(line, check, cases=60_000, full=1_000_000, promise="integer sums are exact")
