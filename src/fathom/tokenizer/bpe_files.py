"""Files of byte-level BPEs: GPT-2's `merges.txt` (with `vocab.json` or without), LLaMA 3's `tokenizer.model` of ranks.

A line of merges holds two tokens; the vocabulary is the 256 byte letters, what each merge results in, <|endoftext|>
(Radford et al. 2019, encoder.py). A line of ranks holds a token in base64 and its rank, which is its id (tiktoken);
special tokens follow in the order that Meta publishes (llama-models, llama3/tokenizer.py).
"""

import base64
import binascii
import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fathom.errors import FathomError
from fathom.files import read_bytes
from fathom.json_file import read_object
from fathom.tokenizer.bpe import END_OF_TEXT, BPETokenizer, byte_letters
from fathom.tokenizer.hf_library import BYTE_LEVEL, MAX_BYTES, build_json, merged, parse, steps_of
from fathom.tokenizer.protocol import Special, Tokenizer, check_surplus
from fathom.tokenizer.words import LLAMA3_PATTERN
from fathom.words import article

MERGES, VOCABULARY = "merges.txt", "vocab.json"
MAX_LINE = 4096  # bytes: a longer line is no merge

RANK_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,9})")
MAX_TOKEN = 256  # bytes; LLaMA 3's longest are 128 spaces
MAX_RANKS = 1 << 26  # bytes of a file of ranks; LLaMA 3's has 2 million
BOS, EOS, ENDS = "<|begin_of_text|>", "<|end_of_text|>", ("<|eom_id|>", "<|eot_id|>")
N_SPECIAL = 256
FIRST_SPECIAL = (
    BOS,
    EOS,
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    *ENDS,
    "<|python_tag|>",
)
SPECIAL = (*FIRST_SPECIAL, *(f"<|reserved_special_token_{n}|>" for n in range(3, 3 + N_SPECIAL - len(FIRST_SPECIAL))))
T = TypeVar("T", str, bytes)


def is_merges(head: bytes) -> bool:
    """Whether a file that begins so begins with lines of two words each, as JSON never does."""
    start = head[:MAX_LINE].removeprefix(codecs.BOM_UTF8)
    lines = [line for line in start.split(b"\n")[:3] if line and not line.startswith(b"#version")]
    pairs = all(len(line.rstrip(b"\r").split(b" ")) == 2 for line in lines)
    return bool(lines) and pairs and b"\0" not in start and start.lstrip()[:1] not in (b"{", b"[")


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of tokens in a merges file, in its order."""
    try:
        # not splitlines: U+0085 is one of the letters
        lines = read_bytes(path, MAX_BYTES, "merges").decode("utf-8").split("\n")
    except UnicodeDecodeError as problem:
        raise FathomError(f"{path}: byte {problem.start} is not UTF-8; expected two tokens in each line") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#version"):
            continue
        left, _, right = line.rstrip("\r").partition(" ")
        if not left or not right or " " in right:
            raise FathomError(f"{path}: line {number} is {line[:40]!r}; expected two tokens and a space between them")
        pairs.append((left, right))
    return pairs


def from_merges(path: Path) -> BPETokenizer:
    """The tokenizer of a merges file alone."""
    pairs = read_merges(path)
    vocabulary = {letter: id for id, letter in enumerate(byte_letters())}
    for pair in pairs:
        if (token := "".join(pair)) in vocabulary or not vocabulary.keys() >= set(pair):
            raise FathomError(f"{path}: {str(pair)[:80]} is not a merge of two known tokens into a new one")
        vocabulary[token] = len(vocabulary)
    return build(vocabulary, pairs, [END_OF_TEXT])


def from_files(folder: Path, names: Iterable[str], add_prefix_space: bool) -> BPETokenizer:
    """The tokenizer of a folder's vocabulary and merges; those of `names` that it holds are special tokens."""
    vocabulary, pairs = read_object(folder / VOCABULARY, MAX_BYTES), read_merges(folder / MERGES)
    for token, id in vocabulary.items():
        if type(id) is not int or not 0 <= id < 1 << 32:
            raise FathomError(f"{folder / VOCABULARY}: {token[:40]!r} is {str(id)[:40]!r}; expected a token id")
    try:
        special = sorted({name for name in names if name in vocabulary}, key=vocabulary.__getitem__)
        return build(vocabulary, pairs, special, add_prefix_space)
    except FathomError as problem:
        raise FathomError(f"{folder / VOCABULARY}: {problem}") from None


