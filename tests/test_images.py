import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.datasets.folder import pil_loader

from asqcli import images
from asqcli.errors import InputError, Interruption
from asqcli.images import fit, normalization, open_image, read_pixels, resize_and_crop


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_shorter_side_decides_and_the_centre_stays():
    gradient = np.tile(np.arange(40, dtype=np.uint8)[None, :, None], (20, 1, 3))
    cropped = resize_and_crop(Image.fromarray(gradient), resize=20, size=10)
    assert cropped.shape == (10, 10, 3) and cropped[0, :, 0].tolist() == list(range(15, 25))
    assert resize_and_crop(Image.fromarray(gradient), resize=32, size=28).shape == (28, 28, 3)


def test_an_image_of_the_right_size_is_untouched():
    pixels = noise(8, 8)
    assert np.array_equal(resize_and_crop(Image.fromarray(pixels), resize=8, size=8), pixels)


def test_resize_and_crop_are_torchvisions_to_the_bit():
    """At random sizes, long and flat ones among them; the crop is as often larger than the image as smaller."""
    draw = random.Random(1)
    for n in range(600):
        width, height, resize, size = (draw.randint(1, 90) for _ in range(4))
        if n % 3 == 0:
            width = resize  # nothing to resize, or the longer side alone decides
        image = Image.fromarray(noise(width, height, seed=n))
        theirs = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(size)])(image)
        ours = resize_and_crop(image, resize=resize, size=size)
        assert np.array_equal(ours, np.asarray(theirs)), (width, height, resize, size)
        assert n % 20 or np.array_equal(fit(np.asarray(image)[None], resize=resize, size=size)[0], ours)
    for width, height in ((500, 333), (375, 500), (641, 427), (1023, 257), (255, 999)):
        image = Image.fromarray(noise(width, height))
        theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
        assert np.array_equal(resize_and_crop(image, resize=256, size=224), np.asarray(theirs)), (width, height)


def test_normalization_is_the_usual_one():
    multiplier, addend = normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = np.arange(256, dtype=np.float32)
    usual = (pixels / 255 - 0.456) / 0.224
    assert np.allclose(pixels * multiplier[1] + addend[1], usual, atol=1e-5)


def with_alpha(mode):
    image = Image.fromarray(noise(9, 7)).convert(mode)
    image.putalpha(Image.fromarray(noise(9, 7, seed=1)[..., 0]))
    return image


def animation(file):
    frames = [Image.fromarray(noise(9, 7, seed=n)) for n in range(3)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=100)


@pytest.mark.parametrize(
    ("ending", "write"),
    [
        *((e, lambda file, m=m: Image.fromarray(noise(9, 7)).convert(m).save(file)) for e, m in [
            ("png", "L"), ("png", "1"), ("png", "P"), ("png", "RGB"), ("jpg", "L"), ("jpg", "CMYK"), ("jpg", "RGB"),
            ("tif", "CMYK"), ("tif", "YCbCr"), ("tif", "LAB"), ("tif", "1"), ("tif", "P"), ("bmp", "P"), ("pgm", "L"),
        ]),
        *((e, lambda file, m=m: with_alpha(m).save(file)) for e, m in [
            ("png", "RGB"), ("png", "L"), ("tif", "RGB"), ("tif", "L"), ("webp", "RGB")
        ]),
        ("png", lambda file: Image.fromarray(noise(9, 7)).convert("P").save(file, transparency=bytes(range(256)))),
        ("png", lambda file: Image.fromarray(noise(9, 7)).convert("P").save(file, transparency=3)),
        ("png", lambda file: Image.fromarray(noise(9, 7)).convert("L").save(file, transparency=3)),
        ("png", lambda file: Image.fromarray(noise(9, 7)).save(file, transparency=(1, 2, 3))),
        ("webp", animation),
        ("png", animation),
        ("tif", animation),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # torchvision's loader; ours gives none
def test_every_mode_is_what_torchvisions_loader_sees(tmp_path, ending, write):
    path = tmp_path / f"x.{ending}"
    write(path)
    image = open_image(path)
    assert image.mode == "RGB" and np.array_equal(image, pil_loader(path))


def png16(pixels):
    """Return a PNG of 16 bits a channel, (H, W) or (H, W, 3) uint16; Pillow writes only the first."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(content, width, height, *, bits, photometric=1, order="<", sample_format=1):
    """Return a TIFF of one strip of grey levels, as Pillow cannot write it."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(content), 339: sample_format}
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(content))
    return head + content + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)


