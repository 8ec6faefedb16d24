"""fastconv.nn: code written for torch.nn runs, agrees with torch.nn, and no layer is ever stale."""

import contextlib
import copy
import pickle
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
import fastconv.functional as F
import fastconv.nn as nn
from fastconv import _memory, reference

# Both sides compute in float64. A layer that means something else (an axis, a default, an order of
# arguments) differs in its leading digits, so half of the 52 bits is the question asked here.
HALF_OF_THE_DIGITS = 2.0**-26


def assert_agree(ours, theirs):
    ours, theirs = (r if isinstance(r, tuple) else (r,) for r in (ours, theirs))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        b = b.detach().numpy()
        assert a.dtype == b.dtype
        scale = max(1.0, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=0, atol=HALF_OF_THE_DIGITS * scale)


def random_state(module, rng):
    """Values for every entry of the state: positive, so that they can be variances as well."""
    return {
        key: np.array(3) if array.dtype.kind == "i" else rng.uniform(0.5, 1.5, array.shape)
        for key, array in module.state_dict().items()
    }


def whole_numbers(rng, shape):
    return rng.integers(-4, 5, shape).astype(np.float64)


def with_whole_numbers(module, rng):
    module = module.astype(np.float64)
    state = module.state_dict()
    module.load_state_dict({key: whole_numbers(rng, a.shape) for key, a in state.items()})
    return module


@pytest.fixture
def rng():
    return np.random.default_rng(11)


class Case(NamedTuple):
    name: str
    args: tuple
    options: dict
    shape: tuple

    def __str__(self):
        options = [f"{key}={value}" for key, value in self.options.items()]
        return f"{self.name}({', '.join([*map(str, self.args), *options])})-{self.shape}"

    def make(self, package=nn):
        return getattr(package, self.name)(*self.args, **self.options)


LINE, IMAGE, VOLUME = (2, 4, 9), (2, 4, 8, 9), (2, 4, 6, 7, 8)
SHAPES = {"1d": LINE, "2d": IMAGE, "3d": VOLUME}


def family(stem, args, **options):
    """The same layer in one, two and three dimensions."""
    return [Case(stem + dims, args, options, shape) for dims, shape in SHAPES.items()]


CASES = [
    *family("Conv", (4, 6, 3)),
    *family("Conv", (4, 6, 3, 2, 1), groups=2, bias=False),
    *family("Conv", (4, 4, 2), padding="same", dilation=2, groups=4),
    *family("Conv", (4, 6, 3), padding=2, padding_mode="reflect"),
    *family("Conv", (4, 6, 3), padding=1, padding_mode="replicate"),
    *family("Conv", (4, 6, 4), padding="same", padding_mode="circular"),
    Case("Conv2d", (4, 6, (3, 2)), dict(stride=(2, 1), padding=(1, 0), dilation=(1, 2)), IMAGE),
    Case("Conv2d", (4, 6, (3, 2)), dict(padding=(2, 1), padding_mode="circular"), IMAGE),
    Case("Conv2d", (4, 6, 3), {}, IMAGE[1:]),
    *family("ConvTranspose", (4, 6, 3)),
    *family("ConvTranspose", (4, 6, 3, 2, 1, 1, 2, False, 2)),
    Case("ConvTranspose2d", (4, 6, (3, 2)), dict(stride=(3, 2), output_padding=(2, 0)), IMAGE),
    *family("MaxPool", (3,)),
    *family("MaxPool", (3, 2, 1), return_indices=True),
    *family("MaxPool", (2, 3), dilation=2, ceil_mode=True),
    *family("AvgPool", (3,)),
    *family("AvgPool", (3, 2, 1), ceil_mode=True, count_include_pad=False),
    Case("AvgPool2d", ((3, 2),), dict(divisor_override=5), IMAGE),
    Case("AvgPool3d", (2,), dict(divisor_override=3), VOLUME),
    *family("LPPool", (2, 3)),
    *family("LPPool", (2, 2, 3), ceil_mode=True),
    *family("AdaptiveAvgPool", (4,)),
    *family("AdaptiveMaxPool", (4,)),
    *family("AdaptiveMaxPool", (3,), return_indices=True),
    Case("AdaptiveAvgPool2d", ((None, 2),), {}, IMAGE),
    *family("BatchNorm", (4,)),
    *family("BatchNorm", (4, 1e-3, None)),
    *family("BatchNorm", (4,), affine=False, track_running_stats=False),
    *family("BatchNorm", (4,), bias=False),
    Case("BatchNorm1d", (4,), {}, (5, 4)),
    *family("InstanceNorm", (4,)),
    *family("InstanceNorm", (4,), affine=True, track_running_stats=True),
    Case("InstanceNorm2d", (4,), dict(affine=True), IMAGE[1:]),
    Case("InstanceNorm1d", (4,), dict(affine=True, bias=False), LINE),
    Case("GroupNorm", (2, 4), {}, IMAGE),
    Case("GroupNorm", (4, 4, 1e-3, False), {}, LINE),
    Case("GroupNorm", (2, 4), dict(bias=False), IMAGE),
    Case("LayerNorm", (9,), {}, IMAGE),
    Case("LayerNorm", ((8, 9),), dict(bias=False), IMAGE),
    Case("LocalResponseNorm", (3,), {}, IMAGE),
    Case("LocalResponseNorm", (2, 0.3, 0.5, 2.0), {}, LINE),
    *(Case(name, (), {}, IMAGE) for name in ("ReLU", "ReLU6", "SiLU", "Hardsigmoid", "Hardswish")),
    *(Case(name, (), {}, IMAGE) for name in ("Sigmoid", "Tanh", "GELU", "Softplus", "PReLU")),
    *(Case(name, (), {}, IMAGE) for name in ("LeakyReLU", "ELU", "Identity")),
    Case("LeakyReLU", (0.3,), {}, LINE),
    Case("ELU", (0.7,), {}, LINE),
    Case("GELU", ("tanh",), {}, LINE),
    Case("Softplus", (2.0, 1.0), {}, LINE),
    Case("PReLU", (4,), {}, VOLUME),
    Case("Softmax", (1,), {}, IMAGE),
    Case("LogSoftmax", (-1,), {}, LINE),
    Case("Linear", (9, 5), {}, IMAGE),
    Case("Linear", (9, 5, False), {}, (9,)),
    Case("Flatten", (), {}, IMAGE),
    Case("Flatten", (0, -2), {}, IMAGE),
    Case("Unflatten", (1, (2, 2)), {}, IMAGE),
    Case("Unflatten", (-1, (-1, 3)), {}, LINE),
    Case("Upsample", (), dict(scale_factor=2), IMAGE),
    Case("Upsample", (), dict(scale_factor=(2, 1.5), mode="bilinear"), IMAGE),
    Case("Upsample", ((5, 12),), dict(mode="bilinear", align_corners=True), IMAGE),
    Case("Upsample", (12,), dict(mode="linear"), LINE),
    Case("PixelShuffle", (2,), {}, IMAGE),
    Case("PixelUnshuffle", (2,), {}, (2, 3, 8, 6)),
    Case("ChannelShuffle", (2,), {}, IMAGE),
    Case("Unfold", (3, 1, 1, 2), {}, IMAGE),
    Case("Fold", ((6, 5), 2), {}, (2, 12, 20)),
    *family("ZeroPad", (2,)),
    *family("ConstantPad", (1, 2.5)),
    *family("ReflectionPad", (2,)),
    *family("ReplicationPad", (2,)),
    *family("CircularPad", (2,)),
    Case("ZeroPad2d", ((1, 0, 2, 3),), {}, IMAGE),
    Case("ReflectionPad2d", ((1, 0, 2, 3),), {}, IMAGE),
]

