"""The engine's speed beside that of other engines, in one run.

speed    a session and its peers on one random batch: the document that `asq infer --bench` prints
peers    the same architecture in PyTorch, ONNX Runtime and OpenVINO, in float and in 8 bits
steps    where a native network's time goes, and how near it is to what the processor can do
timing   candidates in turns, so that what else the machine does meets all alike
quiet    what other packages print of themselves, kept out of the way
machine  what it was measured on
"""
