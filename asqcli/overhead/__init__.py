"""What quantization with ASQ costs, before any training: three accounts of one network, which do not mix.

count      run the network without weights: parameters and multiply-adds of each layer (Eqs. 10-13)
products   multiply-adds of torch's operators, attention included
adapters   what the adapter of one layer holds and computes
published  the paper's account (Eqs. 14-16), which gives its Table 1
stored     the bytes of an exported file, part by part
hardware   shifts, look-ups, multiplications and additions, for hardware without multipliers
plot       the shares as a bar chart
"""
