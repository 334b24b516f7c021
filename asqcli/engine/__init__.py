"""The integer engine: runs an exported network with NumPy alone, and gives the answers of training to the last bit.

session     a file to logits: the plan, the order of nodes, batches, threads
operations  what lies between the kernels: codes, adapters, epilogues, pools
kernels     the interface of the kernels, and the choice among them
shift_lut   the specification: shifts, look-ups and additions (Eq. 18)
matmul      whole numbers in floating-point matrix products, exact and fast
predict     image files and data sets to classes and accuracy
verify      the engine beside another kernel or the trained network, value by value
"""

from asqcli.engine.session import Session, load

__all__ = ["Session", "load"]
