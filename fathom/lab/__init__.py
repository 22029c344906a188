"""The laboratory: what singular values say of a model, of what training did to it, and of its adapters.

spectra    singular values, the ranks that hold their energy, and a random matrix beside
survey     one look at all of that
extract    the best adapter of a full fine-tune
rank       a full fine-tune cut at every rank, beside LoRA trained at every rank
result     what the experiment has measured, as one JSON file
report     all of it as rows of text and in sentences
pages       a survey as one HTML page
"""
