"""Recording what a network does, its summary, and its receptive field."""

import math
import threading
from fractions import Fraction

import numpy as np
import pytest

import fastconv
from fastconv import functional as F
from fastconv import models, nn
from fastconv.functional import relu
from fastconv.nn.graph import record
from fastconv.nn.initialisation import unfilled

field = fastconv.receptive_field


def conv(size, **options):
    return nn.Conv2d(1, 1, size, **options)


# The figures

FIGURES = {
    "3x3 3x3": (nn.Sequential(conv(3), conv(3)), 5, 1, 0),
    "3x3 3x3 3x3": (nn.Sequential(conv(3), conv(3), conv(3)), 7, 1, 0),
    "5x5": (conv(5), 5, 1, 0),
    "3x3 dilated": (conv(3, dilation=2), 5, 1, 0),
    "3x3 dilated 1 2 4": (
        nn.Sequential(conv(3), conv(3, dilation=2), conv(3, dilation=4)),
        15,
        1,
        0,
    ),
    "stride then 3x3": (nn.Sequential(conv(3, stride=2), conv(3)), 7, 2, 0),
    "pool": (nn.Sequential(conv(3), nn.MaxPool2d(2), conv(3)), 8, 2, 0),
    "spatial pyramid": (nn.Sequential(*[nn.MaxPool2d(5, 1, 2) for _ in range(3)]), 13, 1, -6),
    "one axis": (conv((1, 7), padding=(0, 3)), (1, 7), 1, (0, -3)),
    "1-D": (nn.Sequential(nn.Conv1d(1, 2, 3, 2), nn.Conv1d(2, 1, 5)), 11, 2, 0),
    "3-D": (nn.Sequential(nn.Conv3d(1, 2, 3), nn.AvgPool3d(2)), 4, 2, 0),
    "up": (nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)), 2, 1, 0),
    "up and down": (nn.Sequential(nn.ConvTranspose2d(1, 1, 4, 2, 1), conv(2, stride=2)), 3, 1, -1),
    "up alone": (nn.ConvTranspose2d(1, 1, 2, 2), 1, Fraction(1, 2), 0),
    "shuffled": (nn.Sequential(conv(1), nn.PixelUnshuffle(2), nn.Conv2d(4, 4, 3)), 6, 2, 0),
    "padded": (nn.Sequential(nn.ReflectionPad2d((1, 2, 3, 4)), conv(3)), 3, 1, (-3, -1)),
    "mean of the image": (nn.Sequential(conv(3), nn.AdaptiveAvgPool2d(1)), math.inf, 0, -math.inf),
    "flat": (nn.Sequential(conv(3), nn.Flatten(), nn.Linear(77, 2)), math.inf, 0, -math.inf),
}


@pytest.mark.parametrize("net, size, stride, offset", FIGURES.values(), ids=FIGURES)
def test_size_stride_and_offset(net, size, stride, offset):
    found = field(net)
    assert (found.size, found.stride, found.offset) == (size, stride, offset)
    assert found.whole == (size == math.inf)


@pytest.mark.parametrize(
    "name, size, stride", [("lenet5", 16, 4), ("alexnet", 195, 32), ("vgg16", 212, 32)]
)
def test_published_fields_before_the_classifier(name, size, stride):
    with unfilled():
        net = getattr(models, name)()
    found = field(net)
    assert found.whole and (found.local.size, found.local.stride) == (size, stride)
    assert field(net.features).size == size


@pytest.mark.parametrize(
    "name, size",
    [  # Araujo, Norris and Sim (2019); there the stride of ResNet-50 is in a 1x1: 483
        ("resnet50", 427),
        ("mobilenet_v1", 315),
        ("inception_v4", (2071, 2007)),  # the higher of both is theirs
    ],
)
def test_published_fields_before_global_pooling(name, size):
    with unfilled():
        net = getattr(models, name)()
    found = field(net, (3, 96, 96))
    assert found.whole and found.local.size == size and found.local.stride == 32
    assert repr(found) == "ReceptiveField(the whole input)"


