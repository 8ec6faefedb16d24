"""Random reals against float64, within the bound that rounding allows, and against the contract's bits.

With k products and a bias, |y - exact| <= gamma(k + 2) (sum of |x||w| + |b|), gamma(n) = n u / (1 - n u),
and one smallest subnormal for each rounding that underflows (Higham 2002, section 3.1). Nothing in
it is chosen. Where float64 is tested, float64's own sums may be off by as much again, but for a
sample that is compared with long doubles. Bits are compared between algorithms, instruction sets
with FMA, packed weights and numbers of threads, on a sample with the chain of fused multiply-adds.

A case is a convolution, a pooling, or a history: calls that share workspaces, outputs and layers.
"""

from __future__ import annotations

import random
from math import ceil, log2, prod
from typing import Any

import numpy as np

import fastconv as fc
from fastconv import _arguments, _core, nn
from fastconv.testing import _pools, _twin
from fastconv.testing._arrays import FORMS, reals, taken
from fastconv.testing._cases import CHANNELS, EDGES, Case, parse
from fastconv.testing._engines import on_engine
from fastconv.testing._run import Run, Violation

DTYPES = (np.float32, np.float64)
MOST_WORK = 30_000  # elements of all patches, and a tenth of the multiply-adds
CHAIN_EVERY, LONG_EVERY = 8, 16  # samples that are compared with the chain, with long doubles
CHAIN_WORK = 60_000  # multiply-adds; the emulated chain takes about 50 ns for each
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 53, 61, 67, 97, 127, 131)
THREADS = (1, 1, 1, 2, 2, 3, 5, 8)
#: Least and greatest exponents, in each type: usual ones, wide ones, products that lose bits.
RANGES = {np.float32: ((-8, 0), (-8, 0), (-8, 0), (-30, 30), (-75, -65)),
          np.float64: ((-8, 0), (-8, 0), (-8, 0), (-99, 99), (-537, -527))}  # fmt: skip
LONG_IS_WIDER = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
FUSED = tuple(isa for isa in _core.isas() if isa != "baseline")


def line(index: int) -> str:
    kind = index % 48
    if kind == 0:
        return f"history {index // 48}"
    rng = random.Random(index)
    if kind < 10:
        return str(drawn_pool(rng))
    return str(drawn_conv(rng))


def check(line: str) -> dict[str, int]:
    if line.startswith("history"):
        return check_history(random.Random(line))
    return check_pool(_pools.parse(line)) if "pool" in line else check_conv(parse(line))


# Shapes -------------------------------------------------------------------------------------------


def drawn_conv(rng: random.Random, most_work: int = MOST_WORK) -> Case:
    """Tiny images with huge padding, large dilation, prime channels, sizes at edges."""
    while True:
        dims, transposed = rng.choice((1, 2, 2, 2, 3)), rng.random() < 0.3
        axes = [_axis(rng, transposed) for _ in range(dims)]
        groups, icg, ocg = _channels(rng)
        batch = rng.choice((1, 1, 1, 2, 3, 7))
        while True:  # until it is small enough
            case = Case(
                f"conv_transpose{dims}d" if transposed else f"conv{dims}d",
                *zip(*axes, strict=True), batch=batch, ic=groups * icg, oc=groups * ocg,
                groups=groups, bias=rng.random() < 0.7, last=rng.random() < 0.25,
            )  # fmt: skip
            if min(case.out_size) < 1:
                break
            patches = _twin.work(case)
            sizes = patches, prod(case.y_shape), prod(case.x_shape), patches * ocg // 10
            if max(sizes) <= most_work:
                return case
            if batch > 1:
                batch = 1
            elif groups > 1 and groups >= icg:
                groups //= 2
            elif icg > 1 or ocg > 1:
                icg, ocg = (icg + 1) // 2, (ocg + 1) // 2
            else:
                break