LEVELS = np.arange(256, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize("factor", [256, 257])
@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("png", png16),
        ("png", lambda p: png16(np.stack([p] * 3, axis=-1))),
        ("tif", lambda p: tiff(p.astype("<u2").tobytes(), 16, 16, bits=16)),
        ("tif", lambda p: tiff(p.astype(">u2").tobytes(), 16, 16, bits=16, order=">")),
        ("tif", lambda p: tiff((65535 - p).astype("<u2").tobytes(), 16, 16, bits=16, photometric=0)),
        ("pgm", lambda p: b"P5 16 16 65535\n" + p.astype(">u2").tobytes()),
        ("pgm", lambda p: b"P2 16 16 65535\n" + " ".join(map(str, p.ravel())).encode()),
    ],
)
def test_16_bits_become_8_whichever_way_8_were_written_in_them(tmp_path, ending, content, factor):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content(LEVELS * factor))
    assert np.array_equal(open_image(path), np.stack([LEVELS.astype(np.uint8)] * 3, axis=-1))


def test_12_bits_are_scaled_by_their_own_range(tmp_path):
    packed = "".join(f"{v * 16:012b}" for v in LEVELS.ravel())
    (tmp_path / "x.tif").write_bytes(tiff(int(packed, 2).to_bytes(len(packed) // 8, "big"), 16, 16, bits=12))
    assert np.array_equal(np.asarray(open_image(tmp_path / "x.tif"))[..., 0], LEVELS)


@pytest.mark.parametrize(
    ("pixels", "ending", "kind"),
    [
        (np.zeros((4, 4), np.float32), "tif", "float"),
        (np.zeros((4, 4), np.int32), "tif", "32-bit or signed"),
        (np.zeros((4, 4), np.float32), "ppm", "float"),
    ],
)
def test_pixels_of_no_known_range_are_refused_by_name(tmp_path, pixels, ending, kind):
    path = tmp_path / f"deep.{ending}"
    Image.fromarray(pixels).save(path)
    with pytest.raises(InputError, match=rf"deep\.{ending}` cannot be used: it has {kind} pixels") as caught:
        open_image(path)
    assert "8 or 16 bits" in caught.value.hint


def test_signed_16_bits_are_refused(tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff(LEVELS.tobytes(), 16, 16, bits=16, sample_format=2))
    with pytest.raises(InputError, match="signed"):
        open_image(tmp_path / "x.tif")


def test_unreadable_images_are_named(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    for name in ("cut.jpg", "text.jpg", "absent.jpg", "folder.jpg", "empty.jpg"):
        with pytest.raises(InputError, match=name):
            open_image(tmp_path / name)
    with pytest.raises(InputError, match=r"a\\x00b"):
        open_image("a\0b")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("frame 0"), struct.error("4 bytes"), IndexError(), zlib.error("-3"), MemoryError(), KeyError(1)],
)
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    path = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(path)

    def fail(*_):
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    for read in (open_image, lambda path: read_pixels(path, resize=4, size=4)):
        with pytest.raises(InputError, match=r"x\.png` cannot be read"):
            read(path)


def test_a_signal_that_comes_while_decoding_is_no_broken_image(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    monkeypatch.setattr(images, "_decode", lambda path: (_ for _ in ()).throw(Interruption(2, "stopped")))
    with pytest.raises(Interruption):
        open_image(tmp_path / "x.png")


def test_damaged_files_of_every_kind_are_input_errors(tmp_path):
    """Bytes changed at random in real files: an image or an InputError comes out, nothing else."""
    draw, path, failures = random.Random(0), tmp_path / "x.png", 0
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "AVIF", "ICO"):
        buffer = io.BytesIO()
        try:
            Image.fromarray(noise(24, 24)).save(buffer, kind)
        except (KeyError, OSError):
            continue  # a Pillow without this codec
        for _ in range(25):
            content = bytearray(buffer.getvalue())
            for _ in range(draw.randint(1, 4)):
                content[draw.randrange(len(content))] ^= draw.randint(1, 255)
            path.write_bytes(content[: draw.choice([len(content), draw.randint(1, len(content))])])
            try:
                assert open_image(path).mode == "RGB"
            except InputError as error:
                assert "x.png`" in error.message
                failures += 1
    assert failures > 20


def test_an_image_too_long_to_be_resized_is_named(tmp_path):
    Image.new("L", (60000, 1)).save(tmp_path / "line.png")
    with pytest.raises(InputError, match=r"line\.png` cannot be used: an image of 60000 x 1 pixels is too long"):
        read_pixels(tmp_path / "line.png", resize=224, size=224)
