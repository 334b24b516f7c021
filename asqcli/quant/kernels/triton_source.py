"""The passes as Triton compiles them for a GPU; `asqcli.quant.kernels.cuda` calls them.

Each program works on BLOCK values of one group, which share a scale. Nothing here may be reordered or fused: forward
values are those of the other forms to the bit.
"""

# pyright: basic, reportPrivateImportUsage=false, reportGeneralTypeIssues=false
# Triton reads this file in a language of its own; its annotations must be values, hence no `annotations` of the future.

import triton
import triton.language as tl

# Added to and taken from a value below 2^22 it leaves the nearest whole number, half to even.
WHOLE = tl.constexpr(1.5 * 2**23)


@triton.jit
def _nearest(v, boundaries, levels, low, high, COUNT: tl.constexpr):
    """Return the nearest code of each value, or of COUNT levels and their negatives the nearest, ties outwards."""
    if COUNT == 0:
        code = tl.clamp(v, low, high, propagate_nan=tl.PropagateNan.ALL)
        code = (code + WHOLE) - WHOLE
    else:
        magnitude = tl.abs(v)
        code = tl.zeros_like(v)
        for i in tl.static_range(COUNT):
            code = tl.where(magnitude >= tl.load(boundaries + i), tl.load(levels + i), code)
        code = tl.where(v < 0, -code, code)
    return code


