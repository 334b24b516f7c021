"""What both ways out of training are tried on."""

import torch

SETTINGS = {
    "post4": {"scheme": "post", "bits": 4},
    "post3": {"scheme": "post", "bits": 3, "weights": {"grid": "7/5"}},
    "asq2": {"scheme": "asq", "bits": 2},
    "asq8": {"scheme": "asq", "bits": 8},
    "lsq5": {"scheme": "lsq", "bits": 5, "weights": {"per": "tensor"}},
    "pot3": {"scheme": "pot", "bits": 3, "first_last": "same"},
    "apot4": {"scheme": "apot", "bits": 4, "weights": {"normalize": True}},
    "pact": {"scheme": "lsq", "bits": 4, "activations": {"quantizer": "pact"}},
    "lsq+": {"scheme": "asq", "bits": 4, "activations": {"quantizer": "lsq+"}},
    "as printed": {"scheme": "asq", "bits": 4, "activations": {"dequantize_by": "step_size"}},
    "paper's adapter": {"scheme": "asq", "bits": 4, "activations": {"adapter": {"output": "relu", "bits": "float"}}},
}


def sum_of_halves(x):
    first, second = x.chunk(2, dim=1)
    return torch.cat([first + second, second], dim=1)
