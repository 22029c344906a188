"""The ladder: from a bigram to LLaMA, one idea at a time, and what each idea is worth on your text.

rungs       every rung as the one below with one field changed
references  what counting alone predicts: no model, single tokens, pairs
options     every choice of a ladder as one value
experiment  the same data, order and budget for every rung, over several seeds
result      what a ladder has measured, as one JSON file
page        the result as one HTML page
"""
