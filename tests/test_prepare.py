"""Prepared networks: the bits of the model, folding within its bound, memory, threads, other shapes."""

import gc
import threading
import weakref

import numpy as np
import pytest

import fastconv
from fastconv import _arguments, _core, models, nn
from fastconv import functional as F
from fastconv._graph import weights
from fastconv._graph.arena import Block, arrange, largest_live_set

# One of each family: what the others repeat is not tested again.
REPEATED = {"resnet34", "resnet101", "resnet152", "resnext101_32x8d", "vgg13", "vgg16", "vgg19"}
REPEATED |= {"vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"}
NETWORKS = [name for name in models.__all__ if name not in REPEATED]
LARGER = {"inception_v4": 75, "alexnet": 64, "nin": 64, "xception": 71, "lenet5": 28}

# Folding rounds scale * weight once more: by 2^-24 of each product. Through a network of depth n such errors
# add up like n of its layers' own rounding; a mistake in folding is larger by orders of magnitude.
FOLDED = 1e-5


def with_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model, with normalisation that does something."""
    rng = np.random.default_rng(seed)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            n = module.num_features
            module.running_mean = rng.normal(0, 0.1, n)
            module.running_var = rng.uniform(0.5, 1.5, n)
            module.weight = rng.uniform(0.5, 1.5, n)
            module.bias = rng.normal(0, 0.1, n)
    return model.eval()


def pictures(shape: tuple[int, ...], seed: int = 1, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def small_shape(name: str, batch: int = 1) -> tuple[int, ...]:
    size = LARGER.get(name, 48)
    return batch, 1 if name == "lenet5" else 3, size, size


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    fastconv.nn.manual_seed(0)
    make = getattr(models, request.param)
    if request.param.startswith("vgg"):
        return request.param, with_statistics(make(num_classes=10))
    return request.param, with_statistics(make())


def test_without_folding_the_bits_are_the_models(network):
    name, model = network
    x = pictures(small_shape(name))
    prepared = model.prepare(x.shape, fold=False)
    assert np.array_equal(prepared(x), model(x), equal_nan=True)


def test_folding_changes_the_last_digits_alone_and_memory_stays_within_bounds(network):
    name, model = network
    x = pictures(small_shape(name))
    expected, prepared = model(x), model.prepare(x.shape)
    result = prepared(x)
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        assert np.abs(result - expected).max() <= FOLDED * np.abs(expected).max()
    else:
        assert np.array_equal(result, expected)
    memory = prepared.memory
    arrays = [*model.parameters(), *model.buffers()]
    assert memory.buffers <= 1.1 * memory.largest_live_set
    assert memory.weights + memory.buffers <= 1.2 * sum(a.nbytes for a in arrays) + memory.buffers


# --- graphs of all sorts ------------------------------------------------------------------------


class Random(nn.Module):
    """A random network: every step takes results drawn from all before it, so that nothing is simple."""

    def __init__(self, seed: int, dtype=np.float32) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.plan, self.made = [], 0
        channels = [3]
        for _ in range(14):
            channels.append(self._draw(channels))
        last = [int(i) for i in self.rng.integers(0, len(channels), self.rng.integers(1, 4))]
        self.returned = [len(channels) - 1, *last]

    def _add(self, layer: nn.Module) -> str:
        self.made += 1
        self.add_module(f"layer{self.made}", layer)
        return f"layer{self.made}"

    def _draw(self, channels: list[int]) -> int:
        rng, last = self.rng, len(channels) - 1
        source = last if rng.random() < 0.6 else int(rng.integers(0, last + 1))
        c = channels[source]
        same = [i for i, n in enumerate(channels) if n == c]
        other = int(rng.choice(same))
        wide = int(rng.integers(1, 3)) * 4
        groups = 2 if c % 2 == 0 else 1
        kind = int(rng.integers(0, 12))
        if kind in (0, 1):
            layer = nn.Conv2d(c, wide, 3, padding=1, groups=groups, bias=bool(rng.integers(2)))
            self.plan.append(("layer", self._add(layer), source))
            return wide
        if kind == 2:
            layer = nn.ConvTranspose2d(c, wide, 3, padding=1, groups=groups)
            self.plan.append(("layer", self._add(layer), source))
            return wide
        layers = {
            3: nn.BatchNorm2d(c), 4: nn.ReLU(), 5: nn.GELU(), 6: nn.MaxPool2d(3, 1, 1),
            7: nn.ChannelShuffle(groups), 8: nn.Dropout(),
        }  # fmt: skip
        if kind in layers:
            self.plan.append(("layer", self._add(layers[kind]), source))
            return c
        if kind == 9:
            self.plan.append(("concat", source, other, last))
            return c + channels[other] + channels[last]
        if kind == 10 and c > 1:
            self.plan.append(("slice", source, c // 2))
            return c - c // 2
        self.plan.append(("add", source, other))
        return c

    def forward(self, x):
        values = [x]
        for what, *rest in self.plan:
            if what == "layer":
                value = getattr(self, rest[0])(values[rest[1]])
            elif what == "concat":
                value = np.concatenate([values[i] for i in rest], axis=1)
            elif what == "slice":
                value = values[rest[0]][:, rest[1] :]
            else:
                value = values[rest[0]] + values[rest[1]]
            values.append(value)
        return {"results": [values[i] for i in self.returned], "last": values[-1]}


@pytest.mark.parametrize("seed", range(60))
def test_random_networks_have_the_models_bits(seed):
    model = with_statistics(Random(seed), seed)
    if seed % 3 == 0:
        model = model.astype(np.float64)
    dtype = np.float64 if seed % 3 == 0 else np.float32
    x = pictures((1 + seed % 2, 3, 6, 5), seed, dtype)
    kept = x.copy()
    expected = model(x)
    exact, folded = model.prepare(x.shape, fold=False), model.prepare(x.shape)
    del model
    for _ in range(2):
        result = exact(x)
        for one, other in zip(result["results"], expected["results"], strict=True):
            assert np.array_equal(one, other)
        for one, other in zip(folded(x)["results"], expected["results"], strict=True):
            assert np.abs(one - other).max() <= FOLDED * max(np.abs(other).max(), 1)
        assert np.array_equal(x, kept)
        given = [*result["results"], result["last"]]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(given) for b in [x, *given[:i]])
    assert exact.memory.buffers <= 1.1 * exact.memory.largest_live_set


class Steps(nn.Module):
    """A network that is a function of its layers."""

    def __init__(self, function, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def assert_prepared(model: nn.Module, *inputs: np.ndarray) -> None:
    """Prepared for these shapes, the model's bits, and after `del` still those at twice the batch."""
    model.eval()
    prepared = model.prepare(*(x.shape for x in inputs), fold=False)
    assert np.array_equal(prepared(*inputs), model(*inputs), equal_nan=True)
    more = [np.concatenate([x, x[::-1]]) for x in inputs]
    expected = model(*more)
    del model
    assert np.array_equal(prepared(*more), expected, equal_nan=True)


