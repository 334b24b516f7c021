"""Decode, resize, crop and normalise one image with NumPy and Pillow.

Training's evaluation and the integer engine both use this code, so that they see the same pixels to the bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from asqcli.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

LARGEST_PIXELS = 2**26  # of a resized image: 256 MiB


def open_image(path: Path) -> Image.Image:
    """Return the decoded image, RGB.

    Raises:
        InputError: missing, truncated, or not an image; names the file.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        text = getattr(error, "strerror", None) or error
        reason = "is not an image" if isinstance(error, UnidentifiedImageError) else f"cannot be read: {text}"
        raise InputError(f"`{path}` {reason}", "mend or remove the file; asq leaves no image out by itself") from error


def resize_and_crop(image: Image.Image, *, resize: int, size: int) -> np.ndarray:
    """Return the centre of the image after its shorter side was brought to `resize` pixels (bilinear).

    Returns:
        (size, size, 3), uint8. An image that has the right size already is returned as it is.
    Raises:
        InputError: it would have more than LARGEST_PIXELS.
    """
    width, height = image.size
    if min(width, height) != resize:
        scale = resize / min(width, height)
        width, height = max(resize, round(width * scale)), max(resize, round(height * scale))
        if width * height > LARGEST_PIXELS:
            raise InputError(f"an image of {image.width} x {image.height} pixels is too long to be resized to {resize}")
        image = image.resize((width, height), Image.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    if (image.width, image.height) != (size, size):
        image = image.crop((left, top, left + size, top + size))  # beyond the border: black
    return np.asarray(image)


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
