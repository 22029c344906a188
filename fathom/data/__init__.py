"""Text on its way to a model.

corpus      a name, file or folder as a stream of documents
text        reading .txt and .jsonl strictly and in bounded memory
token_file  ids on disk, memory-mapped, never wrapped
records  records that say what to answer: conversations, instructions, completions, texts
examples    from a record to tokens, who says each and which are learned
encoding    a file of records as examples: what is cut, what is dropped, what is held back for validation
packing     which examples make up which step, one a row or packed
batches     which windows of the tokens make up which step
"""
