"""Text on its way to a model.

corpus      a name, file or folder as a stream of documents
text        reading .txt and .jsonl strictly and in bounded memory
token_file  ids on disk, memory-mapped, never wrapped
records     records for fine-tuning: conversations, instructions, completions, texts
examples    from records to tokens, the role of each and which are learned
batches     which windows of the tokens make up which step
packing     which examples make up which step, one a row or packed
"""
