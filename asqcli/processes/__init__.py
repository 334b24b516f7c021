"""Several processes that train one network: started by `--nproc`, or by torchrun on one machine or many.

part      the share of every batch that a process takes
alone     what they add up, agree on and wait for, and the same of a process alone, which has nothing to agree on
group     several processes, joined by torch.distributed
failures  which of them tells of a failure, so that it is told once
launch    `--nproc`: start them, watch them, end them

Gradients are added up after the backward pass, in one flat tensor. DistributedDataParallel would do it meanwhile, but
it wants a gradient for every parameter in every step, or to be told which get none, calls the network by a module of
its own, and weighs processes alike whose parts differ by an image. What it saves is little beside the statistics of
batch norm, which the processes wait for at every norm (`asqcli.train.one_batch`).
"""
