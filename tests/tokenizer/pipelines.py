"""Small tokenizers of the `tokenizers` library, each with the pipeline of a published family."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, models, trainers
from tokenizers import decoders as D
from tokenizers import normalizers as N
from tokenizers import pre_tokenizers as P
from tokenizers import processors as X

from fathom.tokenizer.pieces import BYTE_PIECES
from fathom.tokenizer.words import LLAMA3_PATTERN, PATTERNS, QWEN2_PATTERN
from tests.tokenizer.folders import TEXT
from tests.tokenizer.hostile import hostile

CORPUS = [TEXT, *(re.sub(r"<(unk|/s|0x0A)>|\0", "", text) for text in hostile(300, seed=99))]
LEVEL = P.ByteLevel(add_prefix_space=False)
LETTERS = P.ByteLevel(add_prefix_space=False, use_regex=False)
NAMES = ["<unk>", "<s>", "</s>"]
ADDED = [  # every flag, one inside another, spaces, a normalised one
    AddedToken("<tool>", normalized=False),
    AddedToken("tool>x", normalized=False),
    AddedToken("ing_", normalized=False),
    AddedToken("  ", normalized=False),
    AddedToken("\n\n", normalized=False),
    AddedToken("东<x>", lstrip=True, rstrip=True, normalized=False),
    AddedToken("word", single_word=True),
    AddedToken("東é", normalized=True),
]


def finished(
    hf: tokenizers.Tokenizer, words: Any, normalizer: Any, decoder: Any, trainer: Any, names: Sequence[str]
) -> Any:
    """Trained; of the trainer's special tokens only `names` stay special. The values of a tokenizer.json."""
    if words is not None:
        hf.pre_tokenizer = words
    if normalizer is not None:
        hf.normalizer = normalizer
    hf.decoder = decoder
    hf.train_from_iterator(CORPUS, trainer)
    values = json.loads(hf.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] in names]
    return values


def byte_level(
    *words: Any, normalizer: Any = None, alphabet: bool = True, added: bool = False, whole: bool = False
) -> Any:
    """A byte-level BPE; without `alphabet` its vocabulary lacks some bytes. whole: a word that is a token is one."""
    letters = sorted(P.ByteLevel.alphabet()) if alphabet else []
    options: Any = {"special_tokens": ["<end>", "<s>"], "initial_alphabet": letters, "show_progress": False}
    steps = P.Sequence(list(words)) if len(words) > 1 else words[0]
    trainer = trainers.BpeTrainer(vocab_size=700, limit_alphabet=256 if alphabet else 200, **options)
    values = finished(tokenizers.Tokenizer(models.BPE()), steps, normalizer, D.ByteLevel(), trainer, ["<end>", "<s>"])
    values["model"]["ignore_merges"] = whole
    return with_added(values, added)


def pieces(words: Any, normalizer: Any, strips: bool = False, added: bool = False, decoder: Any = None) -> Any:
    """A BPE over characters with 256 byte tokens, spaces written ▁."""
    steps = [D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), *([D.Strip(" ", 1, 0)] if strips else [])]
    options: Any = {"special_tokens": [*NAMES, *BYTE_PIECES], "show_progress": False}
    model = models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    trainer = trainers.BpeTrainer(vocab_size=900, limit_alphabet=150, max_token_length=24, **options)
    values = finished(tokenizers.Tokenizer(model), words, normalizer, decoder or D.Sequence(steps), trainer, NAMES)
    return with_added(values, added)


def unigram(
    normalizer: Any = None, words: Any = None, decoder: Any = None, bytes_: bool = False, added: bool = False
) -> Any:
    names = [*NAMES, *(BYTE_PIECES if bytes_ else [])]
    options: Any = {"unk_token": "<unk>", "special_tokens": names, "show_progress": False}
    trainer = trainers.UnigramTrainer(vocab_size=3000, **options)
    words, decoder = words or P.Metaspace(), decoder or D.Metaspace()
    values = finished(tokenizers.Tokenizer(models.Unigram()), words, normalizer, decoder, trainer, NAMES)
    values["model"]["byte_fallback"] = bytes_
    return with_added(values, added)


def without_bytes(values: Any) -> Any:
    """Characters that the vocabulary lacks are unknown, and that token is special."""
    values["model"]["byte_fallback"] = False
    return values


def wordpiece() -> Any:
    options: Any = {"special_tokens": ["[UNK]", "[CLS]"], "show_progress": False}
    trainer, model = trainers.WordPieceTrainer(vocab_size=400, **options), models.WordPiece(unk_token="[UNK]")
    parts = (P.BertPreTokenizer(), N.BertNormalizer(), D.WordPiece())
    return finished(tokenizers.Tokenizer(model), *parts, trainer, ["[UNK]", "[CLS]"])