# Tested by themselves: they take two arrays, are random, or have no twin in torch.nn.
ELSEWHERE = {"MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "DepthwiseSeparableConv2d"} | {
    "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "Sequential", "ModuleList", "Module",
}  # fmt: skip


def test_every_public_layer_is_tested():
    layers = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)} - {"Parameter"}
    assert layers == {case.name for case in CASES} | ELSEWHERE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_layer_agrees_with_torch_on_the_same_state(case, rng):
    torch = pytest.importorskip("torch")
    theirs, ours = case.make(torch.nn).double(), case.make().astype(np.float64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    state = random_state(ours, rng)
    ours.load_state_dict(state)
    theirs.load_state_dict({key: torch.tensor(array) for key, array in state.items()})
    x = rng.standard_normal(case.shape)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        assert_agree(ours(x), theirs(torch.tensor(x)))
        for key, array in theirs.state_dict().items():
            assert_agree(ours.state_dict()[key], array)


@pytest.mark.parametrize("dims", SHAPES)
def test_unpooling_agrees_with_torch(dims, rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal(SHAPES[dims])
    results = []
    for package, array in ((nn, x), (torch.nn, torch.tensor(x))):
        pool = getattr(package, "MaxPool" + dims)(3, 2, 1, return_indices=True)
        unpool = getattr(package, "MaxUnpool" + dims)(3, 2, 1)
        results.append(unpool(*pool(array), output_size=list(x.shape)))
    assert_agree(*results)


@pytest.mark.parametrize("size", [[15, 17], [16, 18], [2, 6, 15, 18]])
def test_transposed_convolution_takes_an_output_size(size):
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1)
    result = layer(np.ones(IMAGE, np.float32), output_size=size)
    assert result.shape[2:] == tuple(size[-2:])
    with pytest.raises(ValueError, match="output_size must lie in"):
        layer(np.ones(IMAGE, np.float32), output_size=[15, 19])


def test_same_padding_with_a_stride_has_the_size_of_ceil():
    x = np.ones((1, 1, 10, 11), np.float32)
    for mode in ("zeros", "circular"):
        for rule in ("same", "same_lower"):
            layer = nn.Conv2d(1, 1, 4, stride=3, padding=rule, padding_mode=mode)
            assert layer(x).shape == (1, 1, 4, 4)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_padding_may_be_a_pair_an_axis(mode, rng):
    name = "zeros" if mode == "constant" else mode
    layer = nn.Conv2d(2, 3, 3, padding=((1, 2), (0, 3)), padding_mode=name)
    layer = with_whole_numbers(layer, rng)
    x = whole_numbers(rng, (2, 2, 5, 6))
    padded = reference.pad(x, (0, 3, 1, 2), mode)
    assert_array_equal(layer(x), reference.conv2d(padded, layer.weight, layer.bias))


def test_circular_same_padding_puts_the_odd_element_where_the_rule_says():
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    # A window of four is continued by one and two; its first tap shows how many came before.
    for rule, first in (("same", 3), ("same_lower", 2)):
        layer = nn.Conv1d(1, 1, 4, padding=rule, padding_mode="circular", bias=False)
        layer.weight = [[[1, 0, 0, 0]]]
        assert layer(x)[0, 0, 0] == first


# Code written for torch.nn


def user_code(nn, F):
    """Networks as people write them; nothing in here knows which package it runs on."""

    class GroupedNet(nn.Module):
        def __init__(self, in_channels, width=8, groups=4):
            super(GroupedNet, self).__init__()  # noqa: UP008
            self.conv1 = nn.Conv2d(
                in_channels=in_channels, out_channels=width, kernel_size=3, stride=1, padding=1
            )
            self.conv2 = nn.Conv2d(
                in_channels=width, out_channels=width, kernel_size=3, padding=1, groups=groups
            )
            self.shuffle = nn.ChannelShuffle(groups)
            self.relu = nn.ReLU(inplace=True)
            self.pool = nn.MaxPool2d(kernel_size=2, stride=2)

        def forward(self, x):
            x = self.relu(self.conv1(x))
            x = self.pool(self.shuffle(F.relu(self.conv2(x))))
            return x

    class DepthwiseSeparable(nn.Module):
        def __init__(self, in_channels, out_channels):
            super(DepthwiseSeparable, self).__init__()  # noqa: UP008
            self.depthwise = nn.Conv2d(
                in_channels, in_channels, kernel_size=3, padding=1, groups=in_channels
            )
            self.pointwise = nn.Conv2d(in_channels, out_channels, kernel_size=1)

        def forward(self, x):
            return self.pointwise(self.depthwise(x))

    class Residual(nn.Module):
        def __init__(self, channels, down=None):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
            self.down = down
            self.norms = nn.ModuleList([nn.GroupNorm(2, channels) for _ in range(2)])

        def forward(self, x):
            out = self.body(x)
            for norm in self.norms:
                out = norm(out)
            out = out + (x if self.down is None else self.down(x))
            out = F.adaptive_avg_pool2d(F.leaky_relu(out, 0.2), (1, 1))
            return F.softmax(out.reshape(out.shape[0], -1), dim=1)

    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.LeakyReLU(0.1, inplace=True)
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            # The activation writes into x, so that the sum sees the activated x.
            x = x + 0
            return self.conv(self.act(x)) + x

    lenet = nn.Sequential(
        nn.Conv2d(1, 6, kernel_size=5, padding=2), nn.Tanh(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Conv2d(6, 16, kernel_size=5), nn.Tanh(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120), nn.Tanh(),
        nn.Linear(120, 84), nn.Tanh(),
        nn.Linear(84, 10),
    )  # fmt: skip
    return {
        "grouped": (GroupedNet(in_channels=3), (2, 3, 8, 8)),
        "separable": (DepthwiseSeparable(3, out_channels=5), (2, 3, 7, 7)),
        "residual": (Residual(4), (3, 4, 6, 6)),
        "residual_down": (Residual(4, down=nn.Conv2d(4, 4, 1)), (3, 4, 6, 6)),
        "pre_activation": (PreActivation(), (2, 4, 6, 6)),
        "lenet": (lenet, (2, 1, 28, 28)),
    }


@pytest.mark.parametrize("name", user_code(nn, F))
def test_user_code_agrees_with_torch(name, rng):
    torch = pytest.importorskip("torch")
    ours, shape = user_code(nn, F)[name]
    theirs, _ = user_code(torch.nn, torch.nn.functional)[name]
    ours, theirs = ours.astype(np.float64).eval(), theirs.double().eval()
    # The state goes through torch's own tensors and back, as a checkpoint's does.
    ours.load_state_dict(theirs.state_dict())
    x = rng.standard_normal(shape)
    assert_agree(ours(x), theirs(torch.tensor(x)))
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    assert [n for n, _ in ours.named_children()] == [n for n, _ in theirs.named_children()]
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in ours.named_buffers()] == [n for n, _ in theirs.named_buffers()]


def test_a_grouped_model_is_exact(rng):
    model = with_whole_numbers(user_code(nn, F)["grouped"][0], rng)
    x = whole_numbers(rng, (2, 3, 8, 8))
    state = model.state_dict()
    y = reference.conv2d(x, state["conv1.weight"], state["conv1.bias"], padding=1)
    y = np.maximum(y, 0)
    y = reference.conv2d(y, state["conv2.weight"], state["conv2.bias"], padding=1, groups=4)
    y = np.maximum(y, 0).reshape(2, 4, 2, 8, 8).swapaxes(1, 2).reshape(2, 8, 8, 8)
    y = y.reshape(2, 8, 4, 2, 4, 2).max(axis=(3, 5))
    assert np.count_nonzero(y) > y.size / 3
    assert_array_equal(model(x), y)


def test_depthwise_separable_is_two_convolutions_and_nothing_between(rng):
    layer = nn.DepthwiseSeparableConv2d(3, 5, 3, stride=2, padding=1, dilation=1)
    assert [name for name, _ in layer.named_children()] == ["depthwise", "pointwise"]
    assert isinstance(layer.depthwise, nn.Conv2d)
    assert isinstance(layer.pointwise, nn.Conv2d)
    assert layer.depthwise.weight.shape == (3, 1, 3, 3)
    assert layer.pointwise.weight.shape == (5, 3, 1, 1)
    layer = with_whole_numbers(layer, rng)
    x = whole_numbers(rng, (2, 3, 9, 8))
    deep, point = layer.depthwise, layer.pointwise
    y = reference.conv2d(x, deep.weight, deep.bias, stride=2, padding=1, groups=3)
    assert_array_equal(layer(x), reference.conv2d(y, point.weight, point.bias))
    assert nn.DepthwiseSeparableConv2d(3, 5, 3, bias=False).pointwise.bias is None


def test_lenet_has_the_shapes_and_parameters_of_the_paper():
    net, _ = user_code(nn, F)["lenet"]
    assert sum(p.size for p in net.parameters()) == 61706
    shapes, x = [], np.zeros((1, 1, 28, 28), np.float32)
    for layer in net:
        x = layer(x)
        shapes.append(x.shape[1:])
    assert [shapes[i] for i in (0, 2, 3)] == [(6, 28, 28), (6, 14, 14), (16, 10, 10)]
    assert shapes[-1] == (10,)


def test_pooling_with_padding_makes_17_of_32_and_pad_makes_34():
    x = np.zeros((1, 3, 32, 32), np.float32)
    assert nn.MaxPool2d(2, 2, padding=1)(x).shape == (1, 3, 17, 17)
    assert F.pad(x, (1, 1, 1, 1)).shape == (1, 3, 34, 34)
    assert nn.Conv2d(3, 8, 3, padding=1)(x).shape == (1, 8, 32, 32)


def test_functional_is_found_under_the_name_torch_has_for_it():
    import fastconv.nn.functional as other

    assert other is F is nn.functional


# No layer is ever stale

LAYERS_WITH_ARRAYS = [
    (nn.Conv2d, (2, 3, 3), (1, 2, 6, 6)),
    (nn.Conv1d, (2, 2, 3, 1, "same"), (1, 2, 6)),
    (nn.ConvTranspose2d, (2, 3, 3), (1, 2, 6, 6)),
    (nn.Linear, (6, 4), (5, 6)),
    (nn.PReLU, (2,), (1, 2, 6)),
    (nn.BatchNorm2d, (2,), (3, 2, 4, 4)),
    (nn.InstanceNorm1d, (2, 1e-5, 0.1, True, True), (3, 2, 4)),
    (nn.GroupNorm, (1, 2), (3, 2, 4)),
    (nn.LayerNorm, (4,), (3, 4)),
]
ARRAYS = [
    pytest.param(make, args, shape, name, id=f"{make.__name__}-{name}")
    for make, args, shape in LAYERS_WITH_ARRAYS
    for name, array in make(*args).state_dict().items()
    if array.dtype.kind == "f"
]


def add_one(array):
    array += 1


def zero_first(array):
    array.reshape(-1)[0] = 0


WRITES = {
    "item": lambda a: a.__setitem__(..., 0),
    "augmented": add_one,
    "fill": lambda a: a.fill(0),
    "copyto": lambda a: np.copyto(a, 0),
    "out": lambda a: np.add(a, 1, out=a),
    "view": zero_first,
    "transpose": lambda a: a.T.fill(0),
    "sort": lambda a: a.sort(),
    "setflags": lambda a: a.setflags(write=True),
    "flags": lambda a: setattr(a.flags, "writeable", True),
    "view's setflags": lambda a: a[...].setflags(write=True),
    "base's setflags": lambda a: a.base.setflags(write=True),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("make, args, shape, name", ARRAYS)
def test_a_write_into_an_array_raises_and_changes_nothing(make, args, shape, name, write, rng):
    layer = make(*args).eval()
    x = rng.standard_normal(shape).astype(np.float32)
    before = layer(x)
    handed_out = [getattr(layer, name), layer.state_dict()[name]]
    handed_out += [a for n, a in [*layer.named_parameters(), *layer.named_buffers()] if n == name]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.copy(layer)):
        handed_out.append(getattr(twin, name))
    for array in handed_out:
        with pytest.raises(ValueError, match="read-only|WRITEABLE"):
            write(array)
    assert memoryview(handed_out[0]).readonly
    assert_array_equal(layer(x), before)


@pytest.mark.parametrize("make, args, shape, name", ARRAYS)
def test_the_next_result_uses_what_was_assigned(make, args, shape, name, rng):
    layer = make(*args).eval()
    x = rng.standard_normal(shape).astype(np.float32)
    before = layer(x)
    source = rng.uniform(2, 3, getattr(layer, name).shape).astype(np.float32)
    fresh = make(*args).eval()
    fresh.load_state_dict({**layer.state_dict(), name: source})
    assigned, registered, loaded = (copy.deepcopy(layer) for _ in range(3))
    for twin in (assigned, registered, loaded):
        assert_array_equal(twin(x), before)
    setattr(assigned, name, source)
    setattr(registered, name, nn.Parameter(source))
    loaded.load_state_dict({name: source}, strict=False)
    expected = fresh(x)
    assert not np.array_equal(expected, before)
    for twin in (assigned, registered, loaded):
        assert_array_equal(twin(x), expected)
    # Neither the array that was assigned nor the layer that was copied has a way in.
    source[...] = 0
    for twin in (assigned, registered, loaded, fresh):
        assert_array_equal(twin(x), expected)
    assert_array_equal(layer(x), before)


def test_augmented_assignment_raises_and_leaves_the_layer_as_it_was():
    layer = nn.Linear(3, 2)
    before = layer.weight.copy()
    with pytest.raises(ValueError, match="read-only"):
        layer.weight += 1
    layer.weight = layer.weight + 1
    assert_array_equal(layer.weight, before + 1)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_reshaping_what_was_handed_out_does_not_reach_the_layer():
    layer = nn.Conv2d(2, 3, 3)
    for array in (layer.weight, layer.weight.base, layer.state_dict()["weight"]):
        array.shape = (54,)
    assert layer.weight.shape == (3, 2, 3, 3)
    assert layer(np.ones((1, 2, 5, 5), np.float32)).shape == (1, 3, 3, 3)


def test_whatever_replaces_an_array_drops_what_was_prepared_from_it():
    layer = nn.Conv2d(2, 3, 3)
    changes = [
        lambda m: setattr(m, "weight", m.weight * 2),
        lambda m: setattr(m, "bias", None),
        lambda m: setattr(m, "bias", nn.Parameter(np.zeros(3))),
        lambda m: delattr(m, "bias"),
        lambda m: m.register_parameter("bias", None),
        lambda m: m.register_buffer("extra", np.zeros(2)),
        lambda m: m.load_state_dict(m.state_dict()),
    ]
    for change in changes:
        layer._prepared = "packed"
        change(layer)
        assert not hasattr(layer, "_prepared")
    layer._prepared = "packed"
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.astype("f8")):
        assert not hasattr(twin, "_prepared")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_call_copies_no_weights(dtype):
    layer = nn.Conv2d(64, 64, 3, padding=1, dtype=dtype)
    x = np.ones((1, 64, 4, 4), dtype)
    layer(x)
    tracemalloc.start()
    try:
        layer(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < layer.weight.nbytes / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_linear_layer_packs_once_and_computes_in_its_own_type(dtype, monkeypatch):
    layer, x = nn.Linear(70, 40, dtype=dtype), np.random.default_rng(3).random((50, 70), dtype)
    want, packs = fc.linear(x, layer.weight, layer.bias), []
    real = _memory.packed
    monkeypatch.setattr(_memory, "packed", lambda n: packs.append(n) or real(n))
    for _ in range(3):
        np.testing.assert_array_equal(layer(x), want)
        np.testing.assert_array_equal(layer(x.astype(np.float64)), want)
    assert len(packs) == 1
    layer.weight = layer.weight * 2
    np.testing.assert_array_equal(layer(x), fc.linear(x, layer.weight, layer.bias))
    assert len(packs) == 2


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
def test_packed_weights_serve_the_plans_they_fit(op, groups):
    """Whatever a layer has packed for one algorithm, image or geometry, the next call is right."""
    rng = np.random.default_rng(5)
    kind = {"conv2d": nn.Conv2d, "conv_transpose2d": nn.ConvTranspose2d}[op]
    layer = kind(4, 12, 4, 3, 2, groups=groups)
    layer.weight = rng.integers(-4, 5, layer.weight.shape).astype(np.float32)
    for size in ((1, 2), (3, 1), (9, 5), (16, 16)):
        x = rng.integers(-4, 5, (2, 4, *size)).astype(np.float32)
        for layer.stride, layer.padding in (((3, 3), (1, 1)), ((2, 1), (1, 1)), ((3, 3), (1, 0))):
            options = {"stride": layer.stride, "padding": layer.padding, "groups": groups}
            try:
                want = getattr(reference, op)(x, layer.weight, layer.bias, **options)
            except ValueError:
                continue  # an image smaller than the kernel
            for algorithm in (*fc._core.algorithms(), None, *reversed(fc._core.algorithms())):
                with fc.using(algorithm=algorithm), contextlib.suppress(ValueError):
                    np.testing.assert_allclose(
                        layer(x), want, 1e-5, 1e-4, err_msg=f"{algorithm} {size} {options}"
                    )


def test_one_parameter_given_to_two_layers_makes_two_copies():
    shared = nn.Parameter(np.ones((2, 3), np.float32))
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    a.weight = b.weight = shared
    a.weight = np.zeros((2, 3))
    assert_array_equal(b.weight, np.ones((2, 3)))


# Parameters


@pytest.mark.parametrize(
    "value, error, message",
    [
        (np.zeros((3, 4)), ValueError, r"Linear.weight: expected shape \(2, 3\), got \(3, 4\)"),
        (np.zeros((2, 3), complex), TypeError, "Linear.weight: .*complex128"),
        (np.zeros((2, 3), bool), TypeError, "Linear.weight: .*bool"),
        (np.zeros((2, 3), object), TypeError, "Linear.weight: .*object"),
        (np.ma.zeros((2, 3)), TypeError, "Linear.weight: a masked array"),
    ],
)
def test_assignment_judges_what_it_gets(value, error, message):
    layer = nn.Linear(3, 2)
    before = layer.weight
    with pytest.raises(error, match=message):
        layer.weight = value
    assert_array_equal(layer.weight, before)


def test_a_name_means_one_thing():
    layer = nn.Linear(3, 2)
    layer.weight = nn.ReLU()
    assert list(layer.state_dict()) == ["bias"]
    assert repr(layer.weight) == "ReLU()"
    layer.plain = 1
    layer.plain = nn.Parameter(np.ones(2))
    assert list(layer.state_dict()) == ["bias", "plain"]
    layer.register_buffer("plain", np.zeros(3))
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert_array_equal(layer.plain, np.zeros(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_assignment_keeps_the_type_of_the_layer(dtype):
    layer = nn.Linear(3, 2, dtype=dtype)
    for value in ([[1, 2, 3], [4, 5, 6]], np.ones((2, 3), ">f8"), np.ones((3, 2), np.float32).T):
        layer.weight = value
        assert layer.weight.dtype == dtype
        assert layer.weight.dtype.isnative
        assert layer.weight.flags.c_contiguous
        assert_array_equal(layer.weight, value)


def test_a_parameter_that_is_none_wants_a_parameter():
    layer = nn.Linear(3, 2, bias=False)
    assert layer.bias is None
    with pytest.raises(TypeError, match="Linear.bias is None"):
        layer.bias = np.ones(2)
    layer.bias = nn.Parameter(np.ones(2, np.float32))
    assert list(layer.state_dict()) == ["weight", "bias"]
    with pytest.raises(TypeError, match="float32 or float64"):
        nn.Parameter(np.ones(2, int))


@pytest.mark.parametrize(
    "make, fan_in",
    [
        (lambda: nn.Conv2d(8, 16, 5, groups=2), 4 * 25),
        (lambda: nn.Conv1d(64, 64, 3), 64 * 3),
        (lambda: nn.ConvTranspose2d(8, 16, 5, groups=2), 8 * 25),
        (lambda: nn.Linear(50, 60), 50),
    ],
)
def test_layers_start_uniform_with_the_bound_of_their_fan_in(make, fan_in):
    nn.manual_seed(3)
    layer = make()
    bound = fan_in**-0.5
    assert np.abs(layer.bias).max() <= bound
    # Uniform: the sorted numbers follow the diagonal; Kolmogorov's bound at 1 in 10^6.
    w = np.sort(layer.weight, axis=None) / bound
    distance = np.abs((w + 1) / 2 - (np.arange(w.size) + 0.5) / w.size).max()
    assert distance <= np.sqrt(np.log(2e6) / 2 / w.size) + 0.5 / w.size


def test_a_seed_makes_the_start_repeatable():
    starts = []
    for seed in (5, 5, 6):
        nn.manual_seed(seed)
        starts.append(nn.Conv2d(2, 3, 3).weight)
    assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


# State


def small_net():
    return nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3))


def test_strict_loading_names_missing_and_unexpected_keys():
    net = small_net()
    state = dict(net.state_dict())
    state["2.weight"] = state.pop("0.weight") * 2
    state["1.bias"] = np.ones(3)
    with pytest.raises(ValueError, match=r"missing keys: \['0.weight'\].*keys: \['2.weight'\]"):
        net.load_state_dict(state)
    assert_array_equal(net[1].bias, np.zeros(3))
    keys = net.load_state_dict(state, strict=False)
    assert keys.missing_keys == ["0.weight"]
    assert keys.unexpected_keys == ["2.weight"]
    assert_array_equal(net[1].bias, np.ones(3))
    assert net.load_state_dict(net.state_dict()) == ([], [])


@pytest.mark.parametrize("strict", [True, False])
def test_a_shape_that_differs_leaves_the_whole_network_as_it_was(strict):
    net = small_net()
    before = net.state_dict()
    state = {key: array + 1 for key, array in before.items()}
    state["1.running_var"] = np.ones(4)
    with pytest.raises(ValueError, match=r"1.running_var: expected shape \(3,\), got \(4,\)"):
        net.load_state_dict(state, strict)
    for key, array in net.state_dict().items():
        assert_array_equal(array, before[key])


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_give_the_same_and_are_independent(twin, rng):
    net = small_net().eval()
    x = rng.standard_normal((2, 2, 6, 6)).astype(np.float32)
    before = net(x)
    other = twin(net)
    assert_array_equal(other(x), before)
    assert not other[1].training
    other[0].weight = other[0].weight * 2
    other.append(nn.ReLU())
    assert len(net) == 2
    assert_array_equal(net(x), before)


def test_astype_gives_a_copy_of_another_type(rng):
    net = small_net()
    double = net.astype(np.float64)
    types = {key: array.dtype for key, array in double.state_dict().items()}
    assert types.pop("1.num_batches_tracked") == np.int64
    assert set(types.values()) == {np.dtype(np.float64)}
    assert net[0].weight.dtype == np.float32
    x = rng.standard_normal((2, 2, 6, 6))
    assert double(x).dtype == np.float64
    assert net(x.astype(np.float32)).dtype == np.float32
    back = double.astype("f4")
    assert_array_equal(back[0].weight, net[0].weight)
    for dtype in (np.float16, np.int32, complex):
        with pytest.raises(TypeError, match="float32 or float64"):
            net.astype(dtype)


def test_batch_norm_learns_its_statistics_in_training_only(rng):
    layer = nn.BatchNorm1d(3, momentum=None).astype(np.float64)
    batches = rng.standard_normal((4, 10, 3))
    for batch in batches:
        layer(batch)
    assert layer.num_batches_tracked == 4
    mean = batches.mean(axis=(0, 1))
    np.testing.assert_allclose(layer.running_mean, mean, rtol=0, atol=HALF_OF_THE_DIGITS)
    state = layer.eval().state_dict()
    layer(batches[0] + 1)
    for key, array in layer.state_dict().items():
        assert_array_equal(array, state[key])


def test_train_and_eval_reach_every_module():
    net = nn.Sequential(nn.ModuleList([nn.Dropout()]), nn.BatchNorm2d(2))
    assert all(m.training for m in net.modules())
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())


