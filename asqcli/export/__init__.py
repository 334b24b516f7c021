"""From a trained network to an exported file.

lower         a recorded run (asqcli.nn.record) to the artifact's nodes; what the engine has no node for is refused,
              with its place in the source
operations    what the engine has of torch's operations, each to nodes
graph         the nodes made so far, and one operation on its way to them
integers      a quantized layer's parameters to codes, level tables and scales
network       a prepared network to an artifact
onnx          an artifact to standard operators
proof         the written file beside that network: it answers alike, or it is not kept
torch_runner  that network, run beside the engine to compare every value
"""