def _axis(rng: random.Random, transposed: bool) -> tuple[int, ...]:
    """Size, kernel, stride, dilation, zeros before and after."""
    kind = rng.random()
    n = rng.choice(EDGES) if rng.random() < 0.6 else int(2 ** rng.uniform(0, 8))
    k = rng.choice((1, 1, 2, 3, 3, 3, 4, 5, 7, rng.randint(1, 25)))
    s, d = rng.choice((1, 1, 1, 2, 3, rng.randint(1, 7))), rng.choice((1, 1, 1, 2, 3))
    p = rng.choice((0, k // 2, rng.randint(0, k + 1)))
    q = p
    if kind < 0.15 and not transposed:  # a tiny image in much padding
        n, k = rng.randint(1, 3), rng.choice((3, 5, 11, 25, 63))
        p = q = rng.choice((k - 1, k // 2, 2 * k))
    elif kind < 0.25:
        d = rng.randint(4, 60)
    if transposed:
        return n, k, s, d, p, p - rng.choice((0, 0, rng.randint(0, max(s, d) - 1)))
    return n, k, s, d, p, rng.choice((q, q, rng.randint(0, k + 2)))


def _channels(rng: random.Random) -> tuple[int, int, int]:
    """Groups, and input and output channels of each."""
    kind = rng.random()
    if kind < 0.2:
        return rng.choice((*PRIMES, 8, 16, 32, 64)), 1, rng.choice((1, 1, 1, 2, 3))
    groups = rng.choice((2, 3, 4, 8)) if kind < 0.35 else 1
    choices = PRIMES if kind < 0.6 else CHANNELS
    return groups, rng.choice(choices), rng.choice((*choices, 48, 64, 65))


def drawn_pool(rng: random.Random) -> _pools.Pool:
    while True:
        dims, kind = rng.choice((1, 2, 2, 3)), rng.choice(("max", "avg", "avg"))
        size = tuple(rng.choice((*EDGES, rng.randint(1, 90))) for _ in range(dims))
        fields: dict[str, Any] = {"batch": rng.choice((1, 1, 2, 3)), "size": size}
        fields["channels"] = rng.choice(CHANNELS)
        if rng.random() < 0.25:
            output = tuple(rng.choice((1, 2, 3, 7, rng.randint(1, 12))) for _ in range(dims))
            pool = _pools.Pool(f"adaptive_{kind}_pool{dims}d", output=output, **fields)
        else:
            kernel = tuple(rng.choice((1, 2, 2, 3, 3, 5, rng.randint(1, 40))) for _ in size)
            one = kind == "avg" or rng.random() < 0.7
            dilation = tuple(1 if one else rng.randint(1, 4) for _ in size)
            reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
            padding = tuple(rng.choice((0, r // 2, rng.randint(0, r // 2))) for r in reach)
            stride = tuple(rng.choice((1, 2, 3, k)) for k in kernel)
            if any(n + 2 * p < r for n, p, r in zip(size, padding, reach, strict=True)):
                continue
            pool = _pools.Pool(
                f"{kind}_pool{dims}d", kernel=kernel, stride=stride, dilation=dilation,
                padding=padding, ceil=rng.random() < 0.3, last=rng.random() < 0.2,
                exclude=kind == "avg" and rng.random() < 0.3, **fields,
            )  # fmt: skip
        if max(pool.work(), prod(pool.x_shape)) <= MOST_WORK:
            return pool


# Convolutions -------------------------------------------------------------------------------------


def gamma(n: int, u: float) -> float:
    return n * u / (1 - n * u)


def same_bits(y: np.ndarray, expected: np.ndarray, *how: Any) -> None:
    """Violation unless bit by bit the same; any NaN equals any other."""
    word = np.uint32 if y.itemsize == 4 else np.uint64
    if y.shape == expected.shape and y.dtype == expected.dtype:
        a, b = (np.ascontiguousarray(each).view(word) for each in (y, expected))
        if (a == b).all() or ((a == b) | (np.isnan(y) & np.isnan(expected))).all():
            return
    differ = f"{(y != expected).sum()} of {y.size}" if y.shape == expected.shape else y.shape
    raise Violation(f"{' '.join(map(str, how))} {y.dtype}: other bits ({differ})")


def within(y: np.ndarray, exact: np.ndarray, bound: np.ndarray, *how: Any) -> None:
    """Violation unless |y - exact| <= bound everywhere."""
    error = abs(y - exact)
    if y.shape != exact.shape or not (error <= bound).all():
        worst = (error / bound).max() if y.shape == exact.shape else y.shape
        raise Violation(f"{' '.join(map(str, how))} {y.dtype}: off by {worst} bounds")


def arrays_of(case: Case, dtype, seed: int) -> tuple:
    """x, w and bias, x in the caller's layout."""
    low, high = RANGES[dtype][seed // 3 % 5]
    pool = reals(dtype, low, high)
    shape = (case.batch, *case.size, case.ic) if case.last else case.x_shape
    x = taken(pool, seed // 5, shape, FORMS[seed // 35 % len(FORMS)])
    w = taken(pool, seed // 7, case.w_shape, FORMS[seed // 421 % len(FORMS)])
    if not case.bias:
        return x, w, None
    least = np.finfo(dtype).minexp
    scale = reals(dtype, max(2 * low, least), max(2 * high, least))  # as large as products are
    return x, w, taken(scale, seed // 11, (case.oc,), FORMS[seed // 911 % 2 * 4])


def check_conv(case: Case) -> dict[str, int]:
    seed = case.seed
    dtype = DTYPES[seed % 2]
    x, w, b = arrays_of(case, dtype, seed)
    options = case.options() | ({"layout": "NHWC"} if case.last else {})
    y = getattr(fc, case.op)(x, w, b, **options)
    judged = _arguments.convolution(
        case.op, case.dims, case.transposed, x, w, b, case.stride, options["padding"],
        options.get("output_padding", 0), case.dilation, case.groups, None, None,
        options.get("layout"), None,
    )  # fmt: skip
    calls, y_fused = 1, _core.isa_rows()[_core.in_force()[0]] in FUSED
    for how, other, fused in forced(judged, seed):
        calls += 1
        if fused and y_fused:
            same_bits(other, y, how)
        else:
            _check_bound(case, (x, w, b), other, seed, how)
    _check_bound(case, (x, w, b), y, seed, "the function")
    usual, sampled = seed // 3 % 5 < 3, seed // 23 % CHAIN_EVERY == 0
    if y_fused and usual and sampled and case.work <= CHAIN_WORK:
        same_bits(_first(case, y), _chain(case, x, w, b), "the function, against the chain")
    return {"calls": calls}


def _first(case: Case, a: np.ndarray) -> np.ndarray:
    """An array in the caller's layout with its channels first."""
    return np.moveaxis(a, -1, 1) if case.last else a


def _chain(case: Case, x, w, b) -> np.ndarray:
    native = x.dtype.newbyteorder("=")
    y = _twin.chain(case, _first(case, x).astype(native), w.astype(native))
    bias = y.dtype.type(0) if b is None else b.reshape(-1, *(1,) * case.dims)
    return y + (bias + y.dtype.type(0))


def _check_bound(case: Case, arrays: tuple, y: np.ndarray, seed: int, how: str) -> None:
    x, w, b = arrays
    kind = np.finfo(y.dtype)
    wide: Any = np.float64
    twice = 2 if y.dtype == np.float64 else 1
    if twice == 2 and LONG_IS_WIDER and seed // 29 % LONG_EVERY == 0:
        wide, twice = np.longdouble, 1
    seen, w = _twin.products(case, _first(case, x).astype(wide), w.astype(wide))
    shape = case.oc, case.batch, *case.out_size
    exact = np.matmul(w, seen).reshape(shape).swapaxes(0, 1)
    size = np.matmul(abs(w), abs(seen)).reshape(shape).swapaxes(0, 1)
    if b is not None:
        bias = b.astype(wide).reshape(-1, *(1,) * case.dims)
        exact, size = exact + bias, size + abs(bias)
    n = case.chain + 2
    bound = gamma(n, float(kind.eps) / 2) * size + n * float(kind.smallest_subnormal)
    within(_first(case, y), exact, twice * bound, how)


def forced(judged: tuple, seed: int):
    """(words, result, whether with FMA) of two algorithms, on any ISA, with any number of threads."""
    result = judged[5]
    names, isas = _core.algorithms(), _core.isas()
    found = 0
    for turn in range(len(names)):
        name = names[(seed // 13 + turn) % len(names)]
        isa = isas[(seed // 17 + turn) % len(isas)]
        threads, packed = THREADS[(seed // 19 + turn) % len(THREADS)], (seed + turn) % 3 == 0
        result.fill(np.nan)
        if on_engine(judged, isa, name, threads, {} if packed else None):
            found += 1
            yield f"{isa} {name} threads={threads}{' packed' * packed}", result, isa in FUSED
        if found == 2:
            return


# Poolings -----------------------------------------------------------------------------------------


def check_pool(pool: _pools.Pool) -> dict[str, int]:
    seed = pool.seed
    dtype = DTYPES[seed % 2]
    shape = (pool.batch, *pool.size, pool.channels) if pool.last else pool.x_shape
    x = taken(reals(dtype, -8, 0), seed // 5, shape, FORMS[seed // 35 % len(FORMS)])
    options = pool.options() | ({"layout": "NHWC"} if pool.last else {})
    y = getattr(fc, pool.op)(x, **options)
    with fc.using(isa=_core.isas()[seed // 7 % len(_core.isas())], threads=THREADS[seed // 3 % 8]):
        same_bits(getattr(fc, pool.op)(x, **options), y, "another ISA and number of threads")
    first = np.moveaxis(x, -1, 1) if pool.last else x
    y = np.moveaxis(y, -1, 1) if pool.last else y
    wide = first.astype(np.longdouble if LONG_IS_WIDER and dtype == np.float64 else np.float64)
    if pool.kind == "max":
        same_bits(y, _pools.maxima(pool, wide)[0].astype(dtype), "the maximum")
        return {"calls": 2}
    divisor = _pools.divisors(pool)
    taps = [max(map(len, axis)) for axis in pool.windows()]
    depth = sum(ceil(log2(k)) for k in taps) + 1  # additions by doubling, and the division
    kind = np.finfo(dtype)
    twice = 2 if wide.dtype == dtype else 1
    bound = gamma(depth, float(kind.eps) / 2) * (_pools.sums(pool, abs(wide)) / divisor)
    rounded = gamma(prod(taps) + 1, float(np.finfo(wide.dtype).eps) / 2) / float(kind.eps)
    bound = bound * (1 + rounded) + float(kind.smallest_subnormal)
    within(y, _pools.sums(pool, wide) / divisor, twice * bound, "the mean")
    return {"calls": 2}


# Histories ----------------------------------------------------------------------------------------


def check_history(rng: random.Random) -> dict[str, int]:
    """Calls in a row, of other shapes, types, algorithms, into outputs and layers used before, give
    the bits of first calls; and so does a network, prepared and run twice."""
    calls, seen = 0, []
    for _ in range(4):
        case = drawn_conv(rng, MOST_WORK // 6)
        dtype, seed = rng.choice(DTYPES), case.seed
        arrays = arrays_of(case, dtype, seed)
        options = case.options() | ({"layout": "NHWC"} if case.last else {})
        y = getattr(fc, case.op)(*arrays, **options)
        seen.append((case, arrays, options, y, np.empty_like(y)))
    fc.free_memory()
    for _ in range(8):
        case, arrays, options, y, out = rng.choice(seen)
        with fc.using(threads=rng.choice((None, 1, 2, 3)), algorithm=rng.choice((None, "im2col"))):
            same_bits(getattr(fc, case.op)(*arrays, **options, out=out), y, case)
        calls += 1
    return {"calls": calls + check_network(rng)}


def check_network(rng: random.Random) -> int:
    """A network of random layers: prepared, its bits are those of its layers called one by one."""
    channels, layers = rng.choice((1, 3, 5, 16)), []
    c = channels
    for _ in range(rng.randint(2, 4)):
        k, oc = rng.choice((1, 3, 3, 5)), rng.choice((1, 4, 7, 16, 17))
        depthwise = rng.random() < 0.25
        oc = c if depthwise else oc
        layers.append(
            nn.Conv2d(c, oc, k, stride=rng.choice((1, 1, 2)), padding=rng.choice((k // 2, k - 1)),
                      groups=c if depthwise else 1, bias=rng.random() < 0.7)
        )  # fmt: skip
        layers.append(rng.choice((nn.ReLU, nn.ReLU6, nn.Identity, nn.SiLU))())
        if rng.random() < 0.3:
            layers.append(rng.choice((nn.MaxPool2d, nn.AvgPool2d))(3, 1, padding=1))
        c = oc
    net = nn.Sequential(*layers).eval()
    shape = (rng.choice((1, 2)), channels, rng.randint(1, 12), rng.randint(1, 20))
    ready = net.prepare(shape)
    for _ in range(2):
        x = taken(reals(np.float32, -8, 0), rng.randrange(1 << 19), shape, rng.choice(FORMS))
        y = x
        for layer in layers:
            y = layer(y)
        same_bits(np.array(ready(x)), np.ascontiguousarray(y), "prepared", net)
    return 2


RUN = Run(
    line, check, cases=20_000, full=2_000_000,
    promise="reals are within the bound of rounding, and have the contract's bits after any history",
)  # fmt: skip
