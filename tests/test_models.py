"""fastconv.models: published sizes, names as in torchvision and timm, and the results of both."""

import hashlib
import importlib
import inspect
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastconv
from fastconv import models, nn, reference
from fastconv.nn.graph import record
from fastconv.nn.initialisation import unfilled
from fastconv.nn.summary import Summary

# Both sides compute in float64; a network that means something else differs in its leading digits.
HALF_OF_THE_DIGITS = 2.0**-26

# Parameters, buffers not counted. torchvision and timm publish theirs with their weights.
PARAMETERS = {
    "alexnet": 61_100_840,  # torchvision
    "alexnet paper": 60_965_224,  # Caffe's AlexNet
    "densenet121": 7_978_856,  # torchvision
    "googlenet": 6_624_904,  # torchvision, auxiliary classifiers taken off
    "googlenet paper": 6_998_552,  # Caffe's GoogLeNet, auxiliary classifiers taken off
    "inception_v4": 42_679_816,  # timm
    "lenet5": 61_706,  # 156 + 2416 + 48120 + 10164 + 850
    "lenet5 relu": 61_706,
    "mobilenet_v1": 4_231_976,  # timm
    "mobilenet_v2": 3_504_872,  # torchvision
    "nin": 7_595_176,  # 53568 + 746240 + 1180800 + 5614568: three convolutions in each of four blocks
    "nin paper": 966_986,  # 60896 + 535104 + 370986: three in each of three blocks
    "resnet101": 44_549_160,  # torchvision, as are the ResNeXts
    "resnet152": 60_192_808,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnext101_32x8d": 88_791_336,
    "resnext50_32x4d": 25_028_904,
    "se_resnet50": 28_088_024,  # timm
    "shufflenet_v1": 1_865_728,  # pytorchcv, shufflenet_g3_w1
    "shufflenet_v2": 2_278_604,  # torchvision
    "shufflenet_v2 0.5": 1_366_792,  # torchvision
    "squeezenet": 1_248_424,  # torchvision, 1_0
    "squeezenet 1.1": 1_235_496,  # torchvision, 1_1
    "unet": 31_037_698,  # two convolutions at 9 sizes, batch normalisation, 4 up, 130 at the end
    "unet paper": 31_031_810,  # of 3 channels, 30 + 1.2 thousand biases, no normalisation
    "vgg11": 132_863_336,  # torchvision, as are the other VGGs
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "xception": 22_855_952,  # timm
}

# 10^9 multiply-adds at 224x224, as torchvision publishes them with its weights.
GIGA_MULTIPLY_ADDS = {
    "alexnet": 0.714,
    "densenet121": 2.834,
    "googlenet": 1.498,
    "mobilenet_v2": 0.301,
    "resnet18": 1.814,
    "resnet50": 4.089,
    "resnext50_32x4d": 4.23,
    "shufflenet_v2": 0.145,
    "squeezenet": 0.819,
    "squeezenet 1.1": 0.349,
    "vgg16": 15.47,
}

# Of "name shape\n" of the whole state, in its order, as torchvision and timm have it.
NAMES = {
    "alexnet": "214045a0c08f",
    "densenet121": "d52aa585c671",
    "googlenet": "2da49e8b3dc6",
    "inception_v4": "93bb9a1b3b94",
    "mobilenet_v1": "9e34ca933cce",
    "mobilenet_v2": "5c45000c8dea",
    "resnet101": "0e9191dd134c",
    "resnet152": "47360b6062c7",
    "resnet18": "761022b221a3",
    "resnet34": "1a060acae7a4",
    "resnet50": "3fa57287149b",
    "resnext101_32x8d": "07e967fd83ad",
    "resnext50_32x4d": "01e2eaa8da40",
    "se_resnet50": "cb1c571ccf54",
    "shufflenet_v2": "3c60236e3c59",
    "squeezenet": "dc8fa2e3e593",
    "vgg11": "a4a2a4a84e73",
    "vgg11_bn": "6aaf84aad415",
    "vgg13": "9dc9518e7646",
    "vgg13_bn": "9a11dd9903f0",
    "vgg16": "6f36a6fd49b6",
    "vgg16_bn": "5f99e428d932",
    "vgg19": "e05a894c9ad1",
    "vgg19_bn": "4c042cc97e1d",
    "xception": "967765072d9e",
}

VARIANTS = {"0.5": dict(width=0.5), "1.1": dict(version="1.1")}


def make(which, *args, **options):
    """The network of a row above, such as "alexnet paper"."""
    name, _, variant = which.partition(" ")
    if variant:
        options |= VARIANTS.get(variant, dict(variant=variant))
    return getattr(models, name)(*args, **options)


