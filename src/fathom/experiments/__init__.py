"""The ladder: from a bigram to LLaMA, one idea at a time, and what each idea is worth on your text.

rungs       every rung as the one below with one field changed
take_aways  the finished models, GPT and LLaMA, without one idea each
references  baselines by counting: uniform, unigram, bigram
options     LadderOptions
experiment  the same data, order and budget for every rung, over several seeds
recorded    the ladder that docs/ladder.md shows
result      measurements as one JSON file, and their statistics
tables      the result in words: two tables, verdicts with their reasons, findings
charts      the learning curves
overview    both tables of the page, with bars
page        the result as one HTML page
"""
