"""Training with quantization in the loop.

pipeline     a recipe to a finished run: data, weights, warm-up, calibration, training, result
loop         one phase of training, resumable at any step
calibration  signedness and starting values, from training batches
optimizer    parameter groups and the learning rate
evaluate     accuracy
checkpoint   what a phase needs to go on, in one safetensors file
restore      a run folder or checkpoint to the network that it holds
run_folder   the files of a run, written atomically
reporter     what training tells while it runs
"""