def empty(which, *args, **options):
    """The same with zeros for parameters, which costs nothing."""
    with unfilled():
        return make(which, *args, **options)


def lively_state(module, rng):
    """Values under which every layer matters and no number grows or shrinks out of sight."""
    few = rng.standard_normal(65537)  # repeated, since drawing millions takes seconds

    def values(name, shape):
        if len(shape) > 1:
            return np.resize(few * np.sqrt(2 / np.prod(shape[1:])), shape)
        if name.endswith(("weight", "running_var")):
            return rng.uniform(0.5, 1.5, shape)
        return rng.normal(0, 0.1, shape)

    return {
        name: array if array.dtype.kind == "i" else values(name, array.shape)
        for name, array in module.state_dict().items()
    }


def assert_agree(ours, theirs):
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float64
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=HALF_OF_THE_DIGITS * scale)
    # The comparison says something only if the images make a difference.
    assert np.ptp(theirs, axis=0).max() > 1e-4 * scale


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def test_every_network_is_listed():
    assert {which.split()[0] for which in PARAMETERS} == set(models.__all__)


@pytest.mark.parametrize("which", PARAMETERS)
def test_parameters_are_as_many_as_published(which):
    assert sum(array.size for array in empty(which).parameters()) == PARAMETERS[which]


@pytest.mark.parametrize("which", GIGA_MULTIPLY_ADDS)
def test_multiply_adds_are_as_many_as_published(which):
    summary = Summary(empty(which), (3, 224, 224))
    assert round(summary.multiply_adds / 1e9, 3) == GIGA_MULTIPLY_ADDS[which]


@pytest.mark.parametrize("which", NAMES)
def test_names_and_shapes_are_those_of_torchvision_and_timm(which):
    state = empty(which).state_dict()
    text = "".join(f"{name} {array.shape}\n" for name, array in state.items())
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == NAMES[which]


@pytest.mark.parametrize("name", models.__all__)
def test_every_network_takes_the_same_arguments(name):
    signature = inspect.signature(getattr(models, name))
    assert {"num_classes", "in_channels", "dtype", "weights"} <= set(signature.parameters)
    net = empty(name, num_classes=7, in_channels=2)
    *_, last = net.named_parameters()
    assert last[1].shape[0] == 7 and next(net.parameters()).shape[1] == 2
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("which", ["lenet5", "alexnet", "googlenet", "nin", "unet"])
def test_an_unknown_variant_is_refused(which):
    with pytest.raises(ValueError, match=f"{which}: variant must be one of .*'paper'.*got 'other'"):
        make(which, variant="other")
    with pytest.raises(ValueError, match="width must be one of"):
        models.shufflenet_v2(width=3)
    with pytest.raises(ValueError, match="version must be one of"):
        models.squeezenet(version="1_0")


def test_the_type_is_that_of_every_parameter_and_result():
    net = models.lenet5(dtype=np.float64)
    assert {array.dtype for array in net.parameters()} == {np.dtype(np.float64)}
    assert net(np.zeros((1, 1, 28, 28))).dtype == np.float64
    assert models.lenet5()(np.zeros((1, 1, 28, 28), np.float32)).dtype == np.float32
    with pytest.raises(TypeError, match="float32 or float64"):
        models.lenet5(dtype=np.float16)


def test_weights_are_loaded_from_a_mapping_or_a_file(tmp_path, rng):
    state = lively_state(models.lenet5(), rng)
    np.savez(tmp_path / "lenet.npz", **state)
    for weights in (state, tmp_path / "lenet.npz", str(tmp_path / "lenet.npz")):
        for dtype in (np.float32, np.float64):
            net = models.lenet5(weights=weights, dtype=dtype)
            for name, array in net.state_dict().items():
                np.testing.assert_array_equal(array, state[name].astype(dtype))
    with pytest.raises(ValueError, match="missing keys: .*features.0.weight"):
        models.lenet5(weights={})


def test_unfilled_layers_hold_zeros_without_memory_until_they_are_loaded():
    with unfilled():
        layer = nn.Linear(3, 4)
        assert layer.weight.strides == (0, 0)
    assert not layer.weight.any() and nn.Linear(3, 4).weight.all()
    layer.load_state_dict({"weight": np.ones((4, 3)), "bias": np.ones(4)})
    assert layer.weight.flags.c_contiguous and layer(np.ones(3, np.float32))[0] == 4


def test_checkpoints_as_they_were_published_load_unchanged(rng):
    net = empty("googlenet", 10)
    state = lively_state(net, rng)
    net.load_state_dict(
        {**state, "aux1.fc2.bias": np.zeros(10), "aux2.conv.conv.weight": np.ones(2)}
    )
    net = empty("densenet121", 10)
    state = lively_state(net, rng)
    old = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2"): a for name, a in state.items()
    }
    assert "features.denseblock1.denselayer1.conv.2.weight" in old
    net.load_state_dict(old)
    net = empty("resnet18", 10)
    state = lively_state(net, rng)
    old = {name: array for name, array in state.items() if "num_batches" not in name}
    assert net.load_state_dict(old) == ([], []) and len(old) < len(state)


