"""What a model's name says by itself; no torch."""

CIFAR_DEPTHS = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56, "resnet110": 110}
IMAGENET_CLASSES = 1000
TIMM = "timm:"


def is_timm(name: str) -> bool:
    """Is `name` that of a network of the package timm, such as `timm:resnet18d`?"""
    return name.startswith(TIMM)


def is_factory(name: str) -> bool:
    """Is `name` a `module:factory`, that is, code of the user's own?"""
    return ":" in name and not is_timm(name)


def made_for_small_images(name: str) -> bool:
    """Is the network of the CIFAR family, or the user's own? Those of libraries halve the image five times."""
    return is_factory(name) or name in CIFAR_DEPTHS


def name_for_files(name: str) -> str:
    """Return what folders of runs are called by a model's name.

    >>> name_for_files("resnet18"), name_for_files("my_models:net"), name_for_files("timm:resnet18.a1_in1k")
    ('resnet18', 'net', 'timm_resnet18.a1_in1k')
    """
    return name.rpartition(":")[2] if is_factory(name) else name.replace(":", "_")