def test_layers_called_twice_and_weights_that_forward_looks_at():
    def forward(net, x):
        x = net.conv(net.conv(x))
        return F.conv2d(x, net.conv.weight * 2, padding=1) + net.other(x)

    conv, other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
    assert_prepared(Steps(forward, conv=conv, other=other), pictures((1, 3, 7, 6)))


class Loose(nn.Module):
    """Layers in a list, and arrays: what is not among its modules."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3).eval()]
        self.arrays = [np.random.default_rng(i).standard_normal((3, 3, 1, 1), "f4") for i in (0, 1)]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        first, second = self.arrays
        return fastconv.conv2d(fastconv.conv2d(x, first), second)


def test_what_is_not_among_the_modules_is_told_apart_and_left_alone():
    model, x = Loose(), pictures((1, 3, 9, 9))
    before = model(x)
    for fold in (False, True):
        prepared = model.prepare(x.shape, fold=fold)
        for y in (prepared(x), model(x), model.prepare(x.shape, fold=fold)(x)):
            assert np.allclose(y, before, 1e-4, 1e-4)
        larger = pictures((2, 3, 11, 10))
        assert np.allclose(prepared(larger), model(larger), 1e-4, 1e-4)


def test_normalisation_after_one_layer_that_is_called_twice_folds_into_each_by_itself():
    def forward(net, x):
        return net.one(net.conv(x)) + net.two(net.conv(x))

    layers = dict(conv=nn.Conv2d(3, 4, 3), one=nn.BatchNorm2d(4), two=nn.BatchNorm2d(4))
    model = with_statistics(Steps(forward, **layers))
    x = pictures((1, 3, 9, 9))
    model.two.bias = np.arange(4.0)
    assert np.abs(model.prepare(x.shape)(x) - model(x)).max() < FOLDED * 10


@pytest.mark.parametrize("groups", [1, 2])
def test_folding_into_transposed_and_linear_layers(groups):
    model = nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, 2, groups=groups), nn.BatchNorm2d(6), nn.Flatten(),
        nn.Linear(6 * 11 * 11, 5), nn.BatchNorm1d(5), nn.Sigmoid(),
    )  # fmt: skip
    model = with_statistics(model)
    x = pictures((2, 4, 5, 5))
    prepared = model.prepare(x.shape)
    assert np.abs(prepared(x) - model(x)).max() < FOLDED
    assert prepared.summary((2, 4, 5, 5)).counts["batch_norm folded"] == 2


def test_normalisation_that_cannot_be_folded_stays():
    model = with_statistics(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, eps=0)))
    model[1].running_var = [0, 1]
    x = pictures((1, 2, 3, 3))
    assert np.array_equal(model.prepare(x.shape)(x), model(x), equal_nan=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x,
        lambda net, x: (x.reshape(1, -1), x)[0],
        lambda net, x: x.transpose(0, 2, 3, 1),
        lambda net, x: net.conv(x.transpose(0, 1, 3, 2)),
        lambda net, x: net.conv(x)[:, 1:],
        lambda net, x: net.conv(x).max(axis=1, keepdims=True) * 2 + x,
        lambda net, x: np.concatenate([x, x, net.conv(x)], axis=1),
        lambda net, x: F.relu(net.conv(x)) + net.conv(x),
        lambda net, x: F.relu(x) + x,
        lambda net, x: net.conv(x) + F.max_pool2d(x, 3, 1, 1, return_indices=True)[0],
        lambda net, x: np.concatenate([net.conv(x), F.relu(net.conv(x))], axis=2),
        lambda net, x: F.softmax(F.interpolate(net.conv(x), scale_factor=2), 1),
        lambda net, x: F.channel_shuffle(np.concatenate([net.conv(x), x], axis=1), 2),
        lambda net, x: F.channel_shuffle(np.concatenate([net.conv(x), x], axis=1), 3),
        lambda net, x: F.sigmoid(F.global_avg_pool(x)) * net.conv(x),
    ],
)
def test_functions_views_and_stacks(function):
    model = Steps(function, conv=nn.Conv2d(3, 3, 3, padding=1))
    x = pictures((1, 3, 6, 6))
    model.eval()
    prepared = model.prepare(x.shape)
    for _ in range(2):
        assert np.array_equal(prepared(x), model(x))


KEPT = {"relu": F.relu}  # where no recording finds it


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x + KEPT["relu"](x),
        lambda net, x: (KEPT["relu"](x), net.conv(x)),
        lambda net, x: net.conv(KEPT["relu"](x)) + x,
        lambda net, x: x * np.asarray(x),
        lambda net, x: F.relu(net.inner(x)) + x,
    ],
)
def test_what_leaves_the_recording_is_computed_each_time(function):
    inner = Steps(lambda net, x: net.conv(KEPT["relu"](x)) + x, conv=nn.Conv2d(3, 3, 1))
    model = Steps(function, conv=nn.Conv2d(3, 3, 3, padding=1), inner=inner).eval()
    x = pictures((1, 3, 6, 6))
    prepared = model.prepare(x.shape)
    for image in (x, x[..., ::-1].copy()):
        found, expected = prepared(image), model(image)
        for y, z in zip(found, expected, strict=True):
            assert np.array_equal(y, z)


def test_functions_kept_in_a_module_are_recorded():
    model = Steps(lambda net, x: net.act(net.conv(x)), conv=nn.Conv2d(3, 3, 3)).eval()
    model.act = KEPT["relu"]
    x = pictures((1, 3, 6, 6))
    prepared = model.prepare(x.shape)
    assert [row.does for row in prepared.summary().rows] == ["conv2d + relu"]
    assert model.act is KEPT["relu"]
    assert np.array_equal(prepared(x), model(x))


def test_what_leaves_the_recording_must_come_back_as_an_array():
    model = Steps(lambda net, x: {"y": KEPT["relu"](x)}, conv=nn.Conv2d(3, 3, 3))
    with pytest.raises(TypeError, match="forward takes an array out"):
        model.prepare((1, 3, 6, 6))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("batched", [False, True])
def test_one_two_and_three_dimensions_with_and_without_a_batch(dims, batched):
    conv, pool = getattr(nn, f"Conv{dims}d"), getattr(nn, f"MaxPool{dims}d")
    model = nn.Sequential(conv(2, 4, 3, padding="same"), nn.ReLU(), pool(2), conv(4, 3, 1)).eval()
    x = pictures((2, *(6, 7, 8)[:dims]) if not batched else (2, 2, *(6, 7, 8)[:dims]))
    prepared = model.prepare((2, 2, *(6, 7, 8)[:dims]))
    assert np.array_equal(prepared(x), model(x))


def test_several_inputs_and_outputs():
    def forward(net, x, y):
        return net.conv(x) + y, {"y": net.conv(y), "x": x}

    model = Steps(forward, conv=nn.Conv2d(3, 3, 1)).eval()
    x, y = pictures((1, 3, 4, 4)), pictures((1, 3, 4, 4), 2)
    (total, rest), (total_, rest_) = model.prepare(x.shape, y.shape)(x, y), model(x, y)
    assert np.array_equal(total, total_) and rest.keys() == rest_.keys()
    assert all(np.array_equal(rest[k], rest_[k]) for k in rest)


# --- what a prepared network is -----------------------------------------------------------------


def small_network() -> nn.Module:
    fastconv.nn.manual_seed(3)
    return with_statistics(models.shufflenet_v2(num_classes=7, width=0.5))


def test_many_threads_at_once_give_the_bits_of_one():
    model = small_network()
    prepared = model.prepare((1, 3, 64, 64))
    inputs = [pictures((1, 3, 64, 64), seed) for seed in range(8)]
    expected = [prepared(x) for x in inputs]
    kept = [y.copy() for y in expected]
    wrong = []

    def work(x, y):
        for _ in range(5):
            if not np.array_equal(prepared(x), y):
                wrong.append(1)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, kept, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # What was returned has not changed since.
    assert all(np.array_equal(a, b) for a, b in zip(expected, kept, strict=True))


def test_other_shapes_threads_and_instruction_sets_plan_anew_without_the_model():
    model = small_network()
    prepared = model.prepare((3, 64, 64), fold=False)
    settings = [
        ((2, 3, 64, 64), {}),
        ((1, 3, 96, 80), {}),
        ((1, 3, 64, 64), {"threads": 3}),
        *(((1, 3, 64, 64), {"isa": isa}) for isa in fastconv.isas() if isa != "baseline"),
    ]
    inputs = [pictures(shape) for shape, _ in settings]
    expected = []
    for x, (_, options) in zip(inputs, settings, strict=True):
        with fastconv.using(**options):
            expected.append(model(x))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    for x, y, (_, options) in zip(inputs, expected, settings, strict=True):
        with fastconv.using(**options):
            assert np.array_equal(prepared(x), y)
    for n in range(1, 20):  # the oldest plans are forgotten
        prepared(pictures((n, 3, 32, 32)))
    assert len(prepared._network._plans) == 8
    assert np.array_equal(prepared(inputs[0]), expected[0])


def test_weights_changed_later_are_not_seen():
    model = small_network()
    x = pictures((1, 3, 64, 64))
    prepared = model.prepare(x.shape)
    before = prepared(x)
    model.fc.bias = model.fc.bias + 1
    model.conv1[0].weight = model.conv1[0].weight * 2
    assert np.array_equal(prepared(x), before)
    assert not np.array_equal(model.prepare(x.shape)(x), before)


def test_the_model_is_left_as_it_was():
    model = small_network().train()
    state = {name: array.copy() for name, array in model.state_dict().items()}
    prepared = model.prepare((1, 3, 64, 64))
    assert all(module.training for module in model.modules())
    assert all(np.array_equal(array, state[name]) for name, array in model.state_dict().items())
    assert not any("_prepared" in module.__dict__ for module in model.modules())
    x = pictures((1, 3, 64, 64))
    assert np.abs(prepared(x) - model.eval()(x)).max() < FOLDED


def test_steps_are_those_of_eval_whatever_the_mode():
    layers = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.InstanceNorm2d(4)
    model = with_statistics(nn.Sequential(*layers))
    x = pictures((2, 3, 5, 5))
    expected = model(x)
    prepared = model.train().prepare(x.shape, fold=False)
    assert np.array_equal(prepared(x), expected)


def test_dropout_that_forward_asks_for_stays_random():
    model = Steps(lambda net, x: F.dropout(x, 0.5)).eval()
    x = np.ones((1, 1, 30, 30), np.float32)
    prepared = model.prepare(x.shape)
    one, other = prepared(x), prepared(x)
    assert set(np.unique(one)) == {0, 2} and not np.array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("algorithm", ["auto", *fastconv.algorithms()[:-1]])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(5, 7, 3, padding=1),
        nn.Conv2d(8, 12, (2, 3), groups=4),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.ConvTranspose2d(4, 6, 3, 2, groups=2),
        nn.Conv2d(33, 50, 1),
    ],
)
def test_packed_weights_can_be_taken_apart(layer, algorithm, dtype):
    layer = layer.astype(dtype)
    x = pictures((1, layer.in_channels, 6, 6), dtype=dtype)
    expected = layer(x)
    with fastconv.using(algorithm=algorithm):
        try:
            prepared = layer.prepare(x.shape)
        except ValueError:
            return  # the algorithm cannot do this layer
    there = next(iter(prepared._network._weights.values()))
    assert there.array is None
    assert np.array_equal(there._unpacked(), layer.weight)
    assert np.array_equal(prepared(x), expected)


@pytest.mark.parametrize("outputs", [1, 63, 64, 65, 200, 513])
@pytest.mark.parametrize("infinite", [None, 0, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_are_packed_in_pieces_as_they_are_whole(outputs, infinite, dtype, monkeypatch):
    monkeypatch.setattr(weights, "_PIECE", 1)
    x, w = pictures((1, 30), dtype=dtype), pictures((outputs, 30), dtype=dtype)
    if infinite is not None:
        w[infinite, 3] = np.inf
    problem, x, packed_w, _, y, _ = _arguments.linear("linear", x, w, None)
    arrays = _core._Array(x), _core._Array(packed_w), _core._Array(y, True)
    plan = _core.ConvPlan(problem, *arrays, True)
    for array in (w, unaligned(w), unaligned(w.T).T):
        there = weights.Weights(array)
        there.like()
        there.pack(plan)
        assert np.array_equal(plan.pack(w, {}), plan.pack(w, there.packed))
        there.drop()
        assert there.array is None and np.array_equal(there._unpacked(), w)


def unaligned(array):
    """A copy that lies as rows do, one byte beside where numbers may."""
    room = np.empty(array.nbytes + 1, np.uint8)[1:]
    room[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return room.view(array.dtype).reshape(array.shape)


def test_weights_dropped_are_there_for_a_plan_that_takes_them_as_they_come():
    """Of a layer that has a packed form with one algorithm, and none with another."""
    there = weights.Weights(pictures((8, 30)))
    x = pictures((1, 30))
    for packed in (True, False):
        problem, y, w, _, out, _ = _arguments.linear("linear", x, there.like(), None)
        arrays = _core._Array(y), _core._Array(w), _core._Array(out, True)
        there.pack(_core.ConvPlan(problem, *arrays, packed))
        there.drop()
    assert np.array_equal(w.reshape(8, 30), pictures((8, 30)))
    assert np.array_equal(there.array, pictures((8, 30)))


def test_weights_without_a_packed_form_are_kept():
    layer = nn.ConvTranspose2d(2, 3, 2, stride=9)
    assert_prepared(layer, pictures((1, 2, 3, 3)))
    (there,) = layer.prepare((1, 2, 3, 3))._network._weights.values()
    assert there.array is not None and not there.packed


def test_inputs_of_other_kinds():
    model = small_network()
    prepared = model.prepare((1, 3, 64, 64))
    x = pictures((1, 3, 64, 64))
    expected = prepared(x)
    assert np.array_equal(prepared(x.astype(np.float64)), expected)
    assert np.array_equal(prepared(x.astype(">f4")), expected)
    assert np.array_equal(prepared(x.tolist()), expected)
    assert np.array_equal(prepared(np.asfortranarray(x)), expected)
    read_only = x[:, :, ::-1][:, :, ::-1]
    read_only.flags.writeable = False
    assert np.array_equal(prepared(read_only), expected)
    with pytest.raises(TypeError, match="convert it"):
        prepared(np.zeros((1, 3, 64, 64), int))
    with pytest.raises(TypeError, match="prepared for 1 input, got 2"):
        prepared(x, x)
    with pytest.raises(ValueError, match="channels"):
        prepared(np.zeros((1, 4, 64, 64), np.float32))
    assert np.array_equal(prepared(x), expected)


def test_an_empty_batch():
    model = small_network()
    prepared = model.prepare((1, 3, 64, 64))
    assert prepared(np.zeros((0, 3, 64, 64), np.float32)).shape == (0, 7)


@pytest.mark.parametrize(
    "name, size", [("resnet18", 64), ("shufflenet_v2", 224), ("squeezenet", 224)]
)
def test_memory_is_what_it_says(name, size):
    """Once the model is gone, as `python -m benchmarks.memory` measures it for larger ones."""
    import tracemalloc

    fastconv.nn.manual_seed(0)
    model = with_statistics(getattr(models, name)())
    x = pictures((1, 3, size, size))
    arrays = [*model.parameters(), *model.buffers()]
    original = sum(array.nbytes for array in arrays)
    del arrays
    fastconv.free_memory()
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        prepared = model.prepare(x.shape)
        prepared(x)
        del model
        fastconv.free_memory()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    memory = prepared.memory
    assert memory.weights + memory.buffers <= held  # the model's own arrays were made before
    assert held <= 1.2 * (original + memory.buffers)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("where", ["before", "after", "between"])
def test_sums_before_and_after_the_activation(where, batch):
    """Alone, and in a stack, which of several images is no place that a residual lies as."""

    def forward(net, x):
        y = net.conv(x)
        y = F.relu(y + x) if where == "before" else F.silu(y) + x
        if where == "between":
            y = F.relu(y)
        return np.concatenate([F.gelu(net.other(y)) + x, y], axis=1)

    layers = dict(conv=nn.Conv2d(4, 4, 3, padding=1), other=nn.Conv2d(4, 4, 1))
    model = Steps(forward, **layers)
    assert_prepared(model, pictures((batch, 4, 9, 21)))
    counts = model.prepare((batch, 4, 9, 21)).summary().counts
    assert counts["add fused"] == (1 if where == "between" else 2)


@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"stride": 2}, {"padding": 1}])
def test_normalisation_before_a_1x1_convolution_begins_it(options):
    """Where every pixel is read once; the bits are those of a step of its own."""
    conv = nn.Conv2d(6, 8, 1, **options)
    model = with_statistics(nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(6), nn.ReLU(), conv))
    x = pictures((2, 6, 22, 38))
    prepared = model.prepare(x.shape)
    with fastconv.using(algorithm="im2col"):
        expected = prepared(x)
    assert np.array_equal(prepared(x), expected)
    rows = [row.does for row in prepared.summary().rows]
    begins = "batch_norm + relu + conv2d" in rows
    assert begins == (not options) and len(rows) == (2 if begins else 3)


def test_summary_says_what_became_of_everything(capsys):
    fastconv.nn.manual_seed(0)
    prepared = with_statistics(models.resnet18()).prepare((3, 64, 64))
    summary = prepared.summary()
    text = str(summary)
    assert capsys.readouterr().out == text + "\n"
    assert summary.counts["batch_norm folded"] == 20
    assert summary.counts["relu fused"] == 17 and summary.counts["add fused"] == 8
    assert [row.name for row in summary.rows][:2] == ["conv1", "maxpool"]
    assert summary.rows[0].does == "conv2d + batch_norm + relu"
    assert len(summary.rows) == 20 + 1 + 1 + 1
    assert "weights 46." in text and "weights 46." in repr(prepared)
    dense = with_statistics(models.densenet121(num_classes=2)).prepare((3, 32, 32)).summary()
    assert dense.counts["stacks in place"] == 58


# --- the arena ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_blocks_that_are_needed_together_do_not_overlap(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 30, 40)
    blocks = [
        Block(int(n), int(f), int(f + d))
        for n, f, d in zip(rng.integers(1, 5000, 40), first, rng.integers(0, 9, 40), strict=True)
    ]
    offsets, total = arrange(blocks)
    assert total >= largest_live_set(blocks)
    used = np.full((40, total), -1)
    for i, (at, block) in enumerate(zip(offsets, blocks, strict=True)):
        assert at % 64 == 0
        room = used[block.first : block.last + 1, at : at + block.nbytes]
        assert (room == -1).all()
        room[...] = i