# Results

SMALL_IMAGES = {
    "densenet121": (3, 32, 32),
    "googlenet paper": (3, 32, 32),
    "lenet5": (1, 28, 28),
    "lenet5 relu": (1, 28, 28),
    "mobilenet_v1": (3, 33, 32),
    "mobilenet_v2": (3, 32, 33),
    "nin": (3, 63, 67),
    "nin paper": (3, 13, 12),
    "resnet18": (3, 33, 32),
    "se_resnet50": (3, 32, 32),
    "shufflenet_v1": (3, 32, 35),
    "shufflenet_v2": (3, 32, 35),
    "squeezenet": (3, 33, 40),
    "unet": (3, 19, 16),
}


def by_the_reference(node, values):
    """A step carried out by the function of fastconv.reference that its layer is named after."""
    arrays = [values[source] for source in node.inputs]
    function = getattr(reference, node.kind, None)
    if node.layer is None or function is None:
        return node.run(values)
    names = list(inspect.signature(function).parameters)[1:]
    settings = {name: getattr(node.layer, name) for name in names if hasattr(node.layer, name)}
    return function(*arrays, **settings)


@pytest.mark.parametrize("which", SMALL_IMAGES)
def test_a_network_gives_what_the_reference_gives_step_by_step(which, rng):
    net = empty(which, 10, dtype=np.float64)
    net.load_state_dict(lively_state(net, rng))
    x = rng.standard_normal((2, *SMALL_IMAGES[which]))
    graph = record(net, x.shape)
    values = dict(zip(graph.inputs, [x], strict=True))
    for node in graph.nodes:
        if node not in values:
            values[node] = by_the_reference(node, values)
            assert values[node].shape == node.shape
    ours = net(x)
    assert_agree(ours, values[graph.outputs])
    np.testing.assert_array_equal(graph.run(x), ours)


def twin_in_torch(which):
    """The class of a network's own file, with torch.nn in the place of fastconv.nn."""
    torch = pytest.importorskip("torch")
    net = empty(which, 10)
    path = Path(inspect.getfile(type(net)))
    text = path.read_text("utf-8")
    for ours, theirs in {
        "from fastconv import nn": "from torch import nn",
        "from fastconv import functional as F": "from torch.nn import functional as F",
        "import numpy as np": "",
    }.items():
        text = text.replace(ours, theirs)
    names = {"np": SimpleNamespace(concatenate=torch.cat, ndarray=torch.Tensor)}
    names["__name__"] = "twin"
    exec(compile(text, path, "exec"), names)
    _, _, variant = which.partition(" ")
    with torch.device("meta"):
        twin = names[type(net).__name__]
        return twin(num_classes=10, **dict(variant=variant) if variant else {})


@pytest.mark.parametrize(
    "which",
    ["lenet5", "lenet5 relu", "nin", "nin paper", "googlenet paper", "shufflenet_v1", "unet"],
)
def test_a_network_without_a_twin_elsewhere_agrees_with_its_own_text_in_torch(which, rng):
    assert_agrees_with(twin_in_torch(which), which, SMALL_IMAGES[which], rng)


def torchvision_models():
    torch = pytest.importorskip("torch")
    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        return importlib.import_module("torchvision.models"), library
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:  # its compiled half is of another build of torch; networks do not need it
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        return importlib.import_module("torchvision.models"), library


def assert_agrees_with(theirs, which, shape, rng):
    compare(empty(which, 10, dtype=np.float64), theirs, shape, rng)


def compare(ours, theirs, shape, rng):
    """The results of both with the same state; `theirs` was made on torch's device without memory."""
    torch = pytest.importorskip("torch")
    state = lively_state(ours, rng)
    assert list(theirs.state_dict()) == list(state)
    ours.load_state_dict(state)
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    theirs = theirs.eval()
    torch.nn.Module.load_state_dict(theirs, tensors, assign=True)
    x = rng.standard_normal((2, *shape))
    with torch.no_grad():
        assert_agree(ours(x), theirs(torch.tensor(x)).numpy())


