"""One token per frequent run of bytes: byte pair encoding as in GPT-2 (Sennrich et al. 2016, Radford et al. 2019).

A text is split into words by a pattern, each word's bytes are joined pair by pair in the order in which the pairs
were learned. Learning and joining is done by the `tokenizers` library; here is what it does not say: exact bytes,
where a text can be cut, and that text never becomes a special token.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from fathom.errors import FathomError
from fathom.tokenizer import library
from fathom.tokenizer.protocol import InPieces, Special, known, utf8, whole_pieces

END = "<|endoftext|>"
SMALLEST = 256 + 1  # every byte, and END
NOVEL = 4_000_000  # characters of distinct words from which merges are learned: each costs about 150 bytes
PIECE = 1 << 16  # characters: what one thread encodes at a time
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = (LLAMA3, LLAMA3.replace("{1,3}", ""))  # the second: Qwen 2
WORD_ENDS = re.compile(r"(?<=\S)[ \t\n\r]")  # spaces belong to the word after them: before their run none is open
WORD_ENDS_AT_SPACE = re.compile(r"(?<=\S) ")  # later patterns let line ends belong to the mark before them
NEVER = re.compile(r"(?!)")
NONE = Special()


class BPETokenizer(InPieces):
    """A byte-level BPE of the `tokenizers` library."""

    kind = "bpe"

    def __init__(self, hf: tokenizers.Tokenizer, special: Special = NONE) -> None:
        self._bytes = self._spell(hf)
        self.vocab_size = len(self._bytes)
        hf.encode_special_tokens = True  # text that spells a special token stays text
        hf.no_truncation()
        hf.no_padding()
        self.hf, self.special = hf, special.check(self.vocab_size)
        self._word_ends = self._ends(hf)
        never_from_text(hf, self.special)

    def _spell(self, hf: tokenizers.Tokenizer) -> list[bytes]:
        """The bytes of every token by id. FathomError: it is no byte-level BPE."""
        table = token_bytes(hf, byte_letters())
        steps = [step["type"] for step in library.parts(hf, "pre_tokenizer")]
        if not isinstance(hf.model, models.BPE) or steps[-1:] != ["ByteLevel"] or "Metaspace" in steps:
            raise FathomError(f"a {type(hf.model).__name__} tokenizer; expected a byte-level BPE as GPT-2's")
        if missing := [letter for letter in byte_letters() if hf.token_to_id(letter) is None]:
            raise FathomError(f"no token for the byte {byte_letters()[missing[0]]:#04x}; expected one for each of 256")
        return table

    def _ends(self, hf: tokenizers.Tokenizer) -> re.Pattern[str]:
        """Where a word ends whatever follows; nowhere, if the pattern of the words is not known."""
        if any(not token.special for token in hf.get_added_tokens_decoder().values()):
            return NEVER  # text is split around them first
        match library.parts(hf, "pre_tokenizer"):
            case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": prefix}]:
                return WORD_ENDS_AT_SPACE if prefix else WORD_ENDS
            case [{"type": "Split", "pattern": {"Regex": pattern}}, {"type": "ByteLevel"}] if pattern in PATTERNS:
                return WORD_ENDS_AT_SPACE
        return NEVER

    @classmethod
    def train(cls, chunks: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn merges until there are `vocab_size` tokens, or until no pair of tokens occurs twice."""
        if vocab_size < SMALLEST:
            raise FathomError(f"a BPE vocabulary of {vocab_size}; expected at least {SMALLEST}: 256 bytes and {END}")
        hf = tokenizers.Tokenizer(models.BPE())
        hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        hf.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        pieces = whole_pieces(slices(until_known(chunks, NOVEL)), lambda text: last_match(WORD_ENDS, text))
        hf.train_from_iterator((piece for piece in pieces if utf8(piece)), trainer)  # it holds 256 of them at a time
        end = hf.get_vocab()[END]
        return cls(hf, Special(eos=end, names={END: end}))

    def _encode(self, text: str) -> Iterator[list[int]]:
        """The ids of pieces of the text, encoded side by side."""
        utf8(text)
        pieces = whole_pieces(slices([text]), self.cut)
        with library.one_line():
            return iter([found.ids for found in self.hf.encode_batch_fast(list(pieces), add_special_tokens=False)])

    def cut(self, text: str) -> int:
        return last_match(self._word_ends, text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join([self._bytes[i] for i in known(ids, self.vocab_size)])

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.special.to_json(), "tokenizer": json.loads(self.hf.to_str())}


def until_known(chunks: Iterable[str], novel: int) -> Iterator[str]:
    """The chunks until their distinct words hold `novel` characters: after that more text changes few merges."""
    words: set[str] = set()
    for chunk in chunks:
        yield chunk
        new = set(chunk.split()) - words
        words |= new
        novel -= sum(map(len, new))
        if novel <= 0:
            return


def slices(chunks: Iterable[str]) -> Iterator[str]:
    """The same text in slices of at most PIECE characters."""
    return (chunk[i : i + PIECE] for chunk in chunks for i in range(0, len(chunk), PIECE))