def with_added(values: Any, added: bool) -> Any:
    hf = tokenizers.Tokenizer.from_str(json.dumps(values))
    if added:
        hf.add_tokens(ADDED)
    return json.loads(hf.to_str())


def glm4() -> Any:
    """Two tokens before every text."""
    values = byte_level(split(LLAMA3_PATTERN), LETTERS, whole=True)
    special = [("<end>", 0), ("<s>", 1)]
    template = X.TemplateProcessing(single="<end> <s> $A", pair="<end> <s> $A $B", special_tokens=special)
    hf = tokenizers.Tokenizer.from_str(json.dumps(values))
    hf.post_processor = X.Sequence([X.ByteLevel(trim_offsets=False), template])
    return json.loads(hf.to_str())


def split(pattern: str) -> Any:
    return P.Split(Regex(pattern), "isolated")


def splits(name: str) -> list[Any]:
    """How the models split words that llama.cpp calls so."""
    return [*map(split, PATTERNS[name]), LETTERS]


SPACED, PREPENDED = N.Replace(" ", "▁"), N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
ALWAYS = ("▁", "always", True)
T5 = [P.WhitespaceSplit(), P.Metaspace()], [N.Nmt(), N.NFKC(), N.Replace(Regex(" {2,}"), " ")]
PIPELINES: dict[str, Callable[[], Any]] = {
    "gpt-2": lambda: byte_level(LEVEL),
    "gpt-2, a space first": lambda: byte_level(P.ByteLevel(add_prefix_space=True), added=True),
    "smollm 2": lambda: byte_level(P.Digits(True), LEVEL),
    "starcoder 2, added": lambda: byte_level(P.Digits(True), LEVEL, added=True),
    "cohere": lambda: byte_level(P.Digits(True), LEVEL, normalizer=N.NFC(), added=True),
    "lacks bytes": lambda: byte_level(LEVEL, alphabet=False),
    "llama 3": lambda: byte_level(split(LLAMA3_PATTERN), LETTERS, whole=True, added=True),
    "llama 3, lacks bytes": lambda: byte_level(split(LLAMA3_PATTERN), LETTERS, whole=True, alphabet=False),
    "qwen": lambda: byte_level(split(QWEN2_PATTERN), LETTERS, normalizer=N.NFC(), added=True),
    "deepseek": lambda: byte_level(*splits("deepseek-coder")[:-2], P.Digits(True), LETTERS, added=True),
    "deepseek 3": lambda: byte_level(*splits("deepseek-v3")),
    "tekken": lambda: byte_level(*splits("tekken"), whole=True),
    "gpt-4o": lambda: byte_level(*splits("gpt-4o"), added=True),
    "falcon": lambda: byte_level(P.Punctuation("contiguous"), LEVEL, P.Digits(False), split("[0-9][0-9][0-9]")),
    "glm 4": glm4,
    "nfkc": lambda: byte_level(LEVEL, normalizer=N.NFKC()),
    "lower case": lambda: byte_level(
        LEVEL, normalizer=N.Sequence([N.NFD(), N.Lowercase(), N.StripAccents()]), added=True
    ),
    "stripped": lambda: byte_level(LEVEL, normalizer=N.Strip()),
    "bloom": lambda: byte_level(split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), LETTERS),
    "digits from the right": lambda: byte_level(split(r"\p{N}{1,3}(?=(?:\p{N}{3})*\b)"), LEVEL, normalizer=N.NFKC()),
    "words without spaces": lambda: byte_level(P.WhitespaceSplit(), LETTERS, added=True),
    "scripts": lambda: byte_level(P.UnicodeScripts(), LEVEL),
    "merged with what follows": lambda: byte_level(P.Split(" ", "merged_with_next"), LETTERS),
    "llama 2, no bytes": lambda: without_bytes(pieces(None, PREPENDED, strips=True)),
    "gemma": lambda: pieces(P.Split(" ", "merged_with_previous"), SPACED),
    "gemma, added": lambda: pieces(P.Split(" ", "merged_with_previous"), SPACED, added=True),
    "llama 2": lambda: pieces(None, PREPENDED, strips=True),
    "llama 2, added": lambda: pieces(None, PREPENDED, strips=True, added=True),
    "llama 2, no space first": lambda: pieces(None, SPACED),
    "llama 2, metaspace": lambda: pieces(P.Metaspace("▁", "first", False), None, strips=True, added=True),
    "metaspace, always": lambda: pieces(P.Metaspace(*ALWAYS), None, decoder=D.Metaspace(*ALWAYS)),
    "unigram": unigram,
    "unigram, added": lambda: unigram(added=True),
    "unigram, nfkc": lambda: unigram(N.NFKC()),
    "unigram, bytes": lambda: unigram(
        bytes_=True, decoder=D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()])
    ),
    "t5": lambda: unigram(N.Sequence(T5[1]), P.Sequence(T5[0])),
    "wordpiece": wordpiece,
}