# Dropout


@pytest.mark.parametrize(
    "make, shape, together",
    [
        (nn.Dropout, (40, 50), ()),
        (nn.Dropout1d, (20, 30, 5), (2,)),
        (nn.Dropout2d, (20, 30, 5, 2), (2, 3)),
        (nn.Dropout2d, (300, 5, 2), (1, 2)),
        (nn.Dropout3d, (20, 30, 2, 2, 2), (2, 3, 4)),
    ],
)
def test_dropout_zeroes_elements_or_whole_channels(make, shape, together):
    layer, x = make(0.25), np.ones(shape, np.float32)
    y = layer(x)
    assert y.dtype == x.dtype
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    kept = np.count_nonzero(y, axis=together) if together else y != 0
    assert set(np.unique(kept)) == {0, np.prod([shape[a] for a in together], dtype=int)}
    # A share of zeros this far from p has a chance of 1 in 10^6 (Hoeffding).
    assert abs(np.mean(kept == 0) - 0.25) <= np.sqrt(np.log(2e6) / 2 / kept.size)
    assert_array_equal(layer.eval()(x), x)


@pytest.mark.parametrize("make", [nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ELU])
def test_in_place_layers_return_what_they_got(make):
    x = np.full((1, 20, 2, 2), -1.0)
    y = make(inplace=True)(x)
    assert y is x
    assert not np.any(x == -1)