@triton.jit
def forward(
    x, scale, out, boundaries, levels, size, low, high, stride,
    COUNT: tl.constexpr, IN_CODES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = nearest(x / scale) * scale, or without the last factor, in the type of `out`."""
    group = tl.program_id(1)
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < size
    places = group.to(tl.int64) * size + offsets
    step = tl.load(scale + group * stride)
    v = tl.load(x + places, mask=inside, other=0.0).to(tl.float32) * tl.div_rn(1.0, step)
    code = _nearest(v, boundaries, levels, low, high, COUNT)
    result = code if IN_CODES else code * step
    tl.store(out + places, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _passed(grad, x, scale, group, stride, places, inside, low, high, IN_CODES: tl.constexpr, BLOCK: tl.constexpr):
    """Return v = x / scale, the gradient of its nearest code's value, and that of v in its place, 0 where clipped.

    The gradient of codes comes in bfloat16, and that of their values is made of it.
    """
    step = tl.load(scale + group * stride)
    v = tl.load(x + places, mask=inside, other=0.0).to(tl.float32) * tl.div_rn(1.0, step)
    g = tl.load(grad + places, mask=inside, other=0.0)
    if IN_CODES:
        g = tl.div_rn(g.to(tl.float32), step + tl.zeros([BLOCK], dtype=tl.float32))
    return v, g, tl.where((v <= low) | (v >= high), 0.0, g)


@triton.jit
def backward(
    grad, x, scale, grad_x, sums, boundaries, levels, size, low, high, stride,
    COUNT: tl.constexpr, IN_CODES: tl.constexpr, SUMS_ALONE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x = grad, 0 where clipped; sums = of each block grad * nearest(v) - grad_x * v, for v = x / scale."""
    group = tl.program_id(1)
    block = tl.program_id(0)
    offsets = block * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < size
    places = group.to(tl.int64) * size + offsets
    v, g, passed = _passed(grad, x, scale, group, stride, places, inside, low, high, IN_CODES, BLOCK)
    if not SUMS_ALONE:
        tl.store(grad_x + places, passed.to(grad_x.dtype.element_ty), mask=inside)
    terms = g * _nearest(v, boundaries, levels, low, high, COUNT) - passed * v
    total = tl.sum(tl.where(inside, terms, 0.0), axis=0)
    tl.store(sums + group * tl.num_programs(0) + block, total)


@triton.jit
def backward_of_adapted(
    grad, x, scale, grad_pixel, grad_x, size, low, high, inner, channels, IN_CODES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x = grad, 0 where clipped, + grad_pixel of the sample's channel; `inner` of its values lie side by side."""
    sample = tl.program_id(1)
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < size
    places = sample.to(tl.int64) * size + offsets
    _, _, passed = _passed(grad, x, scale, sample, 1, places, inside, low, high, IN_CODES, BLOCK)
    channel = (offsets // inner) % channels
    passed += tl.load(grad_pixel + sample.to(tl.int64) * channels + channel, mask=inside, other=0.0)
    tl.store(grad_x + places, passed.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def scaled(
    x, of_samples, of_channels, out, size, inner, channels, sample_stride, channel_stride, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = x * (of_samples * of_channels), rounded; `inner` values of a channel lie side by side."""
    sample = tl.program_id(1)
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < size
    places = sample.to(tl.int64) * size + offsets
    channel = (offsets // inner) % channels
    scale = tl.load(of_channels + channel * channel_stride, mask=inside, other=0.0)
    scale = tl.load(of_samples + sample * sample_stride) * scale
    v = tl.load(x + places, mask=inside, other=0.0).to(tl.float32) * scale
    tl.store(out + places, v.to(out.dtype.element_ty), mask=inside)


@triton.jit
def round_rows(weight, out, columns, qmax, smallest, BLOCK: tl.constexpr):
    """Each row in whole steps, `qmax` of which are its largest magnitude."""
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < columns
    places = row.to(tl.int64) * columns + offsets
    w = tl.load(weight + places, mask=inside, other=0.0)
    step = tl.maximum(tl.div_rn(tl.max(tl.abs(w), axis=0), qmax), smallest)
    code = tl.clamp(w * tl.div_rn(1.0, step), -qmax, qmax, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + places, ((code + WHOLE) - WHOLE) * step, mask=inside)


@triton.jit
def _hidden_unit_block(means, weight1, bias1, units, sample, hidden_count, channels, BLOCK: tl.constexpr):
    """Return what some hidden units answer to a sample's means, before the ReLU."""
    answer = tl.load(bias1 + units, mask=units < hidden_count, other=0.0)
    for first in range(0, channels, BLOCK):
        inputs = first + tl.arange(0, BLOCK)
        known = inputs < channels
        mean = tl.load(means + sample * channels + inputs, mask=known, other=0.0)
        both = (units < hidden_count)[:, None] & known[None, :]
        weight = tl.load(weight1 + units[:, None] * channels + inputs[None, :], mask=both, other=0.0)
        answer += tl.sum(weight * mean[None, :], axis=1)
    return answer


@triton.jit
def adapt(
    sums, step_size, weight1, bias1, weight2, bias2, means, hidden, beta, scale, channels, hidden_count, pixels,
    LAYERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each sample the means, the hidden units, beta and the adapted step size (Eq. 4), by sums over its pixels."""
    sample = tl.program_id(0).to(tl.int64)
    for first in range(0, channels, BLOCK):
        inputs = first + tl.arange(0, BLOCK)
        known = inputs < channels
        total = tl.load(sums + sample * channels + inputs, mask=known, other=0.0)
        tl.store(means + sample * channels + inputs, tl.div_rn(total, pixels + tl.zeros_like(total)), mask=known)
    tl.debug_barrier()  # the means are read by other threads than those that wrote them
    parts = tl.zeros([BLOCK], dtype=tl.float32)
    if LAYERS == 1:
        for first in range(0, channels, BLOCK):
            inputs = first + tl.arange(0, BLOCK)
            known = inputs < channels
            mean = tl.load(means + sample * channels + inputs, mask=known, other=0.0)
            parts += mean * tl.load(weight1 + inputs, mask=known, other=0.0)
        t = tl.load(bias1) + tl.sum(parts, axis=0)
    else:
        for first in range(0, hidden_count, BLOCK):
            units = first + tl.arange(0, BLOCK)
            known = units < hidden_count
            unit = _hidden_unit_block(means, weight1, bias1, units, sample, hidden_count, channels, BLOCK)
            unit = tl.maximum(unit, 0.0)
            tl.store(hidden + sample * hidden_count + units, unit, mask=known)
            parts += unit * tl.load(weight2 + units, mask=known, other=0.0)
        t = tl.load(bias2) + tl.sum(parts, axis=0)
    factor = tl.where(t >= 0, 1.0 + t, tl.div_rn(1.0, 1.0 - tl.minimum(t, 0.0)))
    tl.store(beta + sample, factor)
    tl.store(scale + sample, tl.load(step_size) * factor)


@triton.jit
def adapt_backward(
    sums, blocks, step_size, weight1, weight2, hidden, beta, grad_step, grad_t, grad_hidden, grad_pixel, channels,
    hidden_count, pixels, LAYERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each sample, from the gradient of its adapted step size in `blocks` sums: those of all that made it.

    A sample's share of the step size's gradient, t's, the hidden units', and that of each value through the means.
    """
    sample = tl.program_id(0).to(tl.int64)
    parts = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(0, blocks, BLOCK):
        places = first + tl.arange(0, BLOCK)
        parts += tl.load(sums + sample * blocks + places, mask=places < blocks, other=0.0)
    grad_scale = tl.sum(parts, axis=0)
    factor = tl.load(beta + sample)
    tl.store(grad_step + sample, grad_scale * factor)
    # Below t = 0 beta is 1 / (1 - t), whose derivative is its square; above, 1 + t.
    grad = grad_scale * tl.load(step_size) * tl.where(factor < 1.0, factor * factor, 1.0)
    tl.store(grad_t + sample, grad)
    for first in range(0, channels, BLOCK):
        inputs = first + tl.arange(0, BLOCK)
        known = inputs < channels
        if LAYERS == 1:
            total = grad * tl.load(weight1 + inputs, mask=known, other=0.0)
        else:
            total = tl.zeros([BLOCK], dtype=tl.float32)
            for lowest in range(0, hidden_count, BLOCK):
                units = lowest + tl.arange(0, BLOCK)
                there = units < hidden_count
                on = tl.load(hidden + sample * hidden_count + units, mask=there, other=0.0) > 0
                grad_unit = tl.where(on, grad * tl.load(weight2 + units, mask=there, other=0.0), 0.0)
                tl.store(grad_hidden + sample * hidden_count + units, grad_unit, mask=there)
                both = there[:, None] & known[None, :]
                weight = tl.load(weight1 + units[:, None] * channels + inputs[None, :], mask=both, other=0.0)
                total += tl.sum(weight * grad_unit[:, None], axis=0)
        tl.store(grad_pixel + sample * channels + inputs, total / pixels, mask=known)
