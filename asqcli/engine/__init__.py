"""The integer engine: runs an exported network without torch, and gives the answers of training to the last bit.

session    a file to logits
dispatch   the names of the kernels, and the choice among them
interface  what the parts agree on: a layer, a NumPy kernel, an observer, a network that is not native
numpy/     a network in NumPy, node after node
native/    a network on a C kernel: a plan of fused steps
csrc/      the C kernels
predict    image files and data sets to classes and accuracy
trace      a checksum of every value of one image, for other implementations
verify     the engine beside another kernel or the trained network, value by value
"""

from asqcli.engine.session import Session, load

__all__ = ["Session", "load"]