def test_dropout_judges_its_probability():
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"Dropout2d: p must lie in \[0, 1\]"):
            nn.Dropout2d(p)


# The tree


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(np.full(2, 3.0))
        self.shared = nn.Linear(2, 2)
        self.again = self.shared
        self.register_buffer("grid", np.arange(2))
        self.register_buffer("scratch", np.arange(3), persistent=False)
        self.nothing = None
        self.plain = np.zeros(2)

    def forward(self, x, *, times=1):
        return self.again(self.shared(x)) * self.scale * times


def test_a_module_knows_its_own():
    net = Nested()
    keys = ["scale", "grid", "shared.weight", "shared.bias", "again.weight", "again.bias"]
    assert list(net.state_dict()) == keys
    assert list(net.state_dict(prefix="net.")) == ["net." + key for key in keys]
    assert [n for n, _ in net.named_parameters()] == ["scale", "shared.weight", "shared.bias"]
    assert [n for n, _ in net.named_parameters("p", recurse=False)] == ["p.scale"]
    assert [n for n, _ in net.named_buffers()] == ["grid", "scratch"]
    assert [a.shape for a in net.buffers()] == [(2,), (3,)]
    assert [a.shape for a in net.parameters()] == [(2,), (2, 2), (2,)]
    assert [n for n, _ in net.named_modules()] == ["", "shared"]
    assert list(net.children()) == [net.shared]
    assert net.again is net.shared
    assert net.grid.dtype == np.arange(2).dtype
    net.plain[0] = 1
    del net.scale
    assert not hasattr(net, "scale")


