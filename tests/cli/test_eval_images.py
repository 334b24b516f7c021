"""`asq eval` of a float network beside a plain torchvision loop, image by image."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import torch
from asq_process import asq
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader

from asqcli.data.preprocessing import Preprocessing
from asqcli.data.source import open_data

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FACTORY = """
from torch import nn
def net(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(108, num_classes))
"""
SIZES = ((71, 93), (301, 227), (255, 256), (257, 641), (499, 333), (120, 67))


def write_pictures(folder):
    """Write 4 classes of pictures of every kind and of odd sizes; smooth shapes, so that JPEG keeps them."""
    rng = np.random.default_rng(0)
    for label in range(4):
        inside = folder / f"class{label}"
        inside.mkdir(parents=True)
        for n, size in enumerate(SIZES):
            coarse = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
            picture = Image.fromarray(coarse).resize(size, Image.BICUBIC)
            grey = np.asarray(picture.convert("L"))
            alpha = picture.copy()
            alpha.putalpha(Image.fromarray(255 - grey))
            kinds = {
                "rgb.png": picture, "rgb.jpg": picture, "palette.png": picture.quantize(64),
                "grey.png": Image.fromarray(grey), "grey.jpg": Image.fromarray(grey),
                "cmyk.jpg": picture.convert("CMYK"), "bits.png": picture.convert("1"),
                "alpha.png": alpha, "deep.png": Image.fromarray(grey.astype(np.uint16) * 256 + np.uint16(77)),
                "deep.tif": Image.fromarray(grey.astype(np.uint16) * 257),
            }  # fmt: skip
            for name in list(kinds)[(n + label) % 2 :: 2]:
                kinds[name].save(inside / f"{n}_{name}")


def load_as_documented(path):
    """torchvision's loader, and the upper byte of 16-bit grey."""
    with Image.open(path) as image:
        if image.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return pil_loader(path)


def test_eval_of_a_float_network_is_a_plain_torchvision_loop(tmp_path):
    write_pictures(tmp_path / "photos" / "Test")
    transform = transforms.Compose([
        transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)
    ])  # fmt: skip
    plain = ImageFolder(tmp_path / "photos" / "Test", transform, loader=load_as_documented)
    inputs, labels = torch.stack([x for x, _ in plain]), torch.tensor(plain.targets)

    (tmp_path / "own.py").write_text(FACTORY)
    spec = importlib.util.spec_from_file_location("own_photos", tmp_path / "own.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    network = module.net(4)
    with torch.no_grad():
        network[-1].bias -= network(inputs).mean(0)  # so that the answers differ
        logits = network(inputs)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    best = logits.topk(2).values
    assert len(logits.argmax(1).unique()) == 4 and (best[:, 0] - best[:, 1]).min() > 1e-5  # no answer hangs on rounding

    command = ("eval", "own:net", "--weights", "w.safetensors", "--data", "photos", "--batch-size", "7", "--json")
    done = asq(*command, cwd=tmp_path)
    measured = json.loads(done.stdout)
    right = int((logits.argmax(1) == labels).sum())
    assert (measured["images"], measured["top1"]) == (len(plain), round(100 * right / len(plain), 2))
    assert abs(measured["loss"] - float(F.cross_entropy(logits, labels))) < 1e-5
    assert "data: folders read as splits: test in `Test`" in done.stderr

    split = open_data(str(tmp_path / "photos"), Preprocessing(224, 256, MEAN, STD, "none", 0), workers=0).result
    seen = torch.cat([x for x, _ in split.eval_batches(16)])
    assert (seen - inputs).abs().max() < 1e-5  # one level of one pixel is 0.017
    with torch.no_grad():
        assert torch.equal(network(seen).argmax(1), logits.argmax(1))
