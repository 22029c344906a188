"""Text to numbers and back.

protocol   what every tokenizer can do, and the checks they share
character  one token per character of the training text
byte       one token per byte
bpe        one token per frequent run of bytes (byte pair encoding)
sentencepiece  one token per piece, spaces among its letters (LLaMA 1 and 2)
pieces     a SentencePiece vocabulary as parts and as bytes
protobuf   the wire format of those bytes
load       tokenizers as one JSON file, and from a word on the command line
"""
