"""What the engine has of torch's operations: each as a function that adds nodes, with the parameters of torch's.

registry     the decorator that says which functions of torch a handler is for, and what to call it
layers       quantized layers, batch norm
elementwise  clamps, gates and other functions of one number
arithmetic   sums, differences, products, quotients
pools        pools, upsampling
reductions   sums, means and largest values along dimensions
movement     reshapes, permutations, joins and what changes nothing
slices       parts of values
pads         borders and crops
repeats      expansions, repetitions
lacking      what networks have and the engine does not: why, and what to do instead
table        all of them
"""

from asqcli.export.operations.lacking import lacking
from asqcli.export.operations.table import HANDLERS, SUPPORTED, TAKES_STACKS

__all__ = ["HANDLERS", "SUPPORTED", "TAKES_STACKS", "lacking"]
