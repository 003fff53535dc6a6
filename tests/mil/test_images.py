"""Pictures outside, tensors inside: channels, ranges, modes and sizes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from layerdiff import mil
from layerdiff.errors import FeedError, MissingExtraError
from layerdiff.mil import images
from layerdiff.mil.features import TensorSpec
from layerdiff.mil.images import is_image, picture, pixels

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 5, 7
COLORS = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
GREYS = RNG.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)


def spec(color, dtype="float32", channels=None, **changes):
    channels = channels or (3 if color in ("RGB", "BGR") else 1)
    return TensorSpec("x", dtype, (1, channels, HEIGHT, WIDTH), kind="image", color=color, **changes)


def inside(value, spec_):
    return pixels(value, spec_, where="x.mlpackage, function 'main'")


# ------------------------------------------------------------------ given


@pytest.mark.parametrize(("color", "order"), [("RGB", [0, 1, 2]), ("BGR", [2, 1, 0])])
def test_colors_come_first_in_the_order_of_the_layout(color, order):
    expected = np.stack([COLORS[:, :, channel] for channel in order])[None]
    alpha = np.dstack([COLORS, np.full((HEIGHT, WIDTH), 9, np.uint8)])
    for value in (Image.fromarray(COLORS), Image.fromarray(alpha, "RGBA"), COLORS, COLORS.astype(np.float64), expected):
        np.testing.assert_array_equal(inside(value, spec(color)), expected)


def test_grey_images_have_one_channel():
    for value in (Image.fromarray(GREYS), GREYS, GREYS[None, None]):
        np.testing.assert_array_equal(inside(value, spec("GRAYSCALE")), GREYS[None, None])


def test_a_program_may_take_an_image_without_the_leading_axis():
    flat = TensorSpec("x", "uint8", (1, HEIGHT, WIDTH), kind="image", color="GRAYSCALE")
    for value in (Image.fromarray(GREYS), GREYS, GREYS[None]):
        np.testing.assert_array_equal(inside(value, flat), GREYS[None])
    three = TensorSpec("x", "float32", (3, HEIGHT, WIDTH), kind="image", color="RGB")
    np.testing.assert_array_equal(inside(Image.fromarray(COLORS), three), COLORS.transpose(2, 0, 1))


def test_fractions_are_rounded_only_for_a_program_that_takes_bytes():
    values = np.full((HEIGHT, WIDTH), 1.6)
    assert (inside(values, spec("GRAYSCALE")) == 1.6).all()
    assert (inside(values, spec("GRAYSCALE", dtype="uint8")) == 2).all()


def test_float16_pixels_hold_float16_values():
    values = RNG.standard_normal((HEIGHT, WIDTH)).astype(np.float32)
    given = inside(Image.fromarray(values), spec("GRAYSCALE_FLOAT16"))
    np.testing.assert_array_equal(given, values.astype(np.float16)[None, None])


@pytest.mark.parametrize(
    ("color", "value", "message"),
    [
        ("RGB", Image.fromarray(GREYS), "is of the mode 'L'"),
        ("GRAYSCALE", Image.fromarray(COLORS), "is of the mode 'RGB'"),
        ("GRAYSCALE_FLOAT16", Image.fromarray(GREYS), "is of the mode 'L'"),
        ("RGB", Image.fromarray(COLORS).resize((WIDTH + 1, HEIGHT)), "another size"),
        ("RGB", Image.fromarray(COLORS).transpose(Image.Transpose.ROTATE_90), "another size"),
        ("RGB", GREYS, "another size"),
        ("GRAYSCALE", GREYS[None, None, None], "another size"),
        ("GRAYSCALE", GREYS.astype(np.float32) + 300, "do not fit its pixels"),
        ("GRAYSCALE", np.full((HEIGHT, WIDTH), np.nan), "do not fit its pixels"),
        ("GRAYSCALE_FLOAT16", np.full((HEIGHT, WIDTH), 1e5, np.float32), "do not fit its pixels"),
        ("RGB", "a.png", "is no image"),
        ("RGB", [[1], [2, 3]], "is no image"),
    ],
)
def test_what_is_refused(color, value, message):
    with pytest.raises(FeedError, match=message) as raised:
        inside(value, spec(color))
    assert f"expected {color} image float32[1, " in str(raised.value)
    assert "in x.mlpackage, function 'main'" in str(raised.value)


def test_another_size_is_told_with_the_allowed_ones():
    sizes = ((1, 1, 3, 4), (1, 1, 5, 6))
    flexible = TensorSpec("x", "float32", (1, 1, (3, 5), (4, 6)), kind="image", color="GRAYSCALE", enumerated=sizes)
    assert inside(np.zeros((3, 4), np.uint8), flexible).shape == (1, 1, 3, 4)
    with pytest.raises(FeedError, match=r"got L 6 × 4; allowed shapes: \[1, 1, 3, 4\], \[1, 1, 5, 6\]"):
        inside(Image.new("L", (6, 4)), flexible)


# ------------------------------------------------------------------ returned


@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_colors_come_back_opaque(color):
    channels = COLORS.transpose(2, 0, 1)[:: 1 if color == "RGB" else -1]
    for array in (channels[None].astype(np.float32), channels):
        image = picture(array, spec(color))
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image)[:, :, :3], COLORS)
        assert (np.asarray(image)[:, :, 3] == 255).all()


def test_values_are_rounded_and_limited_to_eight_bits():
    values = np.array([[-1.0, 0.4, 0.6, 254.7], [255.2, 300, np.inf, -np.inf]])
    image = picture(values[None, None], spec("GRAYSCALE"))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 0, 1, 255], [255, 255, 255, 0]]
    assert np.asarray(picture(np.full((1, 1, 2, 2), np.nan), spec("GRAYSCALE"))).tolist() == [[0, 0], [0, 0]]


def test_float16_images_come_back_as_floats():
    values = RNG.standard_normal((1, 1, HEIGHT, WIDTH))
    image = picture(values, spec("GRAYSCALE_FLOAT16"))
    assert image.mode == "F"
    np.testing.assert_array_equal(np.asarray(image), values[0, 0].astype(np.float16).astype(np.float32))


# ------------------------------------------------------------------ pillow


def test_pillow_is_imported_only_for_an_image():
    code = (
        "import sys, numpy as np; from layerdiff.mil import images; from layerdiff.mil.features import TensorSpec;"
        "spec = TensorSpec('x', 'float32', (1, 1, 2, 2), kind='image', color='GRAYSCALE');"
        "images.pixels(np.zeros((2, 2)), spec, where='x'); assert 'PIL' not in sys.modules;"
        "images.picture(np.zeros((1, 1, 2, 2)), spec); assert 'PIL' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_pillow_an_image_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert not is_image(GREYS)
    with pytest.raises(MissingExtraError, match=r'pip install "layerdiff\[images\]"'):
        picture(np.zeros((1, 1, 2, 2)), spec("GRAYSCALE"))
    assert images.MODES["GRAYSCALE"] == ("L",)


# ------------------------------------------------------------------ programs


def brighter():
    """A module that makes every channel brighter by another amount: 10 in the first, 20, 30."""
    import torch

    class Brighter(torch.nn.Module):
        def forward(self, x):
            return x + torch.tensor([10.0, 20.0, 30.0][: x.shape[1]]).reshape(1, -1, 1, 1)

    return Brighter()


def image_model(convert, given, returned, channels, sizes=None, **keywords):
    """The loaded `brighter` with an image, or a tensor if the layout is None, on either side."""
    import torch

    def image(ct, layout, name, **shape):
        if layout is None:
            return ct.TensorType(name=name, **shape)
        return ct.ImageType(name=name, color_layout=getattr(ct.colorlayout, layout), **shape)

    sizes = sizes or (lambda ct: (1, channels, HEIGHT, WIDTH))
    path = convert(
        brighter(),
        torch.zeros(1, channels, HEIGHT, WIDTH),
        inputs=lambda ct: [image(ct, given, "x", shape=sizes(ct), **keywords)],
        outputs=lambda ct: [image(ct, returned, "y")],
    )
    return mil.load(path)


SMALL = COLORS // 2


@pytest.mark.parametrize("given", ["RGB", "BGR"])
@pytest.mark.parametrize("returned", ["RGB", "BGR", None])
def test_a_color_program_sees_and_shows_channels_in_the_order_of_its_layouts(convert, given, returned):
    model = image_model(convert, given, returned, 3)
    found = model.predict({"x": Image.fromarray(SMALL)})["y"]
    seen = SMALL if given == "RGB" else SMALL[:, :, ::-1]
    expected = seen + np.uint8([10, 20, 30])
    if returned is None:
        np.testing.assert_array_equal(found, expected.transpose(2, 0, 1)[None].astype(np.float32))
    else:
        assert (found.mode, found.size) == ("RGBA", (WIDTH, HEIGHT))
        shown = expected if returned == "RGB" else expected[:, :, ::-1]
        np.testing.assert_array_equal(np.asarray(found)[:, :, :3], shown)
        inner = model.run({"x": SMALL}, ["y"])["y"]
        np.testing.assert_array_equal(inner, expected.transpose(2, 0, 1)[None])


def test_scale_and_bias_are_in_the_program(convert):
    model = image_model(convert, "RGB", None, 3, scale=1 / 127.5, bias=[-1.0, 0.0, 1.0])
    expected = SMALL.transpose(2, 0, 1) / 127.5 + np.reshape([9.0, 20.0, 31.0], (3, 1, 1))
    np.testing.assert_allclose(model.predict({"x": Image.fromarray(SMALL)})["y"][0], expected, rtol=1e-6)


def test_a_grey_program(convert):
    model = image_model(convert, "GRAYSCALE", "GRAYSCALE_FLOAT16", 1)
    found = model.predict({"x": Image.fromarray(GREYS)})["y"]
    assert found.mode == "F"
    np.testing.assert_array_equal(np.asarray(found), GREYS.astype(np.float32) + 10)
    half = image_model(convert, "GRAYSCALE_FLOAT16", "GRAYSCALE", 1)
    values = RNG.uniform(-30, 300, (HEIGHT, WIDTH)).astype(np.float32)
    shown = np.asarray(half.predict({"x": Image.fromarray(values)})["y"])
    np.testing.assert_array_equal(shown, np.rint((values.astype(np.float16) + np.float16(10)).clip(0, 255)))


def test_a_grey_program_may_take_bytes(convert):
    import torch

    class Turned(torch.nn.Module):
        def forward(self, x):
            return x.transpose(-2, -1)

    def inputs(ct):
        layout = ct.colorlayout.GRAYSCALE
        return [ct.ImageType(name="x", shape=(1, 1, 5, 7), color_layout=layout, grayscale_use_uint8=True)]

    def outputs(ct):
        return [ct.ImageType(name="y", color_layout=ct.colorlayout.GRAYSCALE)]

    model = mil.load(convert(Turned(), torch.zeros(1, 1, 5, 7), inputs=inputs, outputs=outputs))
    assert model.inputs["x"].dtype == "uint8"
    np.testing.assert_array_equal(np.asarray(model.predict({"x": Image.fromarray(GREYS)})["y"]), GREYS.T)


def test_images_of_flexible_size(convert):
    def sizes(ct):
        return ct.Shape((1, 1, ct.RangeDim(3, 9, default=4), ct.RangeDim(2, 8, default=5)))

    model = image_model(convert, "GRAYSCALE", "GRAYSCALE", 1, sizes)
    assert str(model.inputs["x"]) == "GRAYSCALE image float32[1, 1, 3..9, 2..8]"
    assert model.inputs["x"].default_shape == (1, 1, 4, 5)
    for height, width in ((3, 8), (9, 2)):
        picture_ = Image.fromarray(np.full((height, width), 7, np.uint8))
        assert np.asarray(model.predict({"x": picture_})["y"]).tolist() == [[17] * width] * height
    with pytest.raises(FeedError, match="got L 9 × 3"):
        model.predict({"x": Image.new("L", (9, 3))})


def test_images_of_enumerated_sizes(convert):
    def sizes(ct):
        return ct.EnumeratedShapes(shapes=[(1, 1, 4, 6), (1, 1, 6, 4)])

    model = image_model(convert, "GRAYSCALE", None, 1, sizes)
    assert model.predict({"x": Image.new("L", (4, 6))})["y"].shape == (1, 1, 6, 4)
    with pytest.raises(FeedError, match=r"got L 4 × 4; allowed shapes: \[1, 1, 4, 6\], \[1, 1, 6, 4\]"):
        model.predict({"x": Image.new("L", (4, 4))})
