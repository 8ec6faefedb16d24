"""Not a byte is read or written beyond an array, nor read from a workspace before it is written.

Inputs, results and workspaces end where a page begins that nobody may touch, or begin where one
ends; around them and in them lie bytes that would show: NaN where something is to be written. A
trespass kills the process, so the cases run in one of their own, which names each before it runs.
"""

import ctypes
import mmap
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

ALIGNMENT = 64  # FC_ALIGN: by which the door moves a workspace's beginning
UNTOUCHED, NAN = 0xA5, 0xFF
SIDES = ("end", "begin")

CONVOLUTIONS = cases.chosen(
    cases.NASTY,
    cases.generated(60, seed=5, most_work=50_000),
    [case for case in cases.BLOCKED if case.work < 500_000],
)
#: Rows next to each other, or three elements apart, or everything backwards.
FORMS = ("packed", "apart", "backwards")
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
    ("max_pool1d", (1, 3, 70), {"kernel_size": 5, "stride": 1, "dilation": 2}),
    ("max_pool3d", (1, 2, 5, 6, 19), {"kernel_size": 2, "ceil_mode": True}),
    ("avg_pool2d", (2, 3, 9, 37), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("avg_pool2d", (1, 3, 20, 33), {"kernel_size": 7, "stride": 1}),
    ("avg_pool1d", (1, 3, 70), {"kernel_size": 33, "stride": 3}),
    ("adaptive_avg_pool2d", (1, 5, 7, 19), {"output_size": 3}),
    ("adaptive_max_pool2d", (1, 5, 7, 19), {"output_size": (2, 5)}),
    ("global_avg_pool", (2, 5, 7, 7), {}),
    ("gelu", (3, 7, 11), {}),
    ("silu", (3, 7, 11), {}),
    ("relu", (5, 13), {}),
]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Fenced:
    """Whole pages between two that may not be touched; `inside` are the bytes that may."""

    def __init__(self, nbytes: int):
        size = max(-(-nbytes // mmap.PAGESIZE), 1) * mmap.PAGESIZE
        self.map = mmap.mmap(-1, size + 2 * mmap.PAGESIZE)
        self.inside = self.bytes(size, 0)
        self.inside[:] = UNTOUCHED
        first = self.inside.ctypes.data
        for page in (first - mmap.PAGESIZE, first + size):
            if _libc.mprotect(page, mmap.PAGESIZE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")

    def bytes(self, nbytes: int, start: int) -> np.ndarray:
        return np.frombuffer(self.map, np.uint8, nbytes, mmap.PAGESIZE + start)

    def place(self, nbytes: int, side: str) -> np.ndarray:
        """The first or the last bytes inside."""
        return self.bytes(nbytes, self.inside.size - nbytes if side == "end" else 0)


def fenced_copy(a: np.ndarray, side: str, form: str = "packed") -> tuple[Fenced, np.ndarray]:
    """A copy of `a` whose outermost element lies at the fence."""
    gap = 3 if form == "apart" else 0
    *rows, row = a.shape
    span = ((prod(rows) - 1) * (row + gap) + row) * a.itemsize
    fence = Fenced(span)
    strides = [a.itemsize]
    for n in reversed(a.shape[1:]):
        strides.append(strides[-1] * n if len(strides) > 1 else (n + gap) * a.itemsize)
    flat = fence.place(span, side).view(a.dtype)
    view = as_strided(flat, a.shape, strides[::-1])
    if form == "backwards":
        view = np.flip(view)
    view[...] = a
    return fence, view


class Allocator:
    """Stands in for _memory._allocate: everything it gives lies at a fence and is full of NaN."""

    def __init__(self, side: str):
        self.side = side
        self.given: list[tuple[Fenced, int, np.ndarray]] = []

    def __call__(self, shape, dtype) -> np.ndarray:
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if dtype != np.uint8:
            fence = Fenced(nbytes)
            place = fence.place(nbytes, self.side)
            place[:] = NAN
            self.given.append((fence, 0, place))
            return place.view(dtype).reshape(shape)
        # A workspace: what its user takes of it begins at a multiple of ALIGNMENT. So that this ends
        # at the fence, the workspace begins one byte behind such a multiple and has one byte beyond.
        used = nbytes - ALIGNMENT
        fence = Fenced(nbytes)
        start = fence.inside.size - used - ALIGNMENT + 1 if self.side == "end" else 0
        fence.bytes(used + ALIGNMENT - 1, start)[:] = NAN
        slack = fence.bytes(ALIGNMENT - 1, start if self.side == "end" else start + used)
        self.given.append((fence, ALIGNMENT - 1, slack))
        return fence.bytes(nbytes, start)

    def check(self, line: str):
        for fence, slack, place in self.given:
            assert not slack or (place == NAN).all(), f"{line}: the workspace's slack is written"
            if not slack:
                assert_untouched(fence, place, line)
        self.given.clear()
        fc.free_memory()


def assert_untouched(fence: Fenced, view: np.ndarray, line: str):
    """All bytes inside the fence that are not elements of view are as they were."""
    foreign = np.ones(fence.inside.size, bool)
    first = view.__array_interface__["data"][0] - fence.inside.ctypes.data
    at = np.zeros(1, np.intp)
    for n, stride in zip(view.shape, view.strides, strict=True):
        at = (at[:, None] + np.arange(n) * stride).ravel()
    for byte in range(view.itemsize):
        foreign[first + at + byte] = False
    assert (fence.inside[foreign] == UNTOUCHED).all(), f"{line}: bytes beside the array are written"


def run_convolutions(side: str, allocator: Allocator):
    for case in CONVOLUTIONS:
        for dtype in DTYPES:
            print(case, np.dtype(dtype).name, side, flush=True)
            arrays = case.reals(dtype)
            expected = {engine: y.copy() for engine, y in cases.results(case, *arrays)}
            allocator.check(str(case))
            fenced = [(None, None) if a is None else fenced_copy(a, side) for a in arrays]
            for engine, y in cases.results(case, *(a for _, a in fenced), threads=(1,)):
                np.testing.assert_array_equal(y, expected[engine], engine)
                assert np.isfinite(y).all(), engine  # no NaN of a workspace
                allocator.check(engine)
            first = next(iter(expected.values()))
            fenced.append(fenced_copy(first, side))
            added = fenced[-1][1]
            for engine, y in cases.results(case, *(a for _, a in fenced[:3]), residual=added):
                np.testing.assert_allclose(y, 2 * expected[engine], 1e-3, 1e-3, err_msg=engine)
                allocator.check(engine)
            for (fence, view), a in zip(fenced, (*arrays, first), strict=True):
                if fence:
                    np.testing.assert_array_equal(view, a)
                    assert_untouched(fence, view, str(case))


def run_forms(side: str, allocator: Allocator):
    for case in IN_EVERY_FORM:
        for form in FORMS:
            for dtype in DTYPES:
                print(case, np.dtype(dtype).name, side, form, flush=True)
                x, w, b = case.reals(dtype)
                expected = {engine: y.copy() for engine, y in cases.results(case, x, w, b)}
                allocator.check(str(case))
                _, x = fenced_copy(x, side, form)
                _, w = fenced_copy(w, side, form)
                blank = np.full(case.y_shape, np.nan, dtype)
                fence, out = fenced_copy(blank, side, form)
                for engine, y in cases.results(case, x, w, b, out=out):
                    np.testing.assert_array_equal(y, expected[engine], engine)
                    assert np.isfinite(y).all(), engine
                    assert_untouched(fence, out, f"{engine} {form}")
                    out[...] = np.nan
                    allocator.check(engine)


def run_others(side: str, allocator: Allocator):
    for name, shape, options in OTHERS:
        for dtype in DTYPES:
            print(name, shape, options, np.dtype(dtype).name, side, flush=True)
            x = cases.random_values(1, prod(shape), dtype, -3, 2).reshape(shape)
            fence, fenced = fenced_copy(x, side)
            for isa in fc.isas():
                with fc.using(isa=isa):
                    expected = getattr(fc, name)(x.copy(), **options)
                    got = getattr(fc, name)(fenced, **options)
                    np.testing.assert_array_equal(np.array(got), np.array(expected), name)
                    assert np.isfinite(np.array(got)).all(), name
                    allocator.check(name)
            assert_untouched(fence, fenced, name)


def trespass(side: str):
    """Reads the byte beyond a workspace of one byte, or before an array."""
    if side == "end":
        workspace = Allocator(side)((1 + ALIGNMENT,), np.uint8)
        print(workspace[-2], flush=True)
        print(workspace[-1], flush=True)
    else:
        _, a = fenced_copy(np.zeros(3, np.float32), side)
        print(as_strided(a, (2,), (-4,))[0], flush=True)
        print(as_strided(a, (2,), (-4,))[1], flush=True)


def child(what: str, side: str):
    if what == "trespass":
        trespass(side)
        return
    _memory._allocate = allocator = Allocator(side)
    {"convolutions": run_convolutions, "forms": run_forms, "others": run_others}[what](
        side, allocator
    )
    print("done", flush=True)


def run_child(what: str, side: str):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-P", __file__, what, side],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("what", ("convolutions", "forms", "others"))
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