def last_match(pattern: re.Pattern[str], text: str, look_back: int = 1 << 10) -> int:
    """Where the last match of `pattern` starts; 0: nowhere. Looks at ever longer ends of the text."""
    while True:
        start = max(0, len(text) - look_back)
        found = [match.start() for match in pattern.finditer(text, start)]
        if found or not start:
            return found[-1] if found else 0
        look_back *= 8


def byte_letters() -> dict[str, int]:
    """GPT-2 writes every byte as a letter that can be seen: itself where it can, else the next one from U+0100 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def never_from_text(hf: tokenizers.Tokenizer, special: Special) -> None:
    """FathomError where a text that spells a special token becomes it."""
    added = {token.content: id for id, token in hf.get_added_tokens_decoder().items() if token.special}
    with library.one_line():
        for name, id in {**added, **special.names}.items():
            if id in hf.encode(name, add_special_tokens=False).ids:
                raise FathomError(f"special token {name[:40]!r} is also what its text becomes; expected either")


def token_bytes(hf: tokenizers.Tokenizer, letters: Mapping[str, int]) -> list[bytes]:
    """The bytes of every token by id, spelled in `letters`; an id that no token has stands for no bytes."""
    vocabulary = hf.get_vocab(with_added_tokens=True)
    table = [b""] * vocabulary_size(vocabulary)
    added = {token.content for token in hf.get_added_tokens_decoder().values()}
    codes = {ord(letter): byte for letter, byte in letters.items()}
    for token, id in vocabulary.items():
        if token not in added and not letters.keys() >= set(token):
            raise FathomError(f"token {id} is {token[:40]!r}; expected byte-level BPE, whose tokens spell bytes")
        table[id] = token.encode("utf-8") if token in added else token.translate(codes).encode("latin-1")
    return table


def vocabulary_size(vocabulary: Mapping[str, int]) -> int:
    """One more than the largest id. FathomError: gaps (which the library would fill when it writes), or an id twice."""
    ids = vocabulary.values()
    size = max(ids, default=-1) + 1
    if not ids or size > 2 * len(ids):
        raise FathomError(f"token ids run up to {size - 1} with {len(ids)} tokens; expected ids without gaps")
    if len(set(ids)) < len(ids):
        raise FathomError(f"{len(ids)} tokens share {len(set(ids))} ids; expected one each")
    return size


# GPT-2's tokenizer files: `merges.txt`, with `vocab.json` beside it or without.
#
# One merge stands in each line after a line `#version`. The vocabulary follows from the merges: GPT-2's letters for
# the 256 bytes, then what each merge makes, then <|endoftext|> (Radford et al. 2019, encoder.py).

MERGES, VOCABULARY = "merges.txt", "vocab.json"
LINE = 4096  # bytes: a longer line is no merge


def is_merges(path: Path) -> bool:
    """Whether the file begins with lines of two words each, as JSON never does."""
    with path.open("rb") as file:
        start = file.read(LINE).removeprefix(codecs.BOM_UTF8)
    lines = [line for line in start.split(b"\n")[:3] if line and not line.startswith(b"#version")]
    pairs = all(len(line.rstrip(b"\r").split(b" ")) == 2 for line in lines)
    return bool(lines) and pairs and b"\0" not in start and start.lstrip()[:1] not in (b"{", b"[")


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs in the lines of a merges file, in their order."""
    try:
        if (size := path.stat().st_size) > library.LIMIT:
            raise FathomError(f"{path} has {size:,} bytes; expected merges in at most {library.LIMIT:,}")
        lines = path.read_bytes().decode("utf-8").split("\n")  # not splitlines: U+0085 is one of the letters
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror}); expected merges") from None
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
            raise FathomError(
                f"{path}: {str(pair)[:80]} makes a token there is, or of one there is not; expected a new one"
            )
        vocabulary[token] = len(vocabulary)
    return build(vocabulary, pairs, [END])


def from_files(folder: Path, names: Iterable[str], settings: Mapping[str, Any]) -> BPETokenizer:
    """The tokenizer of a folder's vocabulary and merges; `names` are its special tokens, those that it has."""
    vocabulary, pairs = library.read_object(folder / VOCABULARY), read_merges(folder / MERGES)
    for token, id in vocabulary.items():
        if type(id) is not int or not 0 <= id < 1 << 32:
            raise FathomError(f"{folder / VOCABULARY}: {token[:40]!r} is {str(id)[:40]!r}; expected a token id")
    try:
        special = sorted({name for name in names if name in vocabulary}, key=vocabulary.__getitem__)
        return build(vocabulary, pairs, special, settings.get("add_prefix_space") is True)
    except FathomError as problem:
        raise FathomError(f"{folder / VOCABULARY}: {problem}") from None


def build(
    vocabulary: Mapping[str, int], pairs: list[tuple[str, str]], special: list[str], add_prefix_space: bool = False
) -> BPETokenizer:
    """A BPE of GPT-2's words. Special tokens that the vocabulary lacks come after it."""
    model = {"type": "BPE", "vocab": vocabulary, "merges": pairs}
    places = range(len(vocabulary), len(vocabulary) + len(special))
    names = {name: vocabulary.get(name, place) for name, place in zip(special, places)}
    hf = library.parse(library.describe(model, names, {**library.BYTE_LEVEL, "add_prefix_space": add_prefix_space}))
    return BPETokenizer(hf, Special(eos=names.get(END), names=names))
