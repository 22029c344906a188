"""Training: batch -> loss -> backward -> clip -> step -> report -> maybe save, each verb one call into its own file.

options      TrainOptions: every choice as one value
schedule     the learning rate over time, as a fraction of its peak
loss         cross entropy without holding all logits, and exact accumulation
optimizer    which parameter goes where, what is decayed, one step for all
muon         Muon: momentum whose matrices are orthogonalised
precision    bf16, fp16 or fp32: what this machine does best
"""
