"""Text to numbers and back.

protocol   what every tokenizer can do, and the checks they share
characters  one token per character of the training text
bpe        one token per frequent run of bytes (byte pair encoding)
byte_fallback  one token per run of characters, bytes for what none spells (LLaMA 2's tokenizer.json)
sentencepiece  one token per piece, spaces among its letters (LLaMA 1 and 2)
llama2c    a SentencePiece vocabulary as llama2.c writes it
ggml       the vocabulary inside a GGUF file
pieces     a SentencePiece vocabulary as parts and as bytes
template   a conversation as tokens, and who says each of them
sandbox    a chat template in Jinja, run without being trusted
allowed    what such a template may do
marked_text       text that remembers who said each character
hugging_face  the tokenizer of a folder as Hugging Face has it, there and back
library    a tokenizer.json, read without being trusted
tiktoken   LLaMA 3's file of ranks
load       a tokenizer from a word on the command line, a file or a folder
"""
