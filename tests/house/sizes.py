"""Sizes written in shape letters, read by a small parser: sums of products, and tuples of them."""

import re


def size(text: str, letters: dict[str, int]) -> int:
    """A sum of products, such as `h * c`, `c/2`, `s - t` or `1`."""
    total = 0
    for sign, product in re.findall(r"([+-]?)([^+-]+)", text):
        value = 1
        for operator, word in re.findall(r"([*/]?)\s*(\w+)", product):
            number = int(word) if word.isdigit() else letters[word]
            value = value // number if operator == "/" else value * number
        total += -value if sign == "-" else value
    return total


def fits(shape: tuple[int, ...], text: str, letters: dict[str, int]) -> bool:
    """Whether a shape is `(b, t, d)`, or one of `(t,) or (b, t)`; `...` are any sizes at the left."""
    for choice in re.findall(r"\(([^()]*)\)", text):
        words = [word for word in map(str.strip, choice.split(",")) if word]
        want = tuple(size(word, letters) for word in words if word != "...")
        if (shape[len(shape) - len(want) :] if "..." in words else shape) == want:
            return True
    return False
