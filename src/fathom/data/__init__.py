"""Text on its way to a model.

corpus       a name, file or folder as a stream of documents
text         reading .txt and .jsonl strictly and in bounded memory
compression  files that end in .gz or .zst
parts        parts of files that are tokenised on their own, and the documents in them
inputs       what fathom prepare is given, and the pieces of it that become a shard each
hub_dataset  data sets of the hub, and their Parquet files
prepare      a plan, its pieces, processes that make shards of them, and a manifest
shard_worker one such process
shards       a folder of prepared tokens, read through memory maps
token_file   ids on disk, memory-mapped, never wrapped
splits       the parts of a folder: for training, validation and testing
record_files files of records: JSON, JSON lines, Parquet
dialogues    conversations and questions with answers, as records have them
records      records for fine-tuning: conversations, instructions, completions, texts
examples     from records to tokens, the role of each and which are learned
encoding     the examples of whole files as arrays, with what was skipped or not used
order        an order of very many windows, and how several texts take turns
batches      which windows of the tokens make up which step
packing      which examples make up which step, one a row or packed
"""
