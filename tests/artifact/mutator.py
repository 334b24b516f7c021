"""Artifacts made wrong by a seed, at four levels: bytes, the safetensors header, the document, the tensors' content.

The edits know the format, so that a good share passes each check and reaches the next.
"""

from __future__ import annotations

import random

from container_edits import BYTE_EDITS, HEADER_EDITS, TENSOR_EDITS
from document_edits import DOCUMENT_EDITS
from graph_edits import GRAPH_EDITS
from parts import Parts


def mutate(content: bytes, seed: int) -> tuple[bytes, str]:
    """Return a mutant of a file and the names of its edits; the same for the same seed."""
    rng = random.Random(seed)
    if rng.random() < 0.15:
        edit = rng.choice(BYTE_EDITS)
        return edit(bytearray(content), rng), edit.__name__
    parts, names = Parts.of(content), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        edits = rng.choices((HEADER_EDITS, DOCUMENT_EDITS, GRAPH_EDITS, TENSOR_EDITS), (2, 3, 4, 3))[0]
        edit = rng.choice(edits)
        try:
            edit(parts, rng)
            names.append(edit.__name__)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            names.append(f"({edit.__name__})")  # an earlier edit left nothing for this one
    return parts.join(), " ".join(names)
