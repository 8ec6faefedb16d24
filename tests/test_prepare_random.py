"""Random networks of views, layers, sums and stacks: prepared, they compute what they compute step by step."""

import numpy as np
import pytest

import fastconv.nn as nn
from fastconv import functional as F

SEEDS = range(300)
STEPS = 14
MOST = 4000  # elements of a result


class Random(nn.Module):
    """The same steps at every call: each takes results so far and adds one more."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.integers(1, 7, rng.integers(2, 6)))
        self.x = rng.standard_normal(shape).astype(np.float32)
        self.steps = []
        results = [self.x]
        while len(self.steps) < STEPS:
            step = RULES[rng.integers(len(RULES))](rng, [y.shape for y in results])
            if step is None:
                continue
            sources, function = step
            y = function(*(results[i] for i in sources))
            if 0 < y.size <= MOST:
                self.steps.append(step)
                results.append(y)

    def forward(self, x):
        results = [x]
        for sources, function in self.steps:
            results.append(function(*(results[i] for i in sources)))
        return results[-1], results[-3]


def recent(rng, shapes, fits=lambda shape: True):
    """One of the last results that fit, or None."""
    found = [i for i, shape in enumerate(shapes) if i >= len(shapes) - 4 and fits(shape)]
    return int(rng.choice(found)) if found else None


def one(rng, shapes, function, fits=lambda shape: True):
    i = recent(rng, shapes, fits)
    return None if i is None else ([i], function(shapes[i]))


def reals(rng, *shape):
    scale = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 1
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def is_image(shape):
    return 3 <= len(shape) <= 5


def transposed(rng, shapes):
    def make(shape):
        axes = tuple(int(a) for a in rng.permutation(len(shape)))
        return lambda x: x.transpose(axes)

    return one(rng, shapes, make)


def sliced(rng, shapes):
    def make(shape):
        axis = int(rng.integers(len(shape)))
        part = [slice(1, None), slice(None, None, 2), slice(None, None, -1), slice(0, -1)]
        key = (slice(None),) * axis + (part[rng.integers(4)],)
        return lambda x: x[key]

    return one(rng, shapes, make, lambda shape: min(shape) > 1)


def reshaped(rng, shapes):
    def make(shape):
        axis = int(rng.integers(len(shape) - 1))
        merged = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
        return lambda x: x.reshape(merged)

    def split(shape):
        axis = [axis for axis, n in enumerate(shape) if n % 2 == 0][-1]
        new = (*shape[:axis], 2, shape[axis] // 2, *shape[axis + 1 :])
        return lambda x: x.reshape(new)

    if rng.integers(2):
        return one(rng, shapes, make, lambda shape: len(shape) > 2)
    return one(rng, shapes, split, lambda s: len(s) < 6 and any(n % 2 == 0 for n in s))


def linear(rng, shapes):
    def make(shape):
        n = int(rng.integers(1, 9))
        w, b = reals(rng, n, shape[-1]), reals(rng, n)
        return lambda x: F.linear(x, w, b)

    return one(rng, shapes, make)


def conv(rng, shapes):
    def make(shape):
        dims = len(shape) - 2
        groups = shape[1] if rng.integers(2) else 1
        per = shape[1] // groups
        oc, k = groups * int(rng.integers(1, 4)), int(rng.choice([1, 3]))
        w, b = reals(rng, oc, per, *(k,) * dims), reals(rng, oc)
        return lambda x: getattr(F, f"conv{dims}d")(x, w, b, 1, k // 2, 1, groups)

    return one(rng, shapes, make, is_image)


def scaled(rng, shapes):
    def make(shape):
        mean, var, w, b = (reals(rng, shape[1]) for _ in range(4))
        return lambda x: F.batch_norm(x, mean, abs(var) + 0.5, w, b)

    return one(rng, shapes, make, lambda shape: len(shape) >= 2)


def gated(rng, shapes):
    return one(rng, shapes, lambda _: lambda x: x * F.sigmoid(F.global_avg_pool(x)), is_image)


def activated(rng, shapes):
    name = ["relu", "sigmoid", "hardswish", "gelu", "tanh"][rng.integers(5)]
    return one(rng, shapes, lambda _: lambda x: getattr(F, name)(x))


def normalised(rng, shapes):
    def make(shape):
        if rng.integers(2):
            return lambda x: F.softmax(x, -1)
        return lambda x: F.layer_norm(x, shape[-1:])

    return one(rng, shapes, make)


def pooled(rng, shapes):
    kind = ["max", "avg"][rng.integers(2)]

    def make(shape):
        return lambda x: getattr(F, f"{kind}_pool{len(shape) - 2}d")(x, 2, 1)

    return one(rng, shapes, make, lambda shape: is_image(shape) and min(shape[2:]) > 1)


def shuffled(rng, shapes):
    return one(rng, shapes, lambda _: lambda x: F.channel_shuffle(x, 2),
               lambda shape: is_image(shape) and shape[1] % 2 == 0)  # fmt: skip


def added(rng, shapes):
    i = recent(rng, shapes)
    j = recent(rng, shapes, lambda shape: shape == shapes[i])
    return [i, j], lambda x, y: x + y


def stacked(rng, shapes):
    i = recent(rng, shapes)
    axis = int(rng.integers(len(shapes[i])))

    def fits(shape):
        rest = (*shape[:axis], *shape[axis + 1 :])
        return len(shape) == len(shapes[i]) and rest == (*shapes[i][:axis], *shapes[i][axis + 1 :])

    j = recent(rng, shapes, fits)
    return None if j is None else ([i, j], lambda x, y: np.concatenate([x, y], axis=axis))


RULES = [transposed, sliced, reshaped, linear, conv, scaled, gated, activated, normalised, pooled,
         shuffled, added, stacked, stacked]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_prepared_it_computes_the_same(seed):
    network = Random(seed).eval()
    expected = network(network.x)
    prepared = network.prepare(network.x.shape)
    for _ in range(2):
        for y, z in zip(prepared(network.x), expected, strict=True):
            assert y.shape == z.shape
            np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-4 * max(1, abs(z).max()))
