"""Numbers as sentences say them: `1 step`, `2,000 steps`, `1.5 minutes`; and a text in the lines of a terminal."""

import re
import textwrap


def counted(n: float, one: str, many: str = "") -> str:
    """How many there are of a thing: `1 step`, `2,000 steps`. many: the plural, where `one` + s is not it."""
    number = f"{n:,}" if isinstance(n, int) else f"{n:g}"
    return f"{number} {one if number == '1' else many or f'{one}s'}"


def article(noun: str) -> str:
    """The noun with `a` or `an`, as it is spoken: an ExpertsMLP, a Unigram."""
    vowel = noun[:1].lower() in ("a", "e", "i", "o") or re.match(r"u(?!n?i)", noun, re.I)
    return f"{'an' if vowel else 'a'} {noun}"


def signed(value: float) -> str:
    """+0.123 or −0.123, with the minus that is as wide as the plus."""
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """90 -> 1.5 minutes"""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            value = seconds / size
            return counted(float(f"{value:.2g}" if value < 9.5 else f"{value:.0f}"), unit)
    return counted(round(seconds), "second")


def fitted(text: str, width: int) -> str:
    """The text with lines longer than `width` broken between words, and what follows indented under its beginning. No
    word is broken: a path that is longer than a line keeps a line of its own."""
    return "\n".join(line if len(line) <= width else _broken(line, width) for line in text.split("\n"))


def _broken(line: str, width: int) -> str:
    label = re.match(r"\s*(?:\w{1,10}:\s+)?", line)  # as in `page:     runs/demo/page.html`
    under = " " * (label.end() if label else 0) or "  "
    return textwrap.fill(line, width, subsequent_indent=under, break_long_words=False, break_on_hyphens=False)
