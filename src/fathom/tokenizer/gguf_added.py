"""Added tokens that llama.cpp would not find in a text where the `tokenizers` library finds them.

llama.cpp takes the longest first, wherever it is, as it is spelled; the library the first, as its flags say.
"""

from collections.abc import Collection

import tokenizers

from fathom.errors import FathomError

FLAGS = ("lstrip", "rstrip", "single_word")


def refuse_added(hf: tokenizers.Tokenizer) -> None:
    """FathomError names an added token, not special, that text becomes in another way than in llama.cpp."""
    added = [token for token in hf.get_added_tokens_decoder().values() if not token.special]
    for token in added:
        flags = [flag for flag in FLAGS if getattr(token, flag)]
        if token.normalized and hf.normalizer and hf.normalizer.normalize_str(token.content) != token.content:
            flags.append("normalized")
        if flags:
            raise FathomError(
                f"added token {token.content[:40]!r} has {flags[0]}, which GGUF, as llama.cpp reads it, lacks"
            )
    if pair := overlapping([token.content for token in added]):
        one, other = (text[:40] for text in pair)
        raise FathomError(f"added tokens {one!r} and {other!r} may overlap; llama.cpp takes the longest, not the first")


def overlapping(texts: Collection[str]) -> tuple[str, str] | None:
    """Two texts of which one may begin within the other and end after it, but for runs of one character."""
    begins: dict[str, list[str]] = {}
    for text in texts:
        for length in range(1, len(text)):
            begins.setdefault(text[:length], []).append(text)
    for text in texts:
        for start in range(1, len(text)):
            for other in begins.get(text[start:], ()):
                if other != text and (len(set(text)) > 1 or {*other} != {*text}):
                    return text, other
    return None
