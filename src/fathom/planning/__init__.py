"""Before a run costs money: memory, work, time and traffic, each number with its arithmetic.

options    what is planned, and counts as people write them
models     known models as values
devices    what makers say of their devices
subject    a preset, a model or a run, by its config alone
place      named devices, or this machine
trial      how fast this machine is, in two seconds
measured   what a run has measured
plan       all of it, for one run
text       a plan as tables
"""
