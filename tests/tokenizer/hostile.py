"""Texts on which tokenizers are known to differ: scripts, marks, spaces, line ends, added tokens inside words."""

import random
from collections.abc import Sequence

SCRIPTS = [
    "é",
    "e\u0301",
    "東京",
    "か\u3099",
    "שָׁלוֹם",
    "مرحبا",
    "नमस्ते क्षि",
    "สวัสดี",
    "안녕",
    "\u1100\u1161",
    "Привет",
    "ǅ",
    "ß",
    "İı",
    "ſ",
]
SYMBOLS = [
    "🙂",
    "👨‍👩‍👧",
    "🇩🇪",
    "1️⃣",
    "\U000e0041",
    "½",
    "Ⅻ",
    "²",
    "１２",
    "٣",
    "ﬁ",
    "ﷺ",
    "Ω",
    "€",
    "…",
    "¿",
    "&amp;",
    "://",
    "[1, 2]",
    "==",
]
SPACES = [
    " ",
    "  ",
    " " * 33,
    "\n",
    "\n\n\n",
    "\t",
    "\r\n",
    "\r",
    "\xa0",
    "\u3000",
    "\u2028",
    "\x85",
    "\u200b",
    "\u200d",
    "\ufeff",
]
WORDS = [
    "the",
    " and",
    "'s",
    "'S",
    "don't",
    "WE'LL",
    "A",
    "_",
    "▁",
    "▁▁a",
    "Ġ",
    "def f(x):\n    return x",
    "12",
    "3,4",
    "0" * 300,
]
BROKEN = ["\0", "\x7f", "\ufffd", "\uffff", "\ud7ff", "\U0010ffff", "\u0300\u0301", "<0x0A>", "<unk>", "</s>", "<"]
BITS = [*WORDS, *WORDS, *SPACES, *SCRIPTS, *SYMBOLS, *BROKEN]
PLANES = (0x80, 0x250, 0x600, 0x3000, 0x11000, 0x110000)  # ends of ranges of code points


def character(chance: random.Random) -> str:
    """Any character but half a surrogate pair."""
    point = chance.randrange(1, chance.choice(PLANES))
    return chr(point) if not 0xD800 <= point < 0xE000 else "\ud7ff"


def hostile(count: int, added: Sequence[str] = (), seed: int = 0) -> list[str]:
    """Texts of up to 16 of these bits, of any characters, and of `added` tokens: whole, cut short, inside words."""
    chance = random.Random(seed)
    return ["".join(_bit(chance, added) for _ in range(chance.randint(0, 16))) for _ in range(count)]


def _bit(chance: random.Random, added: Sequence[str]) -> str:
    kind = chance.random()
    if added and kind < 0.15:
        token = chance.choice(added)
        return chance.choice([token, token, f" {token} ", f"x{token}y", token[:-1], token.upper()])
    if kind < 0.3:
        return "".join(character(chance) for _ in range(3))
    return chance.choice(BITS)