def test_keywords_reach_forward(rng):
    net = Nested().astype(np.float64)
    x = rng.standard_normal((4, 2))
    assert_array_equal(net(x, times=2), net(x) * 2)


def test_apply_goes_from_the_leaves_to_the_root():
    net, seen = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh()), []
    assert net.apply(lambda m: seen.append(type(m).__name__)) is net
    assert seen == ["ReLU", "Sequential", "Tanh", "Sequential"]


def test_what_a_module_refuses():
    class Forgetful(nn.Module):
        def __init__(self):
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match="call Module.__init__"):
        Forgetful()
    net = nn.Module()
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        net(1)
    with pytest.raises(AttributeError, match="'Module' object has no attribute 'missing'"):
        net.missing  # noqa: B018
    for name, error in (
        (1, TypeError),
        ("", ValueError),
        ("a.b", ValueError),
        ("eval", ValueError),
    ):
        with pytest.raises(error):
            net.add_module(name, nn.ReLU())
        with pytest.raises(error):
            net.register_buffer(name, np.zeros(2))
        with pytest.raises(error):
            net.register_parameter(name, np.zeros(2))
    with pytest.raises(TypeError, match="expected a Module"):
        net.add_module("layer", np.zeros(2))
    net.layer = nn.ReLU()
    with pytest.raises(TypeError, match="expected a Module or None"):
        net.layer = np.zeros(2)


