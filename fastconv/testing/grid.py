"""Integers, compared with ==: every algorithm, instruction set and element type on each shape.

The values are so small that no partial sum needs rounding, in any order; so all that may differ is
which numbers were added. A case is a shape; the forms of its arrays, activation, residual and the
numbers of threads follow from it by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

import fastconv as fc
from fastconv import _arguments, _core, reference
from fastconv.testing import _pools, _twin
from fastconv.testing._arrays import FORMS, integers, taken
from fastconv.testing._cases import Case, parse
from fastconv.testing._engines import on_engine
from fastconv.testing._numbering import Combinations
from fastconv.testing._run import Run, Violation

DTYPES = (np.float32, np.float64)
MOST_ZEROS = 0.7  # of the sums; a case with more shows too little to count
MOST_WORK = 40_000  # elements of all patches, for which the quick twin takes 0.1 ms
LARGE_WORK = 600_000  # of the few large cases: k in blocks, several tiles a part
COMPARED_EVERY = 64  # one case in so many is compared with the reference too, which is slow
THREADS = (1, 2, 1, 3, 1, 5, 2, 8)
ACTIVATIONS = (None, None, None, None, "relu", "relu6", ("leaky_relu", 0.5))
RESIDUALS = (None, None, None, "first", "last")

# Shapes -------------------------------------------------------------------------------------------
# Sizes lie at the edges of vectors and tiles, not in the middle between them. No shape belongs to two
# families.

SIZES = {
    1: [(*range(1, 21), 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 128, 129,
         191, 192, 193, 255, 256, 257)],
    2: [(*range(1, 10), 13, 16, 19), (*range(1, 18), 24, 31, 32, 33, 47, 48, 49, 63, 64, 65)],
    3: [(1, 2, 3, 5), (1, 2, 3, 4, 7), (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33)],
}  # fmt: skip
KERNELS = {
    1: [(1, 2, 3, 4, 5, 6, 7, 9, 11, 16, 25, 40)],
    2: [(1, 2, 3, 4, 5, 7), (1, 2, 3, 4, 5, 7, 9, 11)],
    3: [(1, 2, 3), (1, 2, 3), (1, 2, 3, 4, 5)],
}
STRIDES = {1: (1, 2, 3, 4, 5), 2: (1, 2, 3, 4), 3: (1, 2, 3)}
DILATIONS = {1: (1, 2, 3, 5, 16), 2: (1, 2, 3, 5), 3: (1, 2, 3)}
BATCHES = (1, 2, 3, 5)
DENSE = {
    "groups": (1,),
    "icg": (1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 24, 31, 32, 33, 64),
    "ocg": (*range(1, 10), 12, 13, 15, 16, 17, 24, 31, 32, 33, 47, 48, 49, 64, 65),
}
FEW = {
    "groups": (1,), "icg": (1, 2, 3, 4, 5, 8, 11, 16),
    "ocg": (*range(1, 10), 13, 16, 17, 24, 33, 47, 65),
}  # fmt: skip
GROUPED = {
    "groups": (2, 3, 4, 5, 7, 8), "icg": (2, 3, 4, 5, 8),
    "ocg": (1, 2, 3, 4, 5, 7, 8, 9, 16, 17),
}  # fmt: skip
DEPTHWISE = {
    "groups": (*range(2, 10), 13, 15, 16, 17, 24, 31, 32, 33, 47, 48, 49, 64, 65),
    "icg": (1,), "ocg": (1, 2, 3, 4, 8),
}  # fmt: skip
LARGE = {
    "groups": (1, 2), "icg": (18, 23, 40, 63, 65, 128, 129, 257, 300),
    "ocg": (8, 17, 63, 64, 65, 96, 130, 257),
}  # fmt: skip


def conv_shapes(dims: int, transposed: bool, channels: dict) -> Combinations:
    op = f"conv_transpose{dims}d" if transposed else f"conv{dims}d"
    # Numbers of what `pads` allows; transposed, the second is an output_padding.
    before, after = (range(3), range(3)) if transposed else (range(5), range(5))
    axes = {
        f"{name}{axis}": values
        for axis in range(dims)
        for name, values in (
            ("size", SIZES[dims][axis]), ("kernel", KERNELS[dims][axis]),
            ("stride", STRIDES[dims]), ("dilation", DILATIONS[dims]),
            ("before", before), ("after", after),
        )
    }  # fmt: skip
    either = (False, True)
    return Combinations(op=(op,), **axes, **channels, batch=BATCHES, bias=either, last=either)


def pads(reach: int) -> tuple[int, ...]:
    """Zeros beside the image, for a kernel that reaches so far beyond an element."""
    return (0, (reach + 1) // 2, 1, reach, reach + 2)


def distinct(choice: int, values: tuple[int, ...]) -> int | None:
    """The value of a choice, unless an earlier choice is the same."""
    value = values[choice]
    return value if values.index(value) == choice else None


def conv_of(found: dict[str, Any], most_work: int = MOST_WORK) -> Case | None:
    """The case of a combination, if it is one that no other combination is, and not too large."""
    op, dims = found["op"], int(found["op"][-2])
    transposed = "transpose" in op
    axes = []
    for axis in range(dims):
        n, k, s, d, p, q = (
            found[f"{name}{axis}"]
            for name in ("size", "kernel", "stride", "dilation", "before", "after")
        )
        if k == 1 and d > 1:
            return None
        p = distinct(p, pads(d * (k - 1)))
        if p is not None and transposed:  # q is p less an output_padding
            q = p - q if q < max(s, d) else None
        elif p is not None:
            q = distinct(q, pads(d * (k - 1)))
        if p is None or q is None:
            return None
        axes.append((n, k, s, d, p, q))
    groups, icg, ocg = found["groups"], found["icg"], found["ocg"]
    case = Case(
        op, *zip(*axes, strict=True), batch=found["batch"], ic=groups * icg, oc=groups * ocg,
        groups=groups, bias=found["bias"], last=found["last"],
    )  # fmt: skip
    if min(case.out_size) < 1:
        return None
    patches = _twin.work(case)
    sizes = patches, prod(case.x_shape), prod(case.w_shape), prod(case.y_shape)
    few = max(sizes) <= most_work and patches * (case.oc // groups) <= 5 * most_work
    return case if few else None


WINDOWS = {
    1: [(1, 2, 3, 4, 5, 7, 9, 16, 33)],
    2: [(1, 2, 3, 5, 7), (1, 2, 3, 4, 5, 9)],
    3: [(1, 2, 3), (1, 2, 3), (1, 2, 3, 5)],
}
POOLED = (1, 2, 3, 5, 7, 8, 9, 16, 17, 33)  # channels


def pool_shapes(dims: int, kind: str) -> Combinations:
    axes = {
        f"{name}{axis}": values
        for axis in range(dims)
        for name, values in (
            ("size", SIZES[dims][axis]), ("kernel", WINDOWS[dims][axis]),
            ("stride", STRIDES[dims]), ("dilation", DILATIONS[dims] if kind == "max" else (1,)),
            ("padding", range(3)),
        )
    }  # fmt: skip
    either = (False, True)
    divided = ("all",) if kind == "max" else ("all", "inside", 7, -3)
    if kind == "avg" and dims == 1:
        divided = divided[:2]
    return Combinations(
        op=(f"{kind}_pool{dims}d",), **axes, channels=POOLED, batch=BATCHES, ceil=either,
        divided=divided, last=either,
    )  # fmt: skip


def pool_of(found: dict[str, Any]) -> _pools.Pool | None:
    dims, axes = int(found["op"][-2]), []
    for axis in range(dims):
        n, k, s, d, choice = (
            found[f"{name}{axis}"] for name in ("size", "kernel", "stride", "dilation", "padding")
        )
        reach = d * (k - 1) + 1
        p = distinct(choice, (0, reach // 2, 1))
        if p is None or p > reach // 2 or n + 2 * p < reach or (k == 1 and d > 1):
            return None
        axes.append((n, k, s, d, p))
    size, kernel, stride, dilation, padding = zip(*axes, strict=True)
    divided = found["divided"]
    pool = _pools.Pool(
        found["op"], found["batch"], found["channels"], size, kernel, stride, dilation, padding,
        ceil=found["ceil"], exclude=divided == "inside", last=found["last"],
        divisor=divided if isinstance(divided, int) else 0,
    )  # fmt: skip
    return pool if max(pool.work(), prod(pool.x_shape)) <= MOST_WORK else None


def adaptive_shapes(dims: int) -> Combinations:
    sizes = {f"size{axis}": SIZES[dims][axis] for axis in range(dims)}
    outputs = {f"output{axis}": range(1, 10) for axis in range(dims)}
    ops = tuple(f"adaptive_{kind}_pool{dims}d" for kind in ("max", "avg"))
    return Combinations(op=ops, **sizes, **outputs, channels=POOLED, batch=BATCHES)


def global_shapes(dims: int) -> Combinations:
    sizes = {f"size{axis}": SIZES[dims][axis] for axis in range(dims)}
    channels = (*range(1, 36), 47, 48, 49, 64, 65, 97, 128)
    ops = ("global_max_pool", "global_avg_pool")
    return Combinations(op=ops, **sizes, channels=channels, batch=(*range(1, 10), 16))


def whole_pool_of(found: dict[str, Any]) -> _pools.Pool | None:
    """Of adaptive and global pooling."""
    size, output = (
        tuple(value for key, value in found.items() if key.startswith(name))
        for name in ("size", "output")
    )
    pool = _pools.Pool(found["op"], found["batch"], found["channels"], size, output=output)
    return pool if max(pool.work(), prod(pool.x_shape)) <= MOST_WORK else None


class Family(NamedTuple):
    """Shapes of one kind, and how a case is made of a combination.

    tries: an index has so many combinations, and the first that makes a case is its case.
    share: it has so many of the indices.
    """

    shapes: Combinations
    case: Callable[[dict[str, Any]], Case | _pools.Pool | None]
    tries: int
    share: int


def _large(dims: int, transposed: bool) -> Family:
    def case(found):
        return conv_of(found, LARGE_WORK)

    return Family(conv_shapes(dims, transposed, LARGE), case, 8, 1)


FAMILIES = (
    *(Family(conv_shapes(d, False, DENSE), conv_of, 8, n) for d, n in ((1, 14), (2, 28))),
    *(Family(conv_shapes(d, True, DENSE), conv_of, 8, n) for d, n in ((1, 7), (2, 14))),
    *(Family(conv_shapes(3, t, FEW), conv_of, 12, 8) for t in (False, True)),
    *(Family(conv_shapes(d, False, GROUPED), conv_of, 8, 7) for d in (1, 2, 3)),
    *(Family(conv_shapes(d, True, GROUPED), conv_of, 8, 4) for d in (1, 2, 3)),
    *(Family(conv_shapes(d, False, DEPTHWISE), conv_of, 8, 7) for d in (1, 2, 3)),
    *(Family(conv_shapes(d, True, DEPTHWISE), conv_of, 8, 4) for d in (1, 2, 3)),
    *(_large(d, t) for d in (1, 2) for t in (False, True)),
    *(Family(pool_shapes(d, k), pool_of, 8, 7) for d in (1, 2, 3) for k in ("max", "avg")),
    *(Family(adaptive_shapes(d), whole_pool_of, 2, n) for d, n in ((1, 1), (2, 7), (3, 7))),
    *(Family(global_shapes(d), whole_pool_of, 2, n) for d, n in ((1, 1), (2, 4), (3, 4))),
)
#: The families of consecutive indices, and which of its own each is: 0 up to its share.
TURNS = [(family, turn) for family in FAMILIES for turn in range(family.share)]
TURNS.sort(key=lambda pair: pair[1] / pair[0].share)


def line(index: int) -> str | None:
    round_, at = divmod(index, len(TURNS))
    family, turn = TURNS[at]
    first = (round_ * family.share + turn) * family.tries
    for number in range(first, min(first + family.tries, family.shapes.number)):
        if found := family.case(family.shapes[number]):
            return str(found)
    return None


# Checks -------------------------------------------------------------------------------------------


def check(line: str) -> dict[str, int]:
    return check_pool(_pools.parse(line)) if "pool" in line else check_conv(parse(line))


def compare(y: np.ndarray, expected: np.ndarray, *how: Any) -> None:
    """Violation, with the words of `how`, unless both are the same."""
    if y.shape == expected.shape and y.dtype == expected.dtype and (y == expected).all():
        return
    words = " ".join(filter(None, map(str, how)))
    if y.shape != expected.shape or y.dtype != expected.dtype:
        raise Violation(f"{words}: {y.dtype} {y.shape}, not {expected.dtype} {expected.shape}")
    wrong = np.argwhere(y != expected)
    at = tuple(map(int, wrong[0]))
    raise Violation(
        f"{words} {y.dtype}: {len(wrong)} of {y.size} elements differ, the first at {at}: "
        f"{y[at]}, not {expected[at]}"
    )


class Trial:
    """A convolution with all that its line leaves to chance."""

    def __init__(self, case: Case):
        self.case, self.seed = case, case.seed
        self.activation = self.chosen(1, ACTIVATIONS)
        self.added = self.chosen(7, RESIDUALS)
        self.forms = [self.chosen(n, FORMS) for n in (35, 421, 911)]  # of x, w, residual
        self.options = case.options() | {"activation": self.activation}
        if self.added:
            self.options["residual_after"] = self.added == "last"
        if case.last:
            self.options["layout"] = "NHWC"

    def chosen(self, digit: int, values: tuple) -> Any:
        return values[self.seed // digit % len(values)]

    def laid_out(self, channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
        case = self.case
        return (case.batch, *size, channels) if case.last else (case.batch, channels, *size)

    def arrays(self, dtype) -> tuple:
        """x, w and bias, x in the caller's layout."""
        case, seed, pool = self.case, self.seed, integers(dtype, 8)
        x = taken(pool, seed // 3, self.laid_out(case.ic, case.size), self.forms[0])
        w = taken(pool, seed // 5, case.w_shape, self.forms[1])
        if not case.bias:
            return x, w, None
        form = self.chosen(2, ("packed", "backwards"))
        return x, w, taken(integers(dtype, 99), seed // 11, (case.oc,), form)

    def residual(self, dtype) -> np.ndarray:
        shape = self.laid_out(self.case.oc, self.case.out_size)
        return taken(integers(dtype, 99), self.seed // 13, shape, self.forms[2])

    def given(self, dtype) -> dict[str, Any]:
        return self.options | ({"residual": self.residual(dtype)} if self.added else {})

    def expected(self) -> tuple[np.ndarray, float]:
        """The result in float64, in the caller's layout, and which share of the sums is zero."""
        case = self.case
        x, w, b = self.arrays(np.float64)
        if case.last:
            x = np.moveaxis(x, -1, 1)
        if 64 * case.chain + 200 > 2**24:
            raise ValueError("the sums of this case are not exact in float32")
        y = _twin.sums(case, x.astype(np.float64), w.astype(np.float64))
        if self.seed % COMPARED_EVERY == 0:
            compare(case.reference(reference, x, w, None), y, "the reference against the twin")
        zeros = 1 - np.count_nonzero(y) / y.size
        if b is not None:
            y += b.reshape(-1, *(1,) * case.dims)
        if case.last:
            y = np.moveaxis(y, 1, -1)
        residual = self.residual(np.float64) if self.added else None
        if self.added == "first":
            y = y + residual
        if self.activation is not None:
            y = ACTIVATED[self.activation](y)
        return (y + residual if self.added == "last" else y), zeros

    def judged(self, dtype) -> tuple:
        case, given = self.case, self.given(dtype)
        return _arguments.convolution(
            case.op, case.dims, case.transposed, *self.arrays(dtype), given["stride"],
            given["padding"], given.get("output_padding", 0), given["dilation"], given["groups"],
            None, given["activation"], given.get("layout"), None, given.get("residual"),
            given.get("residual_after", False),
        )  # fmt: skip

    def __str__(self) -> str:
        return "x {}, w {}, residual {}".format(*self.forms)


ACTIVATED = {
    "relu": lambda y: np.maximum(y, 0),
    "relu6": lambda y: np.clip(y, 0, 6),
    ("leaky_relu", 0.5): lambda y: np.where(y > 0, y, y / 2),
}


def check_conv(case: Case) -> dict[str, int]:
    trial = Trial(case)
    y, zeros = trial.expected()
    expected = [y.astype(dtype) for dtype in DTYPES]
    for dtype, want in zip(DTYPES, expected, strict=True):
        y = getattr(fc, case.op)(
            *trial.arrays(dtype), **trial.given(dtype), out=out_for(want, trial.seed)
        )
        compare(y, want, "the function", trial)
    calls = engines(trial, expected)
    return {"calls": calls + len(DTYPES), "untested": int(zeros > MOST_ZEROS)}


def engines(trial: Trial, expected: list[np.ndarray]) -> int:
    """Every algorithm on every ISA that can do the case; returns how many.

    Types, weights as they are and packed, and numbers of threads take turns.
    """
    calls, seed, prepared = 0, trial.seed, ({}, {})
    judged = [trial.judged(dtype) for dtype in DTYPES]
    for isa in _core.isas():
        for name in _core.algorithms():
            turn = seed + calls
            kind, packed = turn % 2, turn % 3 == 0
            threads = THREADS[turn // 2 % len(THREADS)]
            result = judged[kind][5]
            result.fill(np.nan)
            if on_engine(judged[kind], isa, name, threads, prepared[kind] if packed else None):
                calls += 1
                how = isa, name, f"threads={threads}", "packed weights" * packed
                compare(result, expected[kind], how, trial)
    return calls


def out_for(want: np.ndarray, seed: int) -> np.ndarray | None:
    """An array for the result, full of what is none of its numbers; or none."""
    kind = seed // 17 % 6
    if kind > 2:
        return None
    if kind == 0:
        out = np.empty((*want.shape, 2), want.dtype)[..., 0]
    elif kind == 1:
        out = np.empty(want.shape[::-1], want.dtype).transpose()
    else:
        out = np.empty(want.shape, want.dtype)
    out[...] = np.nan
    return out


def check_pool(pool: _pools.Pool) -> dict[str, int]:
    seed, calls, zeros = pool.seed, 0, 0.0
    indexed = pool.kind == "max" and seed % 3 == 0 and "global" not in pool.op
    form = FORMS[seed // 35 % len(FORMS)]
    # Of few values many are equal, which is what indices must be tested with.
    most = 8 if pool.kind == "avg" or seed % 2 else 3
    shape = pool.x_shape
    if pool.last:
        shape = (pool.batch, *pool.size, pool.channels)
    want = places = None
    for dtype in DTYPES:
        x = taken(integers(dtype, most), seed // 3, shape, form)
        if want is None:
            want, places, zeros = pooled(pool, x.astype(np.float64))
        expected = want.astype(dtype)
        if pool.kind == "avg":  # the sum is exact, and its division is rounded once
            expected /= _divisors(pool, dtype)
        options = pool.options() | ({"layout": "NHWC"} if pool.last else {})
        if indexed:
            options["return_indices"] = True
        for isa in _core.isas():
            threads = THREADS[(seed + calls) % len(THREADS)]
            with fc.using(isa=isa, threads=threads):
                y = getattr(fc, pool.op)(x, **options)
            how = isa, f"threads={threads}", "x", form
            if indexed:
                y, found = y
                compare(found, places, "indices", *how)
            compare(y, expected, *how)
            calls += 1
    return {"calls": calls, "untested": int(zeros > MOST_ZEROS)}


def _divisors(pool: _pools.Pool, dtype) -> np.ndarray:
    found = _pools.divisors(pool).astype(dtype)
    return found[..., None] if pool.last and found.ndim else found


def pooled(pool: _pools.Pool, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Maxima and their places, or sums, in the caller's layout; the share of zeros."""
    if pool.last:
        x = np.moveaxis(x, -1, 1)
    y, places = _pools.maxima(pool, x) if pool.kind == "max" else (_pools.sums(pool, x), None)
    if pool.seed % COMPARED_EVERY == 0:
        twin = y if places is not None else y / _pools.divisors(pool)
        slow = getattr(reference, pool.op)(x, **pool.options())
        compare(slow, twin, "the reference against the twin")
    zeros = np.count_nonzero(y == 0) / y.size
    if pool.last:
        y = np.moveaxis(y, 1, -1)
        places = None if places is None else np.moveaxis(places, 1, -1)
    return y, places, zeros


RUN = Run(
    line, check, cases=60_000, full=1_000_000,
    promise="sums of integers are exact in every algorithm, instruction set, type and layout",
)  # fmt: skip
