"""What a model's name says by itself; no torch."""

CIFAR_DEPTHS = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56, "resnet110": 110}
IMAGENET_CLASSES = 1000


def is_factory(name: str) -> bool:
    """Is `name` a `module:factory`, that is, code of the user's own?"""
    return ":" in name


def made_for_small_images(name: str) -> bool:
    """Is the network of the CIFAR family, or the user's own? torchvision's halve the image five times."""
    return is_factory(name) or name in CIFAR_DEPTHS
