"""The ladder: from a bigram to LLaMA, one idea at a time, and what each idea is worth on your text.

rungs       every rung as the one below with one field changed
references  what counting alone predicts: no model, single tokens, pairs
options     every choice of a ladder as one value
budget      how many steps fit into the minutes
experiment  the same data, order and budget for every rung, over several seeds
result      what a ladder has measured, as one JSON file
statistics  a difference between rungs and how sure it is
report      the result in words, as a table and as figures
page        the result as one HTML page
source      the lines of source that implement an idea
"""
