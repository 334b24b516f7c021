"""Image data sets: the embedded digits, CIFAR in torchvision's layout, folders of images.

layout        names of data sets, and what kind they are
folders       what lies in a folder: images, links, what is passed over
split_names   names of folders that mean a split
split_folders which folders are splits, by their names and what lies in them
listing       the images of a split, each file counted once
paths         the paths of very many files, in few bytes
image_folder  a folder of images to its splits and classes
unlabelled    one whose folders say nothing, to its splits
class_names   names of classes: what may be one, files of them, theirs among a network's
samples       a name or folder to images and labels; no torch
source        the same as splits that give batches
splits        one split: in memory, augmented as whole batches, or streamed from files
decoders      processes that decode files, the same for all passes
preprocessing from an image to the network's input
augment       the paper's augmentations
digits        the embedded data set
"""
