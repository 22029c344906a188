"""Text to numbers and back.

protocol            what every tokenizer is, and the checks they share
characters          one token per character of the training text, or per byte
bpe                 one token per frequent run of bytes, or of characters (byte pair encoding)
known_words         the ids of words that a text has had before
bpe_files           GPT-2's merges.txt and LLaMA 3's ranks (tiktoken)
sentencepiece       one token per piece, spaces among its letters (LLaMA 1 and 2)
pieces              a SentencePiece vocabulary as values and as a model file
llama2c             a SentencePiece vocabulary as llama2.c writes it
gguf                the vocabulary inside a GGUF file
words               the patterns that split a text into words, by the names that GGUF has for them
gguf_sampling       what a GGUF file recommends for generation
gguf_added          added tokens that llama.cpp would find elsewhere in a text
hf_library          the `tokenizers` library, given only checked values
library             any other pipeline of that library
added_tokens        tokens that a folder adds to its vocabulary
tokenizer_json      a tokenizer as JSON: our own and the `tokenizers` library's
load                a tokenizer from a word on the command line, a file or a folder
add                 a tokenizer with more special tokens
typed               texts from outside, as training reads them
message             one turn of a conversation: its role, content and what else a template reads
template            a conversation as tokens, and the role of each of them
turns               what ends a turn in a chat template
sandbox             a chat template in Jinja, run without being trusted
template_functions  what such a template may do to values
template_filters    and the filters that few templates use
marked_text         text that remembers the speaker of each character
"""
