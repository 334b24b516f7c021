import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from asqcli.data.augment import ASPECT, flip, random_box, shift
from asqcli.seeds import generator


def test_each_shift_is_a_crop_of_the_padded_image():
    images = torch.randint(1, 256, (40, 3, 6, 5), dtype=torch.uint8)
    shifted = shift(images, 2, generator(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    places = set()
    for n in range(40):
        crops = {(t, k): padded[n, :, t : t + 6, k : k + 5] for t in range(5) for k in range(5)}
        places |= {place for place, crop in crops.items() if torch.equal(crop, shifted[n])}
        assert any(torch.equal(crop, shifted[n]) for crop in crops.values())
    assert len(places) > 12


def test_flip_mirrors_about_half_of_the_images():
    images = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(1, 3, 4, 5).repeat(200, 1, 1, 1)
    flipped = flip(images, generator(1))
    mirrored = [torch.equal(f, i.flip(-1)) for f, i in zip(flipped, images, strict=True)]
    assert all(m or torch.equal(f, i) for m, f, i in zip(mirrored, flipped, images, strict=True))
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("size", [(500, 375), (64, 64), (3, 2), (1, 1), (700, 9), (5, 300)])
def test_random_parts_are_those_of_torchvision(size):
    """And so are the numbers drawn, or the part of the next image would be another one."""
    for seed in range(40):
        torch.manual_seed(seed)
        top, left, height, width = RandomResizedCrop.get_params(Image.new("L", size), scale=[0.08, 1], ratio=[*ASPECT])
        drawing = torch.Generator().manual_seed(seed)
        assert random_box(*size, drawing) == (left, top, width, height)
        assert torch.equal(torch.rand(1, generator=drawing), torch.rand(1))
