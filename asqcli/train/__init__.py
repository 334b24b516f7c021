"""Training with quantization in the loop.

loop           one phase of training, resumable at any step
optimizer      parameter groups, their state, and the learning rate
one_batch      batch norm over the batch of all processes
passes         forward, loss and backward of a step; on a GPU recorded once and replayed
update         what an optimizer does with their gradients, within the bounds of steps
forward        logits in training, with auxiliary outputs left out; the backward pass
objective      the loss: cross-entropy, or distillation from a teacher
step_hooks     what sees the model after every step: averaged weights, oscillating ones that are frozen
batch_norm     running statistics, estimated anew where they lag behind the weights
evaluate       accuracy
adapter_range  smallest and largest beta of each adapter
learning       does the network learn, and does evaluation see what training saw?
diagnose       where a NaN came from
profile        where a step's time goes
reporter       what training tells while it runs
"""
