"""The demo `ocr`: its geometry and decoding alone, and with the models of the package rapidocr."""

import difflib
import importlib.util

import numpy as np
import pytest

from fastconv.__main__ import main
from fastconv.demos import ocr

pytest.importorskip("scipy")
images = pytest.importorskip("PIL.Image")
missing = [name for name in ("rapidocr", "skimage") if importlib.util.find_spec(name) is None]
with_models = pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")

# What scikit-image's page says, read by eye. Half a line below it is cut off by the photograph's edge.
PAGE = """\
Region-based segmentation
Let us first determine markers of the coins and the
background. These markers are pixels that we can label
unambiguously as either object or background. Here,
the markers are found at the two extreme parts of the
histogram of grey values:
>>> markers = np.zeros_like(coins)"""


@pytest.fixture(scope="module")
def networks():
    return ocr.load()


def right(text, expected):
    """The share of the expected characters that are there, in their order."""
    blocks = difflib.SequenceMatcher(None, text, expected, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(expected)


# geometry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 3, 40, -40, -60, 80])
def test_the_smallest_rectangle_is_found_at_any_angle(degrees):
    angle = np.radians(degrees)
    along = np.array([np.cos(angle), np.sin(angle)])
    down = np.array([-along[1], along[0]])
    corners = np.array([(0, 0), (40, 0), (40, 7), (0, 7)]) @ [along, down]
    inside = np.random.default_rng(0).random((50, 2)) @ [40 * along, 7 * down]
    points = np.concatenate([corners, inside]) + (100, 60)
    np.testing.assert_allclose(ocr.smallest_rectangle(points), corners + (100, 60), atol=1e-6)


def test_pixels_of_a_diagonal_have_a_rectangle():
    points = np.arange(9.0)[:, None] * (1, 1)
    assert np.isfinite(ocr.strip_along(points).outline).all()


def test_a_strip_follows_a_line_that_bends():
    """Pixels within 5 of a parabola: the strip's middle is that parabola."""
    y, x = np.mgrid[:100, :300] + 0.5
    bend = 50 + 0.0005 * (x - 150) ** 2
    rows, columns = np.nonzero((np.abs(y - bend) < 5) & (x > 20) & (x < 280))
    strip = ocr.strip_along(np.stack([columns, rows], 1) + 0.5)
    inside = strip.middle[2:-2]
    assert np.abs(inside[:, 1] - 50 - 0.0005 * (inside[:, 0] - 150) ** 2).max() < 0.5
    grown = ocr.GROWTH * 260 * 10 / (2 * 270)
    width, height = strip.size
    assert abs(width - 260 - 2 * grown) < 2 and abs(height - 10 - 2 * grown) < 1


def test_a_cut_is_level():
    """A photograph whose brightness is x along a strip that leans: its columns come out alike."""
    y, x = np.mgrid[:80, :200]
    angle = 0.2
    photo = np.repeat((x * np.cos(angle) + y * np.sin(angle))[None], 3, 0) / 200
    middle = np.array((20, 20)) + np.linspace(0, 120, ocr.KNOTS)[:, None] * (
        np.cos(angle),
        np.sin(angle),
    )
    piece = ocr.cut(photo, ocr.Strip(middle, 6 * np.array((-np.sin(angle), np.cos(angle)))))
    assert piece.shape == (3, ocr.HEIGHT, 480)
    assert np.ptp(piece, axis=1).max() < 1e-3
    assert (np.diff(piece[0, 0, 8:-8]) > 0).all()


def test_likely_pixels_become_strips_in_reading_order():
    likely = np.zeros((60, 100), np.float32)
    likely[40:46, 5:90] = 0.9
    likely[11:17, 60:90] = 0.9
    likely[10:16, 5:40] = 0.9
    likely[50:56, 5:90] = 0.4  # not sure enough
    likely[30:32, 5:90] = 0.9  # too thin
    middles = [strip.middle[ocr.KNOTS // 2] for strip in ocr.strips_of(likely)]
    np.testing.assert_allclose(middles, [(22.5, 13), (75, 14), (47.5, 43)], atol=0.5)
    assert ocr.strips_of(np.zeros((64, 64), np.float32)) == []


@pytest.mark.parametrize(
    ("steps", "text"), [("", ""), ("---", ""), ("aab-b-", "abb"), ("-a-a", "aa"), ("abba", "aba")]
)
def test_repeated_characters_are_one_and_blanks_part_them(steps, text):
    likely = np.full((len(steps), 3), 0.1)
    for i, character in enumerate(steps):
        likely[i, "-ab".index(character)] = 0.8
    assert ocr.decoded(likely, ["", "a", "b"]) == (text, pytest.approx(0.8 if text else 0.0))


# with the models ---------------------------------------------------------------------------------


@with_models
def test_the_page_is_read_and_drawn(tmp_path, capsys):
    main(["demo", "ocr", "--output", str(tmp_path)])
    lines = [line for line in capsys.readouterr().out.split("\n") if " %  " in line]
    text = "\n".join(line[20:].strip() for line in lines)
    assert right(text, PAGE) > 0.97, text
    with images.open(tmp_path / "ocr.png") as picture:
        assert picture.size == (1584, 426)


@with_models
def test_lines_that_lie_on_their_heads_are_turned(networks):
    photo = ocr.read_page()
    strip = ocr.Strip(np.linspace((4, 22), (300, 24), ocr.KNOTS), np.array((0.0, 12)))
    piece = ocr.cut(photo, strip)
    for seen in (piece, piece[:, ::-1, ::-1]):
        (turned,) = ocr.upright(networks, [seen])
        assert ocr.read(networks, turned)[0] == "Region-based segmentation"


@with_models
def test_a_picture_without_text_is_no_error(tmp_path, capsys):
    images.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    where = ["--photo", str(tmp_path / "white.png"), "--longest", "64"]
    main(["demo", "ocr", *where, "--output", str(tmp_path)])
    assert "0 lines" in capsys.readouterr().out


@with_models
def test_the_networks_give_what_onnx_runtime_gives(networks):
    runtime = pytest.importorskip("onnxruntime")
    folder = ocr.folder_of("rapidocr", "") / "models"
    photo = ocr.read_page()
    strip = ocr.Strip(np.linspace((4, 22), (300, 24), ocr.KNOTS), np.array((0.0, 12)))
    piece = ocr.cut(photo, strip)
    inputs = (
        ocr.detection_input(photo, 640),
        ocr.direction_inputs(piece)[0],
        ocr.recognition_input(piece),
    )
    for name, session, x in zip(ocr.FILES, networks, inputs, strict=False):
        theirs = runtime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        (expected,) = theirs.run(None, {theirs.get_inputs()[0].name: x})
        assert np.abs(session(x) - expected).max() <= 1e-4, name
