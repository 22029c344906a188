"""LLaMA 3's `tokenizer.model`: in each line a token's bytes in base64 and its rank, which is its id.

Of the pairs that stand side by side in a word the one whose bytes rank lowest is joined first (tiktoken). Special
tokens are not in the file: they follow the ranks in the order that Meta publishes (llama-models, llama3/tokenizer.py).
"""

import base64
import binascii
import re
from pathlib import Path

from fathom.errors import FathomError
from fathom.tokenizer import library
from fathom.tokenizer.bpe import LLAMA3, BPETokenizer, byte_letters
from fathom.tokenizer.library import merges_of
from fathom.tokenizer.protocol import Special, Tokenizer

LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,9})")
LONGEST = 256  # bytes of a token; LLaMA 3's longest are 128 spaces
LIMIT = 1 << 26  # bytes of a file; LLaMA 3's has 2 million
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
LLAMA3_WORDS = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False},
        {**library.BYTE_LEVEL, "use_regex": False},
    ],
}


def is_tiktoken(path: Path) -> bool:
    """Whether the file begins with a line of base64 and a rank."""
    with path.open("rb") as file:
        return LINE.fullmatch(file.readline(2 * LONGEST).rstrip(b"\r\n")) is not None


def read_tiktoken(path: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a file of ranks, of at most `vocab_size` ids: what the ranks leave of them is special."""
    ranks = read_ranks(path)
    if len(ranks) > vocab_size:
        raise FathomError(
            f"{path} has {len(ranks)} tokens; the model has {vocab_size} ids: they do not belong together"
        )
    letters = {byte: letter for letter, byte in byte_letters().items()}
    spelled = {token: "".join([letters[byte] for byte in token]) for token in ranks}
    names = dict(zip(SPECIAL, range(len(ranks), vocab_size)))
    model = {
        "type": "BPE",
        "vocab": {spelled[token]: rank for token, rank in ranks.items()},
        "merges": [(spelled[left], spelled[right]) for left, right in merges_of(ranks)],
        "ignore_merges": True,  # a word that is a token becomes it, also where no merges lead there
    }
    try:
        hf = library.parse(library.describe(model, names, LLAMA3_WORDS))
        ends = tuple(names[name] for name in ENDS if name in names)
        return BPETokenizer(hf, Special(names.get(BOS), names.get(EOS), ends, names))
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None


def read_ranks(path: Path) -> dict[bytes, int]:
    """The ranks of all tokens, from 0 on and each once."""
    try:
        if (size := path.stat().st_size) > LIMIT:
            raise FathomError(f"{path} has {size:,} bytes; expected ranks in at most {LIMIT:,}")
        lines = path.read_bytes().splitlines()
    except OSError as problem:
        raise FathomError(
            f"{path}: cannot be read ({problem.strerror}); expected a token and a rank in each line"
        ) from None
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        token, rank = _rank(line, f"{path}: line {number}")
        if token in ranks or rank != len(ranks):
            raise FathomError(
                f"{path}: line {number} gives {token[:40]!r} rank {rank}; expected a new token, {len(ranks)}"
            )
        ranks[token] = rank
    return ranks


def _rank(line: bytes, where: str) -> tuple[bytes, int]:
    found = LINE.fullmatch(line)
    try:
        token = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        token = b""
    if not found or not 0 < len(token) <= LONGEST:
        raise FathomError(f"{where} is {line[:40]!r}; expected 1 to {LONGEST} bytes in base64, and a rank")
    return token, int(found[2])


def to_tiktoken(tokenizer: Tokenizer) -> bytes:
    """The ranks of a byte-level BPE. FathomError where a file of ranks, read as LLaMA 3's, would be another one."""
    if not isinstance(tokenizer, BPETokenizer) or tokenizer.kind != BPETokenizer.kind:
        raise FathomError(f"a {tokenizer.kind} tokenizer; expected a byte-level BPE for a file of ranks")
    special = sorted(tokenizer.hf.get_added_tokens_decoder())
    count = tokenizer.vocab_size - len(special)
    if special != [*range(count, tokenizer.vocab_size)] or (special and _first_two(tokenizer) != (count, count + 1)):
        raise FathomError(
            f"special tokens are ids {special[:3]}; a file of ranks has {BOS}, {EOS} and others after the rest"
        )
    if (found := library.parts(tokenizer.hf, "pre_tokenizer")) != LLAMA3_WORDS["pretokenizers"]:
        raise FathomError(f"words are split by {str(found)[:100]}; a file of ranks is read with LLaMA 3's pattern")
    _follow_ranks(tokenizer, count)
    tokens = (tokenizer.decode_bytes([id]) for id in range(count))
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def _first_two(tokenizer: BPETokenizer) -> tuple[int | None, int | None]:
    return tokenizer.special.names.get(BOS), tokenizer.special.names.get(EOS)


def _follow_ranks(tokenizer: BPETokenizer, count: int) -> None:
    """FathomError unless merges stand in the order of the ids they make, and make every token of two bytes and more."""
    model = tokenizer.to_json()["tokenizer"]["model"]
    made = [model["vocab"][library.joined(merge)] for merge in model["merges"]]
    if made != sorted(made) or (not model["ignore_merges"] and len(set(made)) != count - 256):
        raise FathomError("merges do not stand in the order of the ids; a file of ranks knows no other order")