def test_rows_behave_like_lists():
    a, b, c, d = nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.SiLU()
    for make in (lambda *m: nn.Sequential(*m), lambda *m: nn.ModuleList(m)):
        row = make(a, b, c)
        assert (len(row), row[0], row[-1], list(row[1:])) == (3, a, c, [b, c])
        assert type(row[1:]) is type(row)
        assert list(row[1:].append(d)) == [b, c, d]
        assert list(row) == [a, b, c]
        row[-1] = d
        del row[0]
        assert list(row.extend([a])) == [b, d, a]
        assert [name for name, _ in row.named_children()] == ["0", "1", "2"]
        with pytest.raises(IndexError, match="no module 3 of 3"):
            row[3]
    named = nn.Sequential(OrderedDict(first=a, second=b))
    assert [name for name, _ in named.named_children()] == ["first", "second"]
    assert named.second is b


REPRS = [
    (nn.Conv2d(3, 16, 3), "Conv2d(3, 16, kernel_size=(3, 3), stride=(1, 1))"),
    (
        nn.Conv1d(4, 8, 3, 2, 1, 2, 2, False, "reflect"),
        "Conv1d(4, 8, kernel_size=(3,), stride=(2,), padding=(1,), dilation=(2,), groups=2, "
        "bias=False, padding_mode=reflect)",
    ),
    (
        nn.Conv2d(3, 16, (3, 2), padding="same"),
        "Conv2d(3, 16, kernel_size=(3, 2), stride=(1, 1), padding=same)",
    ),
    (
        nn.ConvTranspose2d(4, 8, 3, 2, 1, 1, 2, False, 2),
        "ConvTranspose2d(4, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), "
        "dilation=(2, 2), output_padding=(1, 1), groups=2, bias=False)",
    ),
    (
        nn.MaxPool2d(2, 2, padding=1),
        "MaxPool2d(kernel_size=2, stride=2, padding=1, dilation=1, ceil_mode=False)",
    ),
    (nn.AvgPool1d(2), "AvgPool1d(kernel_size=(2,), stride=(2,), padding=(0,))"),
    (nn.AvgPool2d(2), "AvgPool2d(kernel_size=2, stride=2, padding=0)"),
    (nn.LPPool2d(2, 3), "LPPool2d(norm_type=2, kernel_size=3, stride=None, ceil_mode=False)"),
    (nn.AdaptiveMaxPool1d(3), "AdaptiveMaxPool1d(output_size=3)"),
    (nn.MaxUnpool2d(2), "MaxUnpool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))"),
    (
        nn.BatchNorm2d(4),
        "BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)",
    ),
    (nn.GroupNorm(2, 4), "GroupNorm(2, 4, eps=1e-05, affine=True)"),
    (nn.LayerNorm(4), "LayerNorm((4,), eps=1e-05, elementwise_affine=True)"),
    (nn.LocalResponseNorm(5), "LocalResponseNorm(5, alpha=0.0001, beta=0.75, k=1.0)"),
    (nn.ReLU(True), "ReLU(inplace=True)"),
    (nn.LeakyReLU(0.2, True), "LeakyReLU(negative_slope=0.2, inplace=True)"),
    (nn.Softplus(), "Softplus(beta=1.0, threshold=20.0)"),
    (nn.GELU(), "GELU(approximate='none')"),
    (nn.Softmax(1), "Softmax(dim=1)"),
    (nn.PReLU(), "PReLU(num_parameters=1)"),
    (nn.Linear(3, 4, bias=False), "Linear(in_features=3, out_features=4, bias=False)"),
    (nn.Flatten(), "Flatten(start_dim=1, end_dim=-1)"),
    (nn.Unflatten(1, (2, 2)), "Unflatten(dim=1, unflattened_size=(2, 2))"),
    (nn.Dropout2d(0.2), "Dropout2d(p=0.2, inplace=False)"),
    (nn.Upsample(scale_factor=(2, 3)), "Upsample(scale_factor=(2.0, 3.0), mode='nearest')"),
    (nn.ZeroPad2d(1), "ZeroPad2d((1, 1, 1, 1))"),
    (nn.ConstantPad1d(1, 3.5), "ConstantPad1d(padding=(1, 1), value=3.5)"),
    (
        nn.Fold((4, 4), 2),
        "Fold(output_size=(4, 4), kernel_size=2, dilation=1, padding=0, stride=1)",
    ),
    (nn.Sequential(), "Sequential()"),
    (
        nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.Sequential(OrderedDict(a=nn.Tanh()))]),
        "ModuleList(\n  (0-1): 2 x ReLU()\n  (2): Sequential(\n    (a): Tanh()\n  )\n)",
    ),
]


