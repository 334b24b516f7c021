"""The integer engine: runs an exported network with NumPy alone, and gives the answers of training to the last bit.

session        a file to logits
dispatch       the names of the kernels, and the choice among them; interface: what its parts agree on
native         a network on a C kernel in csrc/: images side by side, or threads together on one
native_plan    a network as steps for them; native_fusion: which nodes are one step; native_memory: what steps point to;
               native_layout: codes and weights in it; native_winograd: fewer products, exact; native_pools: windows;
               native_run: a plan run on images; native_library: ctypes
numpy_network  a network node after node, on a NumPy kernel
operations     what lies between the NumPy kernels: codes, adapters, epilogues, pools
shift_lut      the specification: shifts, look-ups and additions (Eq. 18)
matmul         whole numbers in floating-point matrix products, exact
predict        image files and data sets to classes and accuracy
verify         the engine beside another kernel or the trained network, value by value
"""

from asqcli.engine.session import Session, load

__all__ = ["Session", "load"]