@pytest.mark.parametrize("padding", [0, 1, (2, 0), "same", "same_lower", ((0, 3), (1, 0))])
def test_padding_never_changes_size_or_stride(padding):
    net = nn.Sequential(
        conv(3, stride=2, padding=padding), conv(4, padding=padding), nn.MaxPool2d(2)
    )
    found = field(net, (1, 1, 31, 40))
    assert (found.size, found.stride) == (11, 4)


def test_branches_take_the_largest_path():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.three, self.five = conv(1), conv(3, padding=1), conv(5, padding=2)

        def forward(self, x):
            return np.concatenate([self.one(x), self.three(x)], axis=1).mean(
                1, keepdims=True
            ) + self.five(x)

    net = Branches()
    assert (field(net).size, field(net).offset) == (5, -2)
    found = field(nn.Sequential(net, Branches()))
    assert found.size == 9
    assert [found.layers[f"{i}.{b}"].size for i in (0, 1) for b in ("one", "three", "five")] == [
        *(1, 3, 5),
        *(5, 7, 9),
    ]


def test_excitation_by_means_sees_the_whole_input():
    with unfilled():
        net = models.se_resnet50()
    layers = field(net, (3, 64, 64)).layers
    assert layers["layer1.0.conv3"].size == 19 and layers["layer1.0.se.gate"].whole


# A NaN marks what the field predicts: with positive weights nothing it meets can lose it.


def positive(net):
    for name, array in net.state_dict().items():
        if array.dtype.kind == "f":
            net.load_state_dict({name: np.full(array.shape, 0.5)}, strict=False)
    return net.eval()


MARKED = {
    "convolutions": nn.Sequential(
        conv(3, padding=1), nn.ReLU(), conv(4, stride=2), conv(3, padding=2)
    ),
    "pools": nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1), nn.LPPool2d(2, 3, 2)),
    "ceil": nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, ceil_mode=True)),
    "same": nn.Sequential(conv(4, padding="same"), conv(2, padding="same_lower")),
    "up": nn.Sequential(nn.MaxPool2d(2), nn.ConvTranspose2d(1, 1, 3, 2, 1), conv(2)),
    "up by 3": nn.Sequential(conv(3, stride=2), nn.ConvTranspose2d(1, 1, 5, 3, 1, 1), conv(2)),
    "nearest": nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=3), conv(3, stride=2)),
    "bilinear": nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv(2)),
    "area": nn.Sequential(nn.AdaptiveAvgPool2d((7, 5)), conv(2)),
    "shuffle": nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, 4, 2), nn.PixelShuffle(2)),
    "pad": nn.Sequential(nn.ZeroPad2d((1, 2, 0, 3)), conv(3, stride=2), nn.ZeroPad2d(-1)),
    "norm": nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LocalResponseNorm(3)),
    "softmax": nn.Sequential(nn.Conv2d(1, 4, 3), nn.ChannelShuffle(2), nn.Softmax(1)),
    "lenet5": models.lenet5().features,
    "lenet5 relu": models.lenet5(variant="relu").features,
}
SIZES = {"area": (28, 25), "shuffle": (20, 22)}


@pytest.mark.parametrize("name", MARKED)
def test_a_nan_at_a_pixel_marks_the_outputs_that_see_it(name):
    assert_marked(positive(MARKED[name]), SIZES.get(name, (23, 20)), 1, 12)


@pytest.mark.parametrize(
    "make, side, pixels",
    [
        (lambda: models.alexnet().features, 95, 4),
        (lambda: models.squeezenet().features, 87, 4),
        (lambda: nn.Sequential(*list(models.resnet18().children())[:-3]), 96, 4),
        (lambda: models.unet(variant="paper"), 188, 2),
        (lambda: models.unet(), 48, 4),
    ],
    ids=["alexnet", "squeezenet", "resnet18", "unpadded unet", "unet"],
)
def test_a_nan_in_a_network_marks_the_outputs_that_see_it(make, side, pixels):
    with unfilled():
        net = make()
    assert_marked(net.eval(), (side, side), 3, pixels)


