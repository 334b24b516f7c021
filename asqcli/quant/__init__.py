"""The paper's quantizers: pure functions and small modules, no files, no printing.

Equation numbers are those of "Precision Neural Network Quantization via Learnable Adaptive Modules".

A quantized value is a *code* with a meaning. Activations are uniform: value = code * adapted_step_size.
Weights go through a table: value = level_table[code] * weight_scale, where the table holds small integers,
so that training's fake quantizer, its evaluation and an integer engine can all use the same numbers.

    spec       what a quantizer is, in settings
    bounds     bits and signedness to qmin, qmax         levels     level sets and their tables
    rounding   float to codes and levels                 fake_quant the paper's autograd functions
    kernels    their passes over memory, in C and torch  baselines  PACT's and LSQ+'s
    step_size  starting values                           adapter    activation statistics to beta
    bfloat16   operands and results of products in it    gradients  what backwards have in common
    weight_quantizers, activation_quantizers             the modules that layers hold, built from all of the above
"""
