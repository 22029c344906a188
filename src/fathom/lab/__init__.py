"""The laboratory: what singular values say of a model, of what training did to it, and of its adapters.

matrices   the matrices of a file, opened but not read
spectra    singular values, the ranks that hold their energy, and a random matrix beside
survey     the spectra of weights and changes, and how two changes compare
changed    a change of a loaded model, cut to a rank or scaled, and what that does to a loss
extract    the best adapter of a full fine-tune
rank       a full fine-tune cut at every rank, beside LoRA trained at every rank
result     the options and results of that experiment
report     results as rows of text and in sentences
pages      results as HTML pages
"""