def build(
    vocabulary: Mapping[str, int], pairs: list[tuple[str, str]], special: list[str], add_prefix_space: bool = False
) -> BPETokenizer:
    """A BPE with GPT-2's pattern. Special tokens that the vocabulary lacks come after it."""
    model = {"type": "BPE", "vocab": vocabulary, "merges": pairs}
    places = range(len(vocabulary), len(vocabulary) + len(special))
    names = {name: vocabulary.get(name, place) for name, place in zip(special, places)}
    hf = parse(build_json(model, names, {**BYTE_LEVEL, "add_prefix_space": add_prefix_space}))
    return BPETokenizer(hf, Special(eos=names.get(END_OF_TEXT), names=names))


def split_by(*patterns: str) -> list[dict[str, Any]]:
    """The steps of a pre_tokenizer that split a text by one pattern after another, then write bytes as letters."""
    splits = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
    return [*splits, {**BYTE_LEVEL, "use_regex": False}]


def is_ranks(head: bytes) -> bool:
    """Whether a file that begins so begins with a line of base64 and a rank."""
    return RANK_LINE.fullmatch(head[: 2 * MAX_TOKEN].split(b"\n")[0].rstrip(b"\r\n")) is not None


def from_ranks(path: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a file of ranks for a model of `vocab_size` ids: what the ranks leave are special tokens."""
    ranks = read_ranks(path)
    try:
        letters = {byte: letter for letter, byte in byte_letters().items()}
        if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
            raise FathomError(f"no token for the byte {missing[0]:#04x}; expected one for each of 256")
        spelled = {token: "".join([letters[byte] for byte in token]) for token in ranks}
        names = dict(zip(SPECIAL, range(len(ranks), vocab_size)))
        model = {
            "type": "BPE",
            "vocab": {spelled[token]: rank for token, rank in ranks.items()},
            "merges": [(spelled[left], spelled[right]) for left, right in merges_of(ranks)],
            "ignore_merges": True,  # a word that is a token becomes it, also where no merges lead there
        }
        hf = parse(build_json(model, names, {"type": "Sequence", "pretokenizers": split_by(LLAMA3_PATTERN)}))
        ends = tuple(names[name] for name in ENDS if name in names)
        bos = names.get(BOS)
        prefix = () if bos is None else (bos,)
        tokenizer = BPETokenizer(hf, Special(bos, names.get(EOS), ends, names, prefix=prefix))
        check_surplus(tokenizer, vocab_size)
        return tokenizer
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None


def read_ranks(path: Path) -> dict[bytes, int]:
    """The rank of every token, in order from 0."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_bytes(path, MAX_RANKS, "a token and a rank in each line").splitlines(), 1):
        token, rank = _rank(line, f"{path}: line {number}")
        if token in ranks or rank != len(ranks):
            raise FathomError(
                f"{path}: line {number} gives {token[:40]!r} rank {rank}; expected a new token, {len(ranks)}"
            )
        ranks[token] = rank
    return ranks


def _rank(line: bytes, where: str) -> tuple[bytes, int]:
    match = RANK_LINE.fullmatch(line)
    try:
        token = base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        token = b""
    if not match or not 0 < len(token) <= MAX_TOKEN:
        raise FathomError(f"{where} is {line[:40]!r}; expected 1 to {MAX_TOKEN} bytes in base64, and a rank")
    return token, int(match[2])


def to_ranks(tokenizer: Tokenizer) -> bytes:
    """The file of ranks of a byte-level BPE. FathomError where, read as LLaMA 3's, it would be another tokenizer."""
    if not isinstance(tokenizer, BPETokenizer) or tokenizer.kind != BPETokenizer.kind:
        raise FathomError(f"{article(tokenizer.kind)} tokenizer; expected a byte-level BPE for a file of ranks")
    special, names = sorted(tokenizer.hf.get_added_tokens_decoder()), tokenizer.special.names
    count = tokenizer.vocab_size - len(special)
    first = (names.get(BOS), names.get(EOS)) == (count, count + 1)
    if special != [*range(count, tokenizer.vocab_size)] or (special and not first):
        raise FathomError(
            f"special tokens are ids {special[:3]}; a file of ranks has {BOS}, {EOS} and others after the rest"
        )
    if (words := steps_of(tokenizer.hf, "pre_tokenizer")) != split_by(LLAMA3_PATTERN):
        raise FathomError(f"words are split by {str(words)[:100]}; a file of ranks is read with LLaMA 3's pattern")
    model = tokenizer.to_json()["tokenizer"]["model"]
    results = [model["vocab"][merged(merge)] for merge in model["merges"]]
    if results != sorted(results) or (not model["ignore_merges"] and len(set(results)) != count - 256):
        raise FathomError("merges are not in the order of the ids; a file of ranks can express no other order")
    tokens = (tokenizer.decode_bytes([id]) for id in range(count))
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def merges_of(ranks: Mapping[T, float]) -> list[tuple[T, T]]:
    """A merge for each token of a ranked vocabulary that can be merged, in the order of the ranks, lowest first.

    Tiktoken and SentencePiece join, of all neighbouring pairs, the one whose token ranks first; the `tokenizers`
    library follows a list of merges. What the rule does inside a token does not depend on what surrounds it, so the
    last pair joined in the token alone is the only one that ever makes it: one merge per token is exact.

    ranks: of every token that text may become, single letters (or bytes) included. Longer ones may share a rank only
    where both are runs of one letter (LLaMA 2's spaces): the rule joins the leftmost, here the longest comes first, and
    as a run grows from its left that is the same.
    """
    merges = []
    for token in sorted(ranks, key=lambda token: (ranks[token], -len(token))):
        if len(token) > 1 and (pair := _last_pair(token, ranks)):
            merges.append(pair)
    return merges


def _last_pair(token: T, ranks: Mapping[T, float]) -> tuple[T, T] | None:
    """The two tokens that are left before they become `token`; None: the rule never gets there."""
    splits = [at for at in range(1, len(token)) if token[:at] in ranks and token[at:] in ranks]
    if len(splits) <= 1:  # nothing to choose: the one pair, or none
        return (token[: splits[0]], token[splits[0] :]) if splits else None
    ends = _join(token, ranks)
    return (token[: ends[0]], token[ends[0] :]) if len(ends) == 2 else None


def _join(token: T, ranks: Mapping[T, float]) -> Sequence[int]:
    """Where the parts of `token` end after joining them until two are left, or no pair is a token."""
    never = float("inf")
    ends = list(range(1, len(token) + 1))
    costs = [ranks.get(token[at : at + 2], never) for at in range(len(token) - 1)]
    while len(ends) > 2 and (cost := min(costs)) < never:
        at = costs.index(cost)  # the parts at and at + 1 become one
        del ends[at], costs[at]
        if at < len(costs):
            costs[at] = ranks.get(token[_start(ends, at) : ends[at + 1]], never)
        if at:
            costs[at - 1] = ranks.get(token[_start(ends, at - 1) : ends[at]], never)
    return ends


def _start(ends: Sequence[int], part: int) -> int:
    return ends[part - 1] if part else 0
