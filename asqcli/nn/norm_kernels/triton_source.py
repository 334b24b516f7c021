"""The passes of a batch norm as Triton compiles them for a GPU; `asqcli.nn.norm_kernels.cuda` calls them.

A batch is a matrix of `rows` values of each of its channels, which lie side by side. Sums over rows are made in two
steps of a fixed order: each program's, of ROWS x CHANNELS values at once, and those of all programs. All is computed in
float32, whatever the type of the batch.
"""

# pyright: basic, reportPrivateImportUsage=false, reportGeneralTypeIssues=false
# Triton reads this file in a language of its own; its annotations must be values, hence no `annotations` of the future.

import triton
import triton.language as tl


@triton.jit
def _tile(first_row, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return places of some rows and of the program's channels in memory, and which of them there are."""
    row = first_row + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    return row.to(tl.int64)[:, None] * channels + channel[None, :], inside


@triton.jit
def _load(x, places, inside):
    return tl.load(x + places, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def statistics(x, sums, shift_by, rows, channels, rows_each, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """sums[program] = of each channel the sums of x - k and of its square, for k = the mean of the batch's first rows.

    What is taken away first keeps small variances of large means from cancelling.
    """
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    places, inside = _tile(0, rows, channels, ROWS, CHANNELS)
    shift = tl.sum(_load(x, places, inside), axis=0) / tl.minimum(rows, ROWS)
    if tl.program_id(0) == 0:
        tl.store(shift_by + channel, shift, mask=known)
    total = tl.zeros([ROWS, CHANNELS], dtype=tl.float32)
    squares = tl.zeros([ROWS, CHANNELS], dtype=tl.float32)
    for start in range(0, rows_each, ROWS):
        places, inside = _tile(tl.program_id(0) * rows_each + start, rows, channels, ROWS, CHANNELS)
        value = tl.where(inside, _load(x, places, inside) - shift[None, :], 0.0)
        total += value
        squares += value * value
    out = sums + tl.program_id(0) * 2 * channels + channel
    tl.store(out, tl.sum(total, axis=0), mask=known)
    tl.store(out + channels, tl.sum(squares, axis=0), mask=known)


@triton.jit
def _added_up(sums, programs, channels, channel, known, PROGRAMS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return the two sums of each channel over all programs."""
    first = tl.zeros([PROGRAMS, CHANNELS], dtype=tl.float32)
    second = tl.zeros([PROGRAMS, CHANNELS], dtype=tl.float32)
    for start in range(0, programs, PROGRAMS):
        program = start + tl.arange(0, PROGRAMS)
        inside = (program < programs)[:, None] & known[None, :]
        places = program[:, None] * 2 * channels + channel[None, :]
        first += tl.load(sums + places, mask=inside, other=0.0)
        second += tl.load(sums + places + channels, mask=inside, other=0.0)
    return tl.sum(first, axis=0), tl.sum(second, axis=0)


@triton.jit
def finish_statistics(
    sums, programs, mean, inverse, running_mean, running_var, rows, channels, momentum, eps,
    RUNNING: tl.constexpr, PROGRAMS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """mean and inverse = 1 / sqrt(variance + eps) of each channel; running statistics move towards the batch's.

    `mean` held what `statistics` took away.
    """
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    total, squares = _added_up(sums, programs, channels, channel, known, PROGRAMS, CHANNELS)
    shifted = total / rows
    average = _load(mean, channel, known) + shifted
    variance = squares / rows - shifted * shifted
    variance = tl.where(variance < 0, 0.0, variance)  # a NaN stays one
    tl.store(mean + channel, average, mask=known)
    tl.store(inverse + channel, 1.0 / tl.sqrt(variance + eps), mask=known)
    if RUNNING:
        unbiased = variance * (rows / (rows - 1.0))
        before = _load(running_mean, channel, known)
        tl.store(running_mean + channel, before * (1.0 - momentum) + momentum * average, mask=known)
        before = _load(running_var, channel, known)
        tl.store(running_var + channel, before * (1.0 - momentum) + momentum * unbiased, mask=known)


@triton.jit
def normalize(
    x, mean, inverse, weight, bias, out, rows, channels,
    WITH_WEIGHT: tl.constexpr, WITH_BIAS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """out = (x - mean) * inverse * weight + bias."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    multiplier = _load(inverse, channel, known)
    if WITH_WEIGHT:
        multiplier *= _load(weight, channel, known)
    places, inside = _tile(tl.program_id(0) * ROWS, rows, channels, ROWS, CHANNELS)
    value = (_load(x, places, inside) - _load(mean, channel, known)[None, :]) * multiplier[None, :]
    if WITH_BIAS:
        value += _load(bias, channel, known)[None, :]
    tl.store(out + places, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gradient_sums(grad, x, mean, sums, rows, channels, rows_each, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """sums[program] = of each channel the sums of grad and of grad * (x - mean)."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    average = _load(mean, channel, known)
    total = tl.zeros([ROWS, CHANNELS], dtype=tl.float32)
    products = tl.zeros([ROWS, CHANNELS], dtype=tl.float32)
    for start in range(0, rows_each, ROWS):
        places, inside = _tile(tl.program_id(0) * rows_each + start, rows, channels, ROWS, CHANNELS)
        g = _load(grad, places, inside)
        total += g
        products += g * (_load(x, places, inside) - average[None, :])
    out = sums + tl.program_id(0) * 2 * channels + channel
    tl.store(out, tl.sum(total, axis=0), mask=known)
    tl.store(out + channels, tl.sum(products, axis=0), mask=known)


@triton.jit
def finish_gradients(
    sums, programs, inverse, weight, of_weight, of_bias, factors, rows, channels,
    WITH_WEIGHT: tl.constexpr, PROGRAMS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of weight and bias; and factors of what that of x is made of: (3, channels), as `gradient`'s."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    total, products = _added_up(sums, programs, channels, channel, known, PROGRAMS, CHANNELS)
    reciprocal = _load(inverse, channel, known)
    multiplier = reciprocal
    if WITH_WEIGHT:
        multiplier *= _load(weight, channel, known)
    tl.store(of_weight + channel, products * reciprocal, mask=known)
    tl.store(of_bias + channel, total, mask=known)
    tl.store(factors + channel, multiplier, mask=known)
    tl.store(factors + channels + channel, total / rows, mask=known)
    tl.store(factors + 2 * channels + channel, products * reciprocal * reciprocal / rows, mask=known)


@triton.jit
def gradient(grad, x, mean, factors, out, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """out = factors[0] * (grad - factors[1] - (x - mean) * factors[2])."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    places, inside = _tile(tl.program_id(0) * ROWS, rows, channels, ROWS, CHANNELS)
    of_value = _load(factors, 2 * channels + channel, known)[None, :]
    value = (_load(x, places, inside) - _load(mean, channel, known)[None, :]) * of_value
    g = _load(grad, places, inside) - _load(factors, channels + channel, known)[None, :] - value
    g *= _load(factors, channel, known)[None, :]
    tl.store(out + places, g.to(out.dtype.element_ty), mask=inside)
