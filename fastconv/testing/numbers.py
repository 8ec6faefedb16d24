"""NaN, infinities, zeros with a sign, denormals and numbers next to the largest, at every tail length.

Padding is zeros, literally; a transposed convolution meets none; a chain's order decides where sums
overflow; a sum of zeros is +0; the largest of a window with a NaN is NaN. The ordinary numbers are small
integers times a power of two, so that every sum that does not overflow is exact, and the results
can be compared with == to a plain loop over the chain.

    nan:w conv2d n1 c3-17 g1 i3x9 k3x3 s1x1 d1x1 p1x1 q1x1     a NaN among the weights

Kinds: nan inf -inf infs (both) zeros (of both signs) denormal huge; places: x w b xw.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fastconv as fc
from fastconv import _arguments, _core, reference
from fastconv.testing import _pools, _twin
from fastconv.testing._arrays import integers
from fastconv.testing._cases import Case, parse
from fastconv.testing._engines import on_engine
from fastconv.testing._numbering import Combinations
from fastconv.testing._run import Run, Violation

DTYPES = (np.float32, np.float64)
TAILS = range(1, 36)  # past two vectors of 16 lanes
KINDS = ("nan", "inf", "-inf", "infs", "zeros", "denormal", "huge")
PLACES = ("x", "w", "b", "xw")
THREADS = (1, 2, 1, 3)
ODD = {"nan": (np.nan,), "inf": (np.inf,), "-inf": (-np.inf,), "infs": (np.inf, -np.inf)}

CONVOLUTIONS = Combinations(
    op=tuple(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)), tail=TAILS,
    along=("width", "channels"), grouped=("dense", "groups", "depthwise"), kernel=(1, 2, 3),
    stride=(1, 2), pad=(0, 1, 2), kind=KINDS, place=PLACES, last=(False, True),
)  # fmt: skip
POOLS = Combinations(
    op=tuple(f"{kind}_pool{d}d" for kind in ("max", "avg") for d in (1, 2, 3)), tail=TAILS,
    along=("width", "channels"), kernel=(1, 2, 3, 5), stride=(1, 2, 3), pad=(0, 1),
    kind=KINDS, last=(False, True), exclude=(False, True),
)  # fmt: skip


def line(index: int) -> str | None:
    turn, kind = divmod(index, 4)
    if kind == 3:
        found = POOLS[turn] if turn < POOLS.number else None
        pool = found and pool_of(found)
        return f"{found['kind']}:x {pool}" if pool else None
    turn = turn * 3 + kind
    found = CONVOLUTIONS[turn] if turn < CONVOLUTIONS.number else None
    case = found and conv_of(found)
    return f"{found['kind']}:{found['place']} {case}" if case else None


def conv_of(found: dict[str, Any]) -> Case | None:
    dims, tail, k, p = int(found["op"][-2]), found["tail"], found["kernel"], found["pad"]
    wide = found["along"] == "width"
    size = (*(2, 3)[3 - dims :], tail if wide else 5)
    groups, ic, oc = {
        "dense": (1, 3, 4 if wide else tail), "groups": (2, 4, 6 if wide else 2 * tail),
        "depthwise": (3 if wide else tail,) * 3,
    }[found["grouped"]]  # fmt: skip
    case = Case(
        found["op"], size, (k,) * dims, (found["stride"],) * dims, (1,) * dims, (p,) * dims,
        (p,) * dims, ic=ic, oc=oc, groups=groups, bias=True, last=found["last"],
    )  # fmt: skip
    return case if min(case.out_size) > 0 else None


def pool_of(found: dict[str, Any]) -> _pools.Pool | None:
    dims, k, p = int(found["op"][-2]), found["kernel"], found["pad"]
    wide, average = found["along"] == "width", "avg" in found["op"]
    size = (*(3, 4)[3 - dims :], found["tail"] if wide else 5)
    if p > k // 2 or min(size) + 2 * p < k or (found["exclude"] and not average):
        return None
    sizes = [(n,) * dims for n in (k, found["stride"], 1, p)]
    return _pools.Pool(
        found["op"], 1, 2 if wide else found["tail"], size, *sizes, exclude=found["exclude"],
        last=found["last"],
    )  # fmt: skip


# Values -------------------------------------------------------------------------------------------


def values(
    kind: str, place: str, name: str, shape: tuple[int, ...], dtype, seed: int
) -> np.ndarray:
    """The array x, w or b of a kind of case."""
    size, pool = int(np.prod(shape)), integers(dtype, 8)
    start = (seed // {"x": 3, "w": 5, "b": 7}[name]) % (len(pool) - size)
    a = pool[start : start + size].reshape(shape).copy()
    limits = np.finfo(dtype)
    if kind == "denormal":  # products are multiples of the smallest number; inputs may be too
        least = int(np.log2(limits.smallest_subnormal))
        half = (least // 2, least, 0)[seed % 3]
        a = np.ldexp(a, {"x": half, "w": least - half, "b": least}[name])
    elif kind == "huge":  # products are up to half of what is too large: few of them overflow
        half = limits.maxexp // 2
        a = np.ldexp(a, {"x": half, "w": limits.maxexp - half - 7, "b": limits.maxexp - 4}[name])
    elif name in place:
        at = [(seed >> shift) % size for shift in (2, 5, 11)]
        if kind == "zeros":
            a = np.copysign(dtype(0), a)
        else:
            odd = ODD[kind]
            for turn, i in enumerate(at[: 1 + seed % 3]):
                a.flat[i] = odd[turn % len(odd)]
    return a.astype(dtype, copy=False)


def compare(y: np.ndarray, expected: np.ndarray, *how: Any, signs: bool = True) -> None:
    """Violation unless NaN is where it should be, and all else is equal, zeros with their signs."""
    nan = np.isnan(expected)
    same = np.where(nan, np.isnan(y), y == expected)
    if signs:
        same &= nan | (np.signbit(y) == np.signbit(expected))
    if y.dtype != expected.dtype or not same.all():
        at = tuple(map(int, np.argwhere(~same)[0]))
        words = " ".join(filter(None, map(str, how)))
        raise Violation(f"{words} {y.dtype} at {at}: {y[at]}, not {expected[at]}")


# Checks -------------------------------------------------------------------------------------------


def check(line: str) -> dict[str, int]:
    words, _, rest = line.partition(" ")
    kind, _, place = words.partition(":")
    with np.errstate(all="ignore"):
        if "pool" in rest:
            return check_pool(_pools.parse(rest), kind)
        return check_conv(parse(rest), kind, place)


def expected(case: Case, x, w, b) -> np.ndarray:
    """A loop over the chain; where a transposed convolution meets no pixel it takes no step."""
    seen, weights = _twin.products(case, x, w)
    met = None
    if case.transposed:
        met = _twin.products(case, np.ones_like(x), w)[0] != 0
    y = np.zeros((case.groups, weights.shape[1], seen.shape[2]), x.dtype)
    for k in range(case.chain):
        step = y + weights[:, :, k, None] * seen[:, k, None, :]
        y = step if met is None else np.where(met[:, k, None, :], step, y)
    y = y.reshape(case.oc, case.batch, *case.out_size).swapaxes(0, 1)
    return y + (b.reshape(-1, *(1,) * case.dims) + x.dtype.type(0))


def check_conv(case: Case, kind: str, place: str) -> dict[str, int]:
    seed, judged, wanted = case.seed, [], []
    options = case.options()
    for dtype in DTYPES:
        shapes = {"x": case.x_shape, "w": case.w_shape, "b": (case.oc,)}
        x, w, b = (values(kind, place, name, shapes[name], dtype, seed) for name in shapes)
        y = expected(case, x, w, b)
        if case.last:
            x, y = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, y))
        layout = "NHWC" if case.last else None
        wanted.append(y)
        judged.append(
            _arguments.convolution(
                case.op, case.dims, case.transposed, x, w, b, case.stride, options["padding"],
                options.get("output_padding", 0), case.dilation, case.groups, None, None, layout,
                None,
            )
        )  # fmt: skip
        compare(getattr(fc, case.op)(x, w, b, **options, layout=layout), y, "the function")
    calls = len(DTYPES)
    for isa in _core.isas():
        for name in _core.algorithms():
            turn = (seed + calls) % 2
            result = judged[turn][5]
            packed, threads = (seed + calls) % 3 == 0, THREADS[(seed + calls) // 2 % 4]
            result.fill(77)
            if on_engine(judged[turn], isa, name, threads, {} if packed else None):
                calls += 1
                how = isa, name, f"threads={threads}", "packed weights" * packed
                compare(result, wanted[turn], *how)
    return {"calls": calls}


def check_pool(pool: _pools.Pool, kind: str) -> dict[str, int]:
    seed, calls = pool.seed, 0
    options = pool.options()
    for dtype in DTYPES:
        x = values(kind, "x", "x", pool.x_shape, dtype, seed)
        if seed % 5 == 0 and kind in ODD:
            x[:, seed // 5 % x.shape[1]] = ODD[kind][0]  # whole planes, so windows of nothing else
        if kind == "huge":  # sums in any order overflow alike if all have one sign
            x = np.ldexp(abs(x), np.finfo(dtype).maxexp // 2 - 6)
        if pool.kind == "max":
            y, places = getattr(reference, pool.op)(x, **options, return_indices=True)
        else:
            y, places = average(pool, x), None
        given = options | ({"layout": "NHWC"} if pool.last else {})
        if pool.last:
            x, y = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, y))
            places = None if places is None else np.moveaxis(places, 1, -1)
        for isa in _core.isas():
            with fc.using(isa=isa, threads=THREADS[(seed + calls) % 4]):
                compare(getattr(fc, pool.op)(x, **given), y, isa, signs=False)
                if places is not None:
                    both = getattr(fc, pool.op)(x, **given, return_indices=True)
                    compare(both[0], y, isa, "with indices", signs=False)
                    compare(both[1], places, isa, "indices", signs=False)
            calls += 1 + (places is not None)
    return {"calls": calls}


def average(pool: _pools.Pool, x: np.ndarray) -> np.ndarray:
    """The sums, which are exact or overflow, divided in the array's own type."""
    return _pools.sums(pool, x) / _pools.divisors(pool).astype(x.dtype)


RUN = Run(
    line, check, cases=10_000, full=200_000,
    promise="NaN, infinities, signs of zeros, denormals and overflow are where the definition has them",
)  # fmt: skip
