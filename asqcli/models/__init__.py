"""Float networks: the CIFAR ResNets, torchvision's classifiers, timm's networks, and a user's own factories.

registry      a name to a network            cifar_resnet   the family that the paper trains on CIFAR-10
factories     a `module:factory` to a network
timm_networks those of the package timm, and their weights
stored        files of other programs to a state dict
official      weights of torchvision and timm: which there are, their images' preprocessing, fetching them
renames       old names and training's heads in torchvision's files
weights       a state dict to parameters
"""