def assert_marked(net, size, channels, pixels):
    found = field(net, (channels, *size))
    rng = np.random.default_rng(2)
    corners = [(0, 0), (size[0] - 1, size[1] - 1)][: pixels // 2]
    for pixel in [*corners, *rng.integers(0, size, (pixels - len(corners), 2)).tolist()]:
        x = np.ones((1, channels, *size), np.float32)
        x[0, :, pixel[0], pixel[1]] = np.nan
        marked = np.isnan(net(x)[0]).any(axis=0)
        np.testing.assert_array_equal(marked, found.outputs(pixel), str(pixel))
        for output in np.argwhere(marked)[:3]:
            ends = zip(found.inputs(output), pixel, strict=True)
            assert all(first <= where <= last for (first, last), where in ends)


# What has no answer


def test_what_has_no_rule_is_named():
    class Sorted(nn.Module):
        def forward(self, x):
            return np.sort(self.conv(x), axis=-1)

        def __init__(self):
            super().__init__()
            self.conv = conv(3)

    with pytest.raises(ValueError, match="no rule for sort in"):
        field(Sorted())
    assert "?" in str(nn.Sequential(Sorted()).summary((1, 9, 9)))
    with pytest.raises(ValueError, match="returns no single array"):
        field(nn.MaxPool2d(2, return_indices=True))
    with pytest.raises(ValueError, match="input of 1 channels, got 3"):
        field(conv(3), (1, 3, 9, 9))


# Recording


class Written(nn.Module):
    """As people write networks: functions, operators, methods, things in place."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = F.max_pool2d(relu(self.bn(self.conv1(x))), 2)
        n, c, h, w = x.shape
        shuffled = x.reshape(n, 2, c // 2, h, w).swapaxes(1, 2).reshape(n, c, h, w)
        y = self.conv2(shuffled) + 0
        z = self.act(y) + y  # y was changed in place
        z += shuffled
        z = np.concatenate([z, fastconv.leaky_relu(-z, 0.1)], 1)[..., 1:, :-1]
        values, _ = F.max_pool2d(z, 2, return_indices=True)
        z = self.drop(np.maximum(values, 0.25).mean((2, 3)))
        return F.softmax(self.fc(z), dim=1), z


def test_a_recording_runs_again_with_the_same_results():
    nn.manual_seed(1)
    net = Written().eval()
    x = np.random.default_rng(1).standard_normal((2, 2, 12, 14)).astype(np.float32)
    graph = record(net, (2, 2, 12, 14))
    for ours, theirs in zip(graph.run(x), net(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kinds = [node.kind for node in graph.nodes]
    for kind in ("conv2d", "batch_norm", "relu", "max_pool2d", "reshape", "add", "item", "softmax"):
        assert kind in kinds
    assert all(node.shape == (2, 3) for node in graph.nodes if node.kind == "softmax")


def test_a_recording_leaves_everything_as_it_was():
    net = Written()
    net.bn.eval()
    state = {name: array.copy() for name, array in net.state_dict().items()}
    before = (nn.Module.__call__, F.relu, fastconv.leaky_relu, relu)
    record(net, (1, 2, 8, 8))
    with pytest.raises(ValueError):
        record(net, (1, 3, 8, 8))
    assert (nn.Module.__call__, F.relu, fastconv.leaky_relu, relu) == before
    assert [m.training for m in (net, net.conv1, net.bn, net.drop)] == [True, True, False, True]
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_other_threads_go_on_during_a_recording():
    net = Written().eval()
    x = np.random.default_rng(1).standard_normal((1, 2, 8, 8)).astype(np.float32)
    expected, wrong, stop = net(x)[0], [], threading.Event()

    def run():
        while not stop.is_set():
            if not np.array_equal(net(x)[0], expected):
                wrong.append(1)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        record(net, (1, 2, 8, 8))
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_layer_that_asks_for_arrays_is_a_step_of_its_own():
    class Opaque(nn.Module):
        def forward(self, x):
            return np.asarray(x) * 2

    net = nn.Sequential(conv(3), Opaque(), conv(3))
    graph = record(net, (1, 1, 9, 9))
    assert [node.kind for node in graph.nodes] == ["input", "conv2d", "unknown", "conv2d"]
    x = np.arange(81, dtype=np.float32).reshape(1, 1, 9, 9)
    np.testing.assert_array_equal(graph.run(x), net(x))


def test_numbers_and_shapes_of_a_recorded_array_are_plain():
    class Net(nn.Module):
        def forward(self, x):
            assert np.shape(x) == x.shape == (1, 2, 4, 4) and np.ndim(x) == x.ndim == 4
            assert x.size == 32 and len(x) == 1 and x.dtype == np.float32 and x.tolist()
            scaled = x / (1 + abs(x).max())
            if scaled.any():
                raise ValueError("a recording runs on zeros")
            first, second = np.split(scaled, 2, axis=1)
            return first * float(second.sum()) + [part for part in x][0][np.argmax(x) : 1]

    graph = record(Net(), (1, 2, 4, 4))
    assert graph.outputs.shape == (1, 1, 4, 4)
    assert field(nn.Sequential(conv(3), nn.ReLU()), (1, 9, 9)).size == 3


# Summary


def test_a_summary_prints_layers_shapes_parameters_work_and_fields(capsys):
    summary = models.lenet5().summary((1, 28, 28))
    assert capsys.readouterr().out == f"{summary}\n"
    text = str(summary)
    assert "LeNet5 on 1×1×28×28" in text and "61 706 parameters, 416 520 multiply-adds" in text
    shapes = {row.name: row.output_shape for row in summary.rows}
    assert [shapes[f"features.{i}"][1:] for i in (0, 2, 3)] == [
        (6, 28, 28),
        (6, 14, 14),
        (16, 10, 10),
    ]
    line = next(line for line in text.splitlines() if line.startswith("features.3"))
    assert line.split() == "features.3 Conv2d 1×16×10×10 2 416 240 000 14".split()
    assert text.splitlines()[-3].split()[-1] == "all"
    assert repr(summary) == "<LeNet5: 61 706 parameters, 0.000417 G multiply-adds>"
    assert sum(row.parameters for row in summary.rows) == summary.parameters


def test_a_layer_used_twice_is_counted_once_and_works_twice():
    layer = conv(3, padding=1, bias=False)
    summary = nn.Sequential(layer, layer).summary((1, 1, 10, 10))
    assert summary.parameters == 9 and summary.multiply_adds == 2 * 900
    assert [row.parameters for row in summary.rows] == [9, 0]


def test_halving_height_and_width_quarters_the_work_and_channels_add_parameters():
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1)
    )
    first, _, second = net.summary((8, 32, 32)).rows
    assert second.multiply_adds * 4 == first.multiply_adds * 2
    assert second.parameters == 2 * first.parameters


def test_multiply_adds_of_functions_and_transposed_convolution():
    class Net(nn.Module):
        def forward(self, x):
            y = F.conv2d(x, np.ones((4, 1, 3, 3), np.float32), groups=2)
            return F.conv_transpose2d(y, np.ones((4, 5, 2, 2), np.float32), stride=2)

    rows = Net().summary((1, 2, 6, 6)).rows
    assert [row.multiply_adds for row in rows] == [4 * 16 * 9, 4 * 16 * 5 * 4]
    assert [row.output_shape for row in rows] == [(1, 4, 4, 4), (1, 5, 8, 8)]
    assert [row.receptive_field.size for row in rows] == [3, 3]
