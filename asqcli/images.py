"""Decode, resize, crop and normalise one image with NumPy and Pillow.

Training's evaluation and the integer engine both use this code, so that they see the same pixels to the bit: those that
torchvision's ImageFolder, Resize and CenterCrop give, but for 16-bit grey, of which that loader makes white.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from asqcli.errors import AsqError, InputError, first_line, printable, quoted

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

LARGEST_PIXELS = 2**26  # pixels of a resized image: 256 MiB
FULL_RANGE_FORMATS = ("PNG", "PPM")  # images of these in mode I have 16 bits, whatever the largest value in the file
TIFF_BITS, TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags, and a value of the second

FilePath = str | os.PathLike[str]


def open_image(path: FilePath) -> Image.Image:
    """Return an image file decoded, RGB, 8 bits; of an animation or a file of many pages the first.

    Palettes, grey, bilevel, CMYK and YCbCr become RGB as by `Image.convert`. Transparency is dropped, not blended with
    a background: a pixel keeps the colour that lies under it. 16-bit grey loses its lower byte, as 16-bit colours do
    in Pillow: right for v * 257 and for v * 256, the two ways to write 8 bits in 16.

    Raises:
        InputError: missing, damaged, not an image, float or 32-bit pixels; names the file.
    """
    with _naming(path):
        return _decode(path)


def read_pixels(path: FilePath, *, resize: int, size: int) -> np.ndarray:
    """Return the pixels that evaluation sees of an image file, (size, size, 3) uint8.

    Raises:
        InputError: as `open_image` and `resize_and_crop`; names the file.
    """
    with _naming(path):
        return resize_and_crop(_decode(path), resize=resize, size=size)


@contextmanager
def _naming(path: FilePath) -> Generator[None]:
    """Turn whatever a decoder raises into an InputError that names the file.

    Pillow's plugins answer damaged files with OSError, ValueError, SyntaxError, RuntimeError, struct.error, IndexError,
    zlib.error, MemoryError and more: no list of them is complete.
    """
    remedy = "mend or remove the file; asq leaves no image out by itself"
    try:
        yield
    except InputError as error:
        raise InputError(f"{quoted(path)} cannot be used: {error.message}", error.hint or remedy) from error
    except AsqError:
        raise  # a signal
    except UnidentifiedImageError as error:
        raise InputError(f"{quoted(path)} is not an image", remedy) from error
    except Exception as error:
        reason = "out of memory" if isinstance(error, MemoryError) else getattr(error, "strerror", None)
        raise InputError(f"{quoted(path)} cannot be read: {reason or printable(first_line(error))}", remedy) from error


def _decode(path: FilePath) -> Image.Image:
    with Image.open(path) as image:
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in FULL_RANGE_FORMATS):
            return _from_16_bits(image).convert("RGB")
        if image.mode in ("I", "F"):
            kind = "float" if image.mode == "F" else "32-bit or signed"
            hint = "save it with 8 or 16 bits a channel"
            raise InputError(f"it has {kind} pixels, whose range nobody can know", hint)
        if image.mode == "P":
            image.info.pop("transparency", None)  # dropped in any case; Pillow would warn of it, image by image
        return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Return the upper 8 bits of grey levels, mode L. Pillow leaves 12 bits, and a zero that is white, as stored."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(TIFF_BITS, (16,))[0]
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO else grey)


def resize_and_crop(image: Image.Image, *, resize: int, size: int) -> np.ndarray:
    """Return the centre of the image after its shorter side was brought to `resize` pixels (bilinear).

    Equals torchvision's `Resize(resize)` and `CenterCrop(size)` of PIL images to the bit: the longer side is rounded
    down, offsets to the nearest, halves to even.

    Returns:
        (size, size, 3), uint8; black beyond the border. An image that has the right size already is returned as it is.
    Raises:
        InputError: it would have more than LARGEST_PIXELS.
    """
    shorter, longer = sorted(image.size)
    if shorter != resize:
        longer = int(resize * longer / shorter)  # in this order: the other one rounds differently
        if resize * longer > LARGEST_PIXELS:
            raise InputError(f"an image of {image.width} x {image.height} pixels is too long to be resized to {resize}")
        upright = image.width <= image.height
        image = image.resize((resize, longer) if upright else (longer, resize), Image.Resampling.BILINEAR)
    if image.size != (size, size):
        left, top = (_offset(length, size) for length in image.size)
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def _offset(length: int, size: int) -> int:
    """Return where the centre of `size` pixels begins, below zero where there are fewer."""
    return round((length - size) / 2) if length >= size else -((size - length) // 2)


def fit(pixels: np.ndarray, *, resize: int, size: int) -> np.ndarray:
    """Return `resize_and_crop` of each image, (N, size, size, 3) uint8.

    Args:
        pixels: (N, H, W, 3), uint8.
    """
    if pixels.shape[1:3] == (size, size) and resize == size:
        return pixels
    return np.stack([resize_and_crop(Image.fromarray(p), resize=resize, size=size) for p in pixels])


def normalize(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return network input, (N, 3, H, W) float32 with channels last in memory, from (N, H, W, 3) uint8."""
    multiplier, addend = normalization(mean, std)
    normalized = pixels.astype(np.float32)
    normalized *= multiplier
    normalized += addend
    return normalized.transpose(0, 3, 1, 2)


def normalization(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return (multiplier, addend), (3,) float32 each: a normalised pixel is pixel * multiplier, then + addend.

    Args:
        mean, std: per channel, of pixels scaled to 0 .. 1.
    """
    deviation = np.asarray(std, np.float64)
    return (
        (1 / (255 * deviation)).astype(np.float32),
        (-np.asarray(mean, np.float64) / deviation).astype(np.float32),
    )
