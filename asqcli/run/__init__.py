"""The life of one run of `asq quantize`: prepared, trained phase by phase, kept, opened again.

entry         ways in: from a recipe, from a checkpoint, and for a look at what a run would be
context       device, reporter, stop signal and processes
together      what several processes see to before they train together
start         the float network that a run starts from
unlabelled    runs without labels: the float network's own classes, its answers as labels
build         the float network of a recipe, the same one whenever it is built
baseline      float training of what comes without weights, or with a new head
preflight     what must hold of a float network before it is worth training
precision     what a run tells of the precision that it multiplies in
compiled      what it tells of compiled passes that are missing
trial_export  can the trained network be exported, and what will its adapters take?
trial_training does training reach the quantized layers that evaluation calls?
images        how many there are and their labels, by which going on sees that they are the same
phases        float warm-up, calibration, quantized training, result
kept_phase    one of them, with the metrics, checkpoints and warnings that are kept of it
network       what is trained, with its images: what it answers, and by which statistics
going_on      the command that goes on with a run
norms         when batch-norm statistics are estimated anew
checks        does a phase learn, and does evaluation see what training saw?
folder        the files of a run, written atomically
sole_writer   which one process at a time may train
checkpoint    what a phase needs to go on, in one safetensors file
fingerprint   the network's own answers, by which whoever opens it again knows it
teacher       the float network, kept to teach its quantized twin
named_teacher any other network that teaches
result        what a finished run came to
restore       a run folder or checkpoint to the network that it holds
artifact      that network as integers
"""
