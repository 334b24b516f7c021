"""Image data sets: the embedded digits, CIFAR in torchvision's layout, folders of images.

layout    what lies where: names, folders, classes
samples   a name or folder to images and labels; no torch
source    the same as splits that give batches
splits    one split: in memory, augmented as whole batches, or streamed from files
augment   the paper's augmentations
digits    the embedded data set
"""
