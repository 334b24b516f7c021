"""Image data sets: the embedded digits, CIFAR in torchvision's layout, folders of images.

source    a name or folder to splits; which kind of data it is
splits    one split: in memory, augmented as whole batches, or streamed from files
augment   the paper's augmentations
digits    the embedded data set
"""
