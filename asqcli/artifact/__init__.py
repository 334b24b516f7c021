"""The exported file, `.asq`: written by the exporter, read by the engine, described for others in FORMAT.md.

document  the JSON document inside the file: nodes, their settings, the names of their tensors
packing   codes of a few bits in bytes
shapes    what shape each value has, what the network costs to run, and what is refused as impossible
file      reading (nothing in the file is trusted) and writing (the same network gives the same bytes)
"""

from asqcli.artifact.file import Artifact, read_artifact, write_artifact

__all__ = ["Artifact", "read_artifact", "write_artifact"]
