"""The JSON document inside an artifact, one model per kind of node. FORMAT.md says what each of them computes.

Values are numbered: 0 is the input, and node i makes value i + 1 from values before it. The last value is the logits.
Shapes are those of one sample: (C, H, W) or (features,).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1

LARGEST_SIDE = 4096
Name = Annotated[str, Field(max_length=512)]
Tensor = Annotated[str, Field(min_length=1, max_length=512)]
Value = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1, le=2**24)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Border = Annotated[int, Field(ge=0, le=LARGEST_SIDE)]
Pair = tuple[Side, Side]
Borders = tuple[Border, Border, Border, Border]  # top, left, bottom, right
Axis = Annotated[int, Field(ge=0, le=7)]
Shape = Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]
Number = Annotated[float, Field(ge=-3e38, le=3e38)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]  # with the bounds of a deviation, pixels stay far inside float32
Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]


class Part(BaseModel):
    """What all parts of the document share: fixed once read, no unknown key, no guessing of types, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Input(Part):
    """From a decoded image to value 0."""

    image_size: Side
    resize: Side
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]


class Weights(Part):
    """Packed codes of a convolution (C_out, C_in / groups, height, width) or a linear layer (C_out, C_in)."""

    shape: Annotated[tuple[Size, ...], Field(min_length=2, max_length=4)]
    code_bits: Annotated[int, Field(ge=1, le=8)]
    codes: Tensor
    levels: Tensor
    scale: Tensor
    scale_per: Literal["channel", "tensor"]
    bias: Tensor | None


class AdapterLayer(Part):
    """One linear layer of an adapter; without a row scale its weights are float32."""

    outputs: Size
    weight: Tensor
    row_scale: Tensor | None
    bias: Tensor


class Adapter(Part):
    """What makes beta from a layer's input."""

    layers: Annotated[tuple[AdapterLayer, ...], Field(min_length=1, max_length=2)]
    output: Literal["reciprocal", "relu"]


class Activations(Part):
    """How a layer's input becomes codes."""

    qmin: Annotated[int, Field(ge=-255, le=0)]
    qmax: Annotated[int, Field(ge=0, le=255)]
    step_size: Tensor
    dequantize_by: Literal["adapted_step_size", "step_size"]
    adapter: Adapter | None


class Node(Part):
    """What all nodes share: a name for people, unique where the node stands for a layer, and the values they read."""

    name: Name
    inputs: Annotated[tuple[Value, ...], Field(min_length=1, max_length=1)]


class Conv(Node):
    op: Literal["conv"]
    activations: Activations
    weights: Weights
    stride: Pair
    padding: Borders
    dilation: Pair
    groups: Size


class Linear(Node):
    op: Literal["linear"]
    activations: Activations
    weights: Weights


class BatchNorm(Node):
    op: Literal["batch_norm"]
    g: Tensor
    b: Tensor


class Clamp(Node):
    op: Literal["clamp"]
    low: Number | None
    high: Number | None


class Gate(Node):
    op: Literal["sigmoid", "silu", "hardsigmoid", "hardswish"]


class Add(Node):
    op: Literal["add"]
    inputs: tuple[Value, Value]


class Mul(Node):
    op: Literal["mul"]
    inputs: tuple[Value, Value]


class MaxPool(Node):
    op: Literal["max_pool"]
    kernel_size: Pair
    stride: Pair
    padding: Borders
    dilation: Pair


class AvgPool(Node):
    op: Literal["avg_pool"]
    kernel_size: Pair
    stride: Pair
    padding: tuple[Border, Border]
    count_include_pad: bool


class AdaptiveAvgPool(Node):
    op: Literal["adaptive_avg_pool"]
    output_size: Pair


class Reshape(Node):
    op: Literal["reshape"]
    shape: Shape


class Transpose(Node):
    op: Literal["transpose"]
    axes: tuple[Axis, Axis]


class Concat(Node):
    op: Literal["concat"]
    inputs: Annotated[tuple[Value, ...], Field(min_length=1, max_length=256)]
    axis: Axis


class Slice(Node):
    op: Literal["slice"]
    axis: Axis
    start: Annotated[int, Field(ge=0, le=2**24)]
    stop: Annotated[int, Field(ge=0, le=2**24)]
    step: Size


class Pad(Node):
    op: Literal["pad"]
    before: Annotated[tuple[Border, ...], Field(min_length=1, max_length=8)]
    after: Annotated[tuple[Border, ...], Field(min_length=1, max_length=8)]


AnyNode = Annotated[
    Conv
    | Linear
    | BatchNorm
    | Clamp
    | Gate
    | Add
    | Mul
    | MaxPool
    | AvgPool
    | AdaptiveAvgPool
    | Reshape
    | Transpose
    | Concat
    | Slice
    | Pad,
    Field(discriminator="op"),
]


class Provenance(Part):
    """Where the network came from; for people, and without times, hosts or paths."""

    asqcli: Name
    model: Name
    scheme: Name | None = None
    data: Name | None = None
    seed: int | None = None
    epochs: int | None = None


class Document(Part):
    format: Literal[1]
    input: Input
    classes: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(min_length=1, max_length=2**17)]
    nodes: Annotated[tuple[AnyNode, ...], Field(min_length=1, max_length=8192)]
    provenance: Provenance


def quantized_nodes(document: Document) -> list[Conv | Linear]:
    """Return the nodes that hold weight codes, in order."""
    return [node for node in document.nodes if isinstance(node, Conv | Linear)]
