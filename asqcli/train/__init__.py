"""Training with quantization in the loop.

pipeline      ways into a run: from a recipe, from a checkpoint
run           one run: warm-up, calibration, training, result
start         the float network that a run starts from
plans         which layers are quantized, and how
calibration   signedness and starting values of the quantizers
loop          one phase of training, resumable at any step
optimizer     parameter groups and the learning rate
evaluate      accuracy
betas         what the adapters answer meanwhile
checkpoint    what a phase needs to go on, in one safetensors file
restore       a run folder or checkpoint to the network that it holds
run_folder    the files of a run, written atomically
surroundings  what a run needs besides its recipe
reporter      what training tells while it runs
objective, companions, batch_norm    what a recipe can add: a teacher, averages, held weights, fresh statistics
profile, diagnose                    where a step's time goes; where a NaN came from
"""
