import numpy as np
import pytest
from PIL import Image

from asqcli.errors import InputError
from asqcli.images import normalization, open_image, resize_and_crop


def test_the_shorter_side_decides_and_the_centre_stays():
    gradient = np.tile(np.arange(40, dtype=np.uint8)[None, :, None], (20, 1, 3))
    cropped = resize_and_crop(Image.fromarray(gradient), resize=20, size=10)
    assert cropped.shape == (10, 10, 3) and cropped[0, :, 0].tolist() == list(range(15, 25))
    assert resize_and_crop(Image.fromarray(gradient), resize=32, size=28).shape == (28, 28, 3)


def test_an_image_of_the_right_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(resize_and_crop(Image.fromarray(pixels), resize=8, size=8), pixels)


def test_normalization_is_the_usual_one():
    multiplier, addend = normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = np.arange(256, dtype=np.float32)
    usual = (pixels / 255 - 0.456) / 0.224
    assert np.allclose(pixels * multiplier[1] + addend[1], usual, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (5, 4)).save(path)
    assert open_image(path).mode == "RGB"


def test_unreadable_images_are_named(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.jpg", "text.jpg", "absent.jpg"):
        with pytest.raises(InputError, match=name):
            open_image(tmp_path / name)
