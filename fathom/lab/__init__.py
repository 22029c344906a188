"""The laboratory: what singular values say of a model, of what training did to it, and of its adapters.

matrices   the matrices of a file, and whether two files are versions of one model
spectra    singular values, the ranks that hold their energy, and a random matrix beside
changes    what a fine-tune or an adapter added, as matrices or as factors
compare    angles between two changes, and directions that a change brought
survey     one look at all of that
extract    the best adapter of a full fine-tune
options    every choice of a loss-versus-rank experiment as one value
training   the ground its trainings stand on: text, windows, steps
rank       a full fine-tune cut at every rank, beside LoRA trained at every rank
allocate   a rank for each matrix
result     what the experiment has measured, as one JSON file
report     all of it as rows of text and in sentences
page       a survey as one HTML page
rank_page  the experiment as one HTML page
"""
