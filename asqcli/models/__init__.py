"""Float networks: the CIFAR ResNets, torchvision's classifiers, and a user's own factories.

registry      a name to a network            cifar_resnet   the family that the paper trains on CIFAR-10
factories     a `module:factory` to a network
weights       a state dict, or torchvision's cache, into a network
stored        files of other programs to such a state dict
"""
