"""Not a byte is read or written beyond an array, nor read from a workspace before it is written.

Inputs, results and workspaces end where a page begins that nobody may touch, or begin where one
ends; around them and in them lie bytes that would show: NaN where something is to be written. A
trespass kills the process, so the cases run in one of their own, which names each before it runs.
"""

import os
import signal
import subprocess
import sys
from math import prod

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import cases
import fastconv as fc
from cases import DTYPES, parse
from fastconv import _memory
from fastconv.testing import guards
from fastconv.testing._fences import ALIGNMENT, FORMS, SIDES, Allocator, fenced

CONVOLUTIONS = cases.chosen(
    cases.NASTY,
    cases.generated(60, seed=5, most_work=50_000),
    [case for case in cases.BLOCKED if case.work < 500_000],
)
IN_EVERY_FORM = [
    parse(line)
    for line in (
        "conv2d c5-9 i9x23 k3 p1 n2",
        "conv2d c5-9 i9x23 k1",
        "conv2d c3-4 i9x21 k3 s2 p1",
        "conv2d c4-8 g4 i7x19 k3 p1",
        "conv2d c4-4 g4 i9x40 k3 s2 p1",
        "conv2d c4-6 g2 i9x8 k3x2 s3 d2 p1",
        "conv1d c3-5 i70 k5 s2 p2",
        "conv3d c3-4 i4x5x6 k3 p1",
        "conv_transpose2d c4-6 g2 i5x9 k4 s2 p1",
        "conv_transpose2d c4-4 g4 i5x19 k3 s2 p1",
    )
]
#: Other functions of the engine: name, shape of the input, options.
OTHERS = [
    ("max_pool2d", (2, 3, 9, 37), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("max_pool2d", (1, 3, 9, 37), {"kernel_size": 2, "return_indices": True}),
    ("max_pool2d", (2, 7, 9, 21), {"kernel_size": 3, "padding": 1, "layout": "NHWC"}),
    ("max_pool2d", (1, 6, 9, 5), {"kernel_size": 3, "return_indices": True, "layout": "NHWC"}),
    ("avg_pool2d", (2, 7, 9, 37), {"kernel_size": (3, 5), "padding": 1, "layout": "NHWC"}),
    ("max_pool1d", (1, 3, 70), {"kernel_size": 5, "stride": 1, "dilation": 2}),
    ("max_pool3d", (1, 2, 5, 6, 19), {"kernel_size": 2, "ceil_mode": True}),
    ("avg_pool2d", (2, 3, 9, 37), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("avg_pool2d", (1, 3, 20, 33), {"kernel_size": 7, "stride": 1}),
    ("avg_pool1d", (1, 3, 70), {"kernel_size": 33, "stride": 3}),
    ("avg_pool1d", (1, 3, 130), {"kernel_size": 3, "padding": 1}),
    ("max_pool1d", (1, 3, 203), {"kernel_size": 5, "padding": 2}),
    ("max_pool2d", (1, 66, 19, 20), {"kernel_size": 5, "stride": 1, "padding": 2}),
    ("adaptive_avg_pool2d", (1, 5, 7, 19), {"output_size": 3}),
    ("adaptive_max_pool2d", (1, 5, 7, 19), {"output_size": (2, 5)}),
    ("global_avg_pool", (2, 5, 7, 7), {}),
    ("gelu", (3, 7, 11), {}),
    ("silu", (3, 7, 11), {}),
    ("relu", (5, 13), {}),
    ("softmax", (3, 37), {"dim": -1}),
]


def settle(allocator: Allocator):
    """What was allocated is looked at, and nothing is kept for the next call."""
    allocator.check()
    fc.free_memory()


def run_convolutions(side: str, allocator: Allocator):
    for case in CONVOLUTIONS:
        for dtype in DTYPES:
            print(case, np.dtype(dtype).name, side, flush=True)
            arrays = case.reals(dtype)
            expected = {engine: y.copy() for engine, y in cases.results(case, *arrays)}
            settle(allocator)
            lying = [(None, None) if a is None else fenced(a, side) for a in arrays]
            for engine, y in cases.results(case, *(a for _, a in lying), threads=(1,)):
                np.testing.assert_array_equal(y, expected[engine], engine)
                assert np.isfinite(y).all(), engine  # no NaN of a workspace
                settle(allocator)
            first = next(iter(expected.values()))
            lying.append(fenced(first, side))
            added = lying[-1][1]
            for engine, y in cases.results(case, *(a for _, a in lying[:3]), residual=added):
                np.testing.assert_allclose(y, 2 * expected[engine], 1e-3, 1e-3, err_msg=engine)
                settle(allocator)
            for (fence, view), a in zip(lying, (*arrays, first), strict=True):
                if fence:
                    np.testing.assert_array_equal(view, a)
                    fence.check(view)


def run_forms(side: str, allocator: Allocator):
    for case in IN_EVERY_FORM:
        for form in FORMS:
            for dtype in DTYPES:
                print(case, np.dtype(dtype).name, side, form, flush=True)
                x, w, b = case.reals(dtype)
                expected = {engine: y.copy() for engine, y in cases.results(case, x, w, b)}
                settle(allocator)
                _, x = fenced(x, side, form)
                _, w = fenced(w, side, form)
                blank = np.full(case.y_shape, np.nan, dtype)
                fence, out = fenced(blank, side, form)
                for engine, y in cases.results(case, x, w, b, out=out):
                    np.testing.assert_array_equal(y, expected[engine], engine)
                    assert np.isfinite(y).all(), engine
                    fence.check(out)
                    out[...] = np.nan
                    settle(allocator)


def run_others(side: str, allocator: Allocator):
    for name, shape, options in OTHERS:
        for dtype in DTYPES:
            print(name, shape, options, np.dtype(dtype).name, side, flush=True)
            x = cases.random_values(1, prod(shape), dtype, -3, 2).reshape(shape)
            fence, view = fenced(x, side)
            for isa in fc.isas():
                with fc.using(isa=isa):
                    expected = getattr(fc, name)(x.copy(), **options)
                    got = getattr(fc, name)(view, **options)
                    np.testing.assert_array_equal(np.array(got), np.array(expected), name)
                    assert np.isfinite(np.array(got)).all(), name
                    settle(allocator)
            fence.check(view)


def run_random(side: str, _):
    """A few of the thousands that `python -m fastconv.testing guards` runs."""
    for index in range(SIDES.index(side), 300, 2):
        line = guards.line(index)
        print(line, flush=True)
        assert guards.check(line)["calls"] > 0


def trespass(side: str):
    """Reads the byte beyond a workspace of one byte, or before an array."""
    if side == "end":
        workspace = Allocator(side).allocate((ALIGNMENT + ALIGNMENT,), np.uint8)
        print(workspace[-2], flush=True)
        print(workspace[-1], flush=True)
    else:
        _, a = fenced(np.zeros(3, np.float32), side)
        print(as_strided(a, (2,), (-4,))[0], flush=True)
        print(as_strided(a, (2,), (-4,))[1], flush=True)


def child(what: str, side: str):
    if what == "trespass":
        trespass(side)
        return
    allocator = Allocator(side)
    _memory._allocate = allocator.allocate
    globals()[f"run_{what}"](side, allocator)
    print("done", flush=True)


def run_child(what: str, side: str):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-P", __file__, what, side],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("what", ("convolutions", "forms", "others", "random"))
def test_no_byte_beyond_an_array_is_touched(what, side):
    done = run_child(what, side)
    last = done.stdout.splitlines()[-1:]
    assert last == ["done"], f"ended with {done.returncode} at {last}\n{done.stderr}"


@pytest.mark.parametrize("side", SIDES)
def test_the_fence_catches_a_trespass(side):
    done = run_child("trespass", side)
    assert done.returncode == -signal.SIGSEGV
    assert len(done.stdout.splitlines()) == 1  # the last allowed byte was there


if __name__ == "__main__":
    child(*sys.argv[1:])
