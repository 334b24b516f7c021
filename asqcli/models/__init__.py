"""Float networks: the CIFAR ResNets, torchvision's classifiers, and a user's own factories.

registry      a name to a network            cifar_resnet   the family that the paper trains on CIFAR-10
weights       a file, a run or torchvision's cache to parameters
"""