@pytest.mark.parametrize(
    "which, name, options",
    [
        ("densenet121", "densenet121", {}),
        ("googlenet", "googlenet", dict(aux_logits=False, init_weights=False)),
        ("mobilenet_v2", "mobilenet_v2", {}),
        ("resnet34", "resnet34", {}),
        ("resnext50_32x4d", "resnext50_32x4d", {}),
        ("shufflenet_v2 0.5", "shufflenet_v2_x0_5", {}),
        ("squeezenet", "squeezenet1_0", {}),
        ("squeezenet 1.1", "squeezenet1_1", {}),
    ],
)
def test_a_network_agrees_with_torchvision(which, name, options, rng):
    library, _ = torchvision_models()
    with pytest.importorskip("torch").device("meta"):
        theirs = getattr(library, name)(num_classes=10, **options)
    assert_agrees_with(theirs, which, (3, 49, 38), rng)


@pytest.mark.parametrize("name", ["alexnet", "vgg13", "vgg16_bn"])
def test_a_network_with_large_linear_layers_agrees_with_torchvision(name, rng, monkeypatch):
    """With a tenth of their units: the time goes into these, not into what can be wrong."""
    torch = pytest.importorskip("torch")
    library, _ = torchvision_models()

    def tenth(linear):
        class Tenth(linear):
            def __init__(self, features, out):
                super().__init__(features // 10 if features == 4096 else features, out // 10)

        return Tenth

    for package in (nn, torch.nn):
        monkeypatch.setattr(package, "Linear", tenth(package.Linear))
    with torch.device("meta"):
        theirs = getattr(library, name)(num_classes=100)
    compare(empty(name, 100, dtype=np.float64), theirs, (3, 70, 65), rng)


@pytest.mark.parametrize(
    "which, name, side",
    [
        ("inception_v4", "inception_v4", 79),
        ("mobilenet_v1", "mobilenetv1_100", 40),
        ("se_resnet50", "seresnet50", 40),
        ("xception", "legacy_xception", 51),
    ],
)
def test_a_network_agrees_with_timm(which, name, side, rng):
    torchvision_models()
    timm = pytest.importorskip("timm", exc_type=ImportError)
    with pytest.importorskip("torch").device("meta"):
        theirs = timm.create_model(name, num_classes=10)
    assert_agrees_with(theirs, which, (3, side, side), rng)


def test_the_originals_differ_from_what_became_of_them_where_their_papers_say():
    paper, later = empty("alexnet paper"), empty("alexnet")
    groups = [m.groups for m in paper.features if isinstance(m, nn.Conv2d)]
    assert groups == [1, 2, 1, 2, 2]
    assert {m.groups for m in later.features if isinstance(m, nn.Conv2d)} == {1}
    assert sum(isinstance(m, nn.LocalResponseNorm) for m in paper.modules()) == 2
    assert empty("googlenet paper").inception3a.branch3[1].conv.kernel_size == (5, 5)
    assert empty("googlenet").inception3a.branch3[1].conv.kernel_size == (3, 3)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in empty("googlenet paper").modules())
    assert empty("googlenet").conv1.bn.eps == 1e-3
    assert any(isinstance(m, nn.Sigmoid) for m in empty("lenet5").modules())
    assert any(isinstance(m, nn.AvgPool2d) for m in empty("lenet5").modules())
    assert all(not isinstance(m, nn.Sigmoid) for m in empty("lenet5 relu").modules())


def test_the_unpadded_unet_turns_572_into_388():
    shapes = {n.name: n.shape for n in record(empty("unet paper", 2, 1), (1, 1, 188, 188)).nodes}
    assert shapes["outc.conv"] == (1, 2, 4, 4)  # 188 = 572 - 24 * 16, and 4 = 388 - 24 * 16
    assert shapes["down4.maxpool_conv.1.double_conv.3"] == (1, 1024, 4, 4)


def test_a_residual_block_of_zeros_is_the_identity_after_relu():
    block = empty("resnet18").layer1[0]
    x = np.arange(64.0, dtype=np.float32).reshape(1, 64, 1, 1) - 30
    np.testing.assert_array_equal(block(x), np.maximum(x, 0))


def test_networks_stay_out_of_the_import_of_the_package():
    assert fastconv.models is models
    text = Path(fastconv.__file__).read_text("utf-8")
    assert "import models" not in text


def test_the_example_prints_its_table_and_runs_a_checkpoint(tmp_path, capsys):
    pytest.importorskip("skimage")
    main = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "networks.py"))["main"]
    main(["squeezenet", "lenet5"])
    said = capsys.readouterr().out
    assert "1,248,424       818,924,576" in said and "416,520" in said
    np.savez(tmp_path / "weights.npz", **models.shufflenet_v2().state_dict())
    main(["shufflenet_v2", "--weights", str(tmp_path / "weights.npz")])
    said = capsys.readouterr().out
    assert "ShuffleNetV2 on 1×3×224×224" in said and "classes of 1000" in said
    with pytest.raises(SystemExit):
        main(["nonsense"])
