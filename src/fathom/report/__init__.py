"""Showing results: plots, pages, tables and a live view, all fed with plain values.

plot   loss curves and rows of dots or bars, as PNG and SVG
heatmaps  tables of numbers as colours, such as attention patterns
loss_chart  the loss of a run as SVG inside a page
html   one page in one file: tags, tables, code and figures, everything escaped
table  aligned text for a terminal
live   training as it happens, on stderr
notebook  the same in the output of a notebook cell
"""
