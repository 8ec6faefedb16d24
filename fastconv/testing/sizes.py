"""Sizes at the ends of 16, 31, 32, 47 and 63 bits: judged and planned at once, nothing wraps.

Arrays that stand for up to 2**60 elements have one, repeated. A call is planned for every algorithm and
instruction set, or refused with ValueError or MemoryError, within a second; what is planned has the size
and the number of operations that Python's integers give, and leases at most 4 MB a part.

    conv2d x=1,3,65537,4 w=8,3,1,65535 stride=65536 padding=4294967295 dilation=1 groups=1 float32
"""

from __future__ import annotations

import random
import time
from math import prod
from typing import Any

import numpy as np

import fastconv as fc
from fastconv import _arguments, _core
from fastconv.testing._run import Run, Violation

USUAL = (1, 1, 1, 2, 3, 7, 16, 33)
ENDS = tuple(2**bits + more for bits in (8, 15, 16, 24, 31, 32, 40, 47, 62) for more in (-1, 0, 1))
BEYOND = (0, -1, 2**63 - 1, 2**63, -(2**63), 2**64, 2**64 + 1)
PARTS_LIMIT = 4 << 20  # bytes of workspace a part may have
ALIGNMENT = 64
SECONDS = 1.0  # of processor time: what else the machine does counts for nothing
OPS = tuple(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)) + tuple(
    f"{kind}_pool{d}d" for kind in ("max", "avg") for d in (1, 2, 3)
)


def line(index: int) -> str:
    rng = random.Random(index)

    def number(ends: float) -> int:
        drawn = rng.random()
        return rng.choice(BEYOND if drawn < ends / 12 else ENDS if drawn < ends else USUAL)

    op = rng.choice(OPS)
    dims, conv, transposed = int(op[-2]), "conv" in op, "transpose" in op
    groups = max(1, number(0.1)) if conv else 1
    icg, ocg = (max(1, number(0.15)) for _ in range(2))
    x = (max(0, number(0.1)), groups * icg, *(max(1, number(0.3)) for _ in range(dims)))
    kernel = tuple(max(1, number(0.2)) for _ in range(dims))
    w = (groups * icg, ocg, *kernel) if transposed else (groups * ocg, icg, *kernel)
    words = [op, "x=" + _listed(x), "w=" + _listed(w if conv else kernel)]
    for name, ends in (("stride", 0.3), ("padding", 0.3), ("dilation", 0.2)):
        least = 0 if name == "padding" else 1
        values = [number(ends) if rng.random() < 0.5 else least for _ in range(dims)]
        words.append(f"{name}={_listed(values)}")
    words.append(f"groups={groups if rng.random() < 0.97 else number(0.5)}")
    return " ".join([*words, rng.choice(("float32", "float64"))])


def _listed(values) -> str:
    return ",".join(map(str, values))


def check(line: str) -> dict[str, int]:
    op, *words, dtype = line.split()
    given: dict[str, Any] = {}
    for word in words:
        name, _, values = word.partition("=")
        given[name] = tuple(map(int, values.split(",")))
    one = np.ones((), dtype)
    conv = "conv" in op
    try:
        x = np.broadcast_to(one, given.pop("x"))
        w = np.broadcast_to(one, given["w"]) if conv else given["w"]
    except ValueError:  # more than NumPy's indices can count
        return {"untested": 1}
    del given["w"]
    (groups,) = given.pop("groups")
    options = given | ({"groups": groups} if conv else {})
    if "avg" in op:
        del options["dilation"]
    planned = refused = 0
    for isa in _core.isas():
        for algorithm in (None, *_core.algorithms()) if conv else (None,):
            with fc.using(isa=isa, threads=2):
                forced = {"algorithm": algorithm} if algorithm else {}
                if _planned(op, x, w, options | forced):
                    planned += 1
                else:
                    refused += 1
        if not planned:
            break  # judged wrong before any ISA was asked
    return {"planned": planned, "refused": refused}


def _planned(op: str, x, w, options: dict[str, Any]) -> bool:
    began = time.thread_time()
    try:
        plan = fc.explain(op, x, w, **options)
    except (ValueError, MemoryError):
        plan = None
    if time.thread_time() - began > SECONDS:
        raise Violation(f"{options}: judged and planned in {time.thread_time() - began:.2f} s")
    if plan is None:
        return False
    problem = plan.problem
    out = prod(expected_size(op, problem, x, w, options))
    if prod(problem.out_size) != out:
        raise Violation(f"{options}: the result has size {problem.out_size}")
    if not 0 <= plan.workspace_bytes <= plan.threads * PARTS_LIMIT + ALIGNMENT:
        raise Violation(f"{options}: {plan.workspace_bytes} bytes of workspace")
    if isinstance(problem, _arguments.ConvProblem):
        places = prod(x.shape[2:]) if problem.transposed else out
        flops = 2 * problem.batch * problem.oc * places * prod(w.shape) // w.shape[0]
        if problem.transposed:
            flops = 2 * problem.batch * places * prod(w.shape)
        if not 0.5 * flops <= plan.flops <= 2 * flops + 2 * problem.batch * problem.oc * out:
            raise Violation(f"{options}: {plan.flops} operations, not {flops}")
    return True


def expected_size(op: str, problem, x, w, options: dict[str, Any]) -> list[int]:
    kernel = w.shape[2:] if "conv" in op else w
    axes = zip(
        x.shape[2:], kernel, options["stride"], options["padding"],
        options.get("dilation", (1,) * problem.dims), strict=True,
    )  # fmt: skip
    if problem.transposed if "conv" in op else False:
        return [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in axes]
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]


RUN = Run(
    line, check, cases=20_000, full=500_000,
    promise="sizes of any magnitude are judged and planned within a second, and none wraps",
)  # fmt: skip
