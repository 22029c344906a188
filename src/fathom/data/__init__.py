"""Text on its way to a model.

corpus       a name, file or folder as a stream of documents
text         reading .txt and .jsonl strictly and in bounded memory
compression  files that end in .gz or .zst
token_file   ids on disk, memory-mapped, never wrapped
splits       the parts of a folder: for training, validation and testing
record_files files of records: JSON, JSON lines, Parquet
dialogues    conversations and questions with answers, as records have them
records      records for fine-tuning: conversations, instructions, completions, texts
examples     from records to tokens, the role of each and which are learned
encoding     the examples of whole files as arrays, with what was skipped or not used
batches      which windows of the tokens make up which step
packing      which examples make up which step, one a row or packed
"""
