"""Guard pages: no byte is touched beyond an array, nor read from fresh memory before it is written.

Inputs, weights, bias, residuals, indices, results, workspaces and packed weights end at a page that
nobody may touch, or begin behind one; results and workspaces are full of NaN beforehand. A trespass
within the same page shows in the bytes around the array, which are looked at. Results must have the
bits of the same call in ordinary memory, with every algorithm that can do it, on every ISA.

    end float32 a0 packed t1 layer | conv2d n1 c3-5 g1 i9x21 k3x3 s1x1 d1x1 p1x1 q1x1

    end, begin   where the fences are          a     elements between an input and its fence
    t            threads                       packed, apart, backwards   how inputs and results lie
    new, out, residual, layer    the result is allocated, given, has another added; weights are packed
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

import fastconv as fc
from fastconv.testing import _calls
from fastconv.testing._calls import Call
from fastconv.testing._cases import Case
from fastconv.testing._fences import FORMS, SIDES, fenced, guarded
from fastconv.testing._run import Run, Violation

WAYS = ("new", "new", "out", "residual", "layer")


def line(index: int) -> str:
    rng = random.Random(index)
    side, call = SIDES[index % 2], _calls.draw(rng, 20_000)
    words = [side, rng.choice(("float32", "float64")), f"a{rng.choice((0, 0, rng.randrange(16)))}"]
    words += [rng.choice(FORMS), f"t{rng.choice((1, 1, 2, 3))}"]
    words.append(rng.choice(WAYS) if isinstance(call, Case) else "new")
    return f"{' '.join(words)} | {call}"


def check(line: str) -> dict[str, int]:
    words, _, call = line.partition(" | ")
    side, dtype, away, form, threads, way = words.split()
    call = _calls.parse(call)
    arrays, lying = [], []
    if isinstance(call, Call):
        originals = call.arrays(np.dtype(dtype))
    else:
        originals = call.reals(np.dtype(dtype))
    for a in originals:
        # slopes, means, weights and biases are read at any strides but packed, as a layer has them
        shape = form if a is originals[0] else "packed"
        fence, view = (None, None) if a is None else fenced(a, side, shape, int(away[1:]))
        lying.append((fence, view))
        arrays.append(view)
    calls = 0
    with fc.using(threads=int(threads[1:])):
        for engine in engines(call):
            with fc.using(**engine):
                calls += _compare(call, way, originals, arrays, side, form, engine)
    for (fence, view), a in zip(lying, originals, strict=True):
        if fence is not None:
            if not np.array_equal(view, a, equal_nan=True):
                raise Violation("an input is changed")
            fence.check(view)
    return {"calls": calls}


def engines(call: Case | Call) -> Iterator[dict[str, str]]:
    """What `using` takes: every ISA, for a convolution with every algorithm."""
    for isa in fc.isas():
        if isinstance(call, Call) and call.op != "linear":
            yield {"isa": isa}
        else:
            yield from ({"isa": isa, "algorithm": name} for name in fc.algorithms()[:-1])


def _compare(call, way, originals, arrays, side, form, engine) -> int:
    """One call in ordinary memory and between fences; 0 where the algorithm cannot do it."""
    given, fence, view = {}, None, None
    try:
        expected = _called(call, way, originals)
        if way in ("out", "residual"):
            fence, view = fenced(np.full_like(expected[0], np.nan, order="C"), side, form)
            given = {way: view}
        if way == "residual":
            view[...] = originals[0].flat[0]
            expected = _called(call, way, originals, residual=view.copy())
        with guarded(side):
            found = _called(call, way, arrays, **given)
            for a, b in zip(found, expected, strict=True):
                if a.dtype != b.dtype or not np.array_equal(a, b, equal_nan=True):
                    raise Violation(f"{engine}: {np.sum(a != b)} of {b.size} results differ")
            del found, a
    except ValueError as refusal:
        if "cannot do this:" not in str(refusal):
            raise
        return 0
    if fence is not None:
        fence.check(view)
    return 1


def _called(call, way: str, arrays, **given) -> tuple[np.ndarray, ...]:
    if isinstance(call, Call):
        return call.run(*arrays)
    if way == "layer":
        return (_layer(call, *arrays),)
    if call.last and "out" in given:
        given["out"] = np.moveaxis(given["out"], 1, -1)
    return (call.run(*arrays, **given),)


def _layer(case: Case, x, w, b) -> np.ndarray:
    """The convolution by a layer, which packs its weights."""
    kind = "ConvTranspose" if case.transposed else "Conv"
    given = dict(case.options(), bias=b is not None, dtype=w.dtype)
    layer = getattr(fc.nn, f"{kind}{case.dims}d")(case.ic, case.oc, case.kernel, **given)
    layer.weight = w
    if b is not None:
        layer.bias = b
    return layer(x)


RUN = Run(
    line, check, cases=10_000, full=500_000,
    promise="no byte is touched beyond an array, and what memory holds beforehand changes no bit",
)  # fmt: skip