@pytest.mark.parametrize("layer, text", REPRS, ids=lambda v: type(v).__name__)
def test_reprs_are_those_of_torch(layer, text):
    assert repr(layer) == text


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: nn.Conv2d(0, 4, 3), ValueError, "Conv2d: in_channels must be positive, got 0"),
        (lambda: nn.Conv2d(4, -1, 3), ValueError, "Conv2d: out_channels must be positive"),
        (lambda: nn.Conv2d(4.0, 4, 3), TypeError, "Conv2d: in_channels must be an integer"),
        (lambda: nn.Conv2d(True, 4, 3), TypeError, "Conv2d: in_channels must be an integer"),
        (lambda: nn.Conv2d(4, 4, 3, groups=0), ValueError, "groups must be positive"),
        (lambda: nn.Conv2d(4, 6, 3, groups=3), ValueError, "in_channels 4 must be divisible"),
        (lambda: nn.Conv2d(6, 4, 3, groups=3), ValueError, "out_channels 4 must be divisible"),
        (lambda: nn.Conv2d(4, 4, (3, 3, 3)), ValueError, "kernel_size must be one value or 2"),
        (lambda: nn.Conv2d(4, 4, 0), ValueError, "kernel_size must be positive"),
        (lambda: nn.Conv2d(4, 4, 3, 0), ValueError, "stride must be positive"),
        (lambda: nn.Conv2d(4, 4, 3, padding="full"), ValueError, "padding must be .*got 'full'"),
        (lambda: nn.Conv2d(4, 4, 3, padding_mode="zero"), ValueError, "padding_mode must be one"),
        (lambda: nn.Conv2d(4, 4, 3, device="cuda"), ValueError, "device must be None or 'cpu'"),
        (lambda: nn.Conv2d(4, 4, 3, dtype=np.int64), TypeError, "float32 or float64"),
        (lambda: nn.ConvTranspose2d(4, 4, 3, padding="same"), TypeError, "padding must be numbers"),
        (lambda: nn.ConvTranspose1d(4, 4, 3, padding_mode="reflect"), ValueError, "padding_mode"),
        (lambda: nn.Linear(0, 4), ValueError, "Linear: in_features must be positive"),
        (lambda: nn.GroupNorm(3, 4), ValueError, "num_channels 4 must be divisible"),
        (lambda: nn.ZeroPad2d((1, 1)), ValueError, "padding must be one value or 4 values"),
        (lambda: nn.BatchNorm2d(3)(np.ones((2, 3))), ValueError, "expected 4-D input, got 2-D"),
        (lambda: nn.Dropout2d()(np.ones(3)), ValueError, "expected 3-D or 4-D input"),
        (lambda: nn.InstanceNorm1d(3)(np.ones((2, 4, 5))), ValueError, "expected 3 channels"),
        (lambda: nn.Flatten(3)(np.ones((2, 3))), IndexError, "Flatten: start_dim 3"),
        (lambda: nn.Unflatten(1, (2, 2))(np.ones((2, 3))), ValueError, "Unflatten: axis 1"),
    ],
)
def test_wrong_arguments_raise_and_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_importing_the_layers_imports_nothing_heavy():
    program = "import fastconv.nn, sys; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"numpy.random", "numpy.ma", "torch", "scipy"} & set(run.stdout.split())


def test_a_transposed_layer_of_very_many_phases_is_done_in_a_moment():
    """Packing by phases takes steps by their square: 30 000 of them would take minutes."""
    layer = nn.ConvTranspose1d(1, 2, 5, stride=30_000)
    x = np.arange(3, dtype=np.float32).reshape(1, 1, 3)
    y = layer(x)
    assert y.shape == (1, 2, 60_005)
    assert_array_equal(y, F.conv_transpose1d(x, layer.weight, layer.bias, 30_000))
    assert_array_equal(y[:, :, 5:30_000], np.broadcast_to(layer.bias[:, None], (1, 2, 29_995)))
