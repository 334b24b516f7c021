"""The exported file, `.asq`: written by the exporter, read by the engine, described for others in FORMAT.md.

document  the JSON document inside the file
nodes     what the graph in it is made of: each kind's settings, tensors, shapes and work
packing   codes of a few bits in bytes
shapes    the walk over the graph: each value's shape, what the network costs to run, what is refused as impossible
file      reading (nothing in the file is trusted) and writing (the same network gives the same bytes)
"""

from asqcli.artifact.file import Artifact, read_artifact, write_artifact

__all__ = ["Artifact", "read_artifact", "write_artifact"]
