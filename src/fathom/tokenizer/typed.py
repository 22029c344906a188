"""Texts that come from outside, as training reads them: without a byte order mark, every line end a newline.

Prompts, questions, system prompts and records pass through here, so that a model is asked what it was taught. Where
ids must be those of another library the text stays as it is: `Tokenizer.encode` and `render`.
"""

from fathom.errors import FathomError

BYTE_ORDER_MARK = "\ufeff"


def uniform(text: str) -> str:
    """The text without a byte order mark at its beginning, with newlines as line ends."""
    return text.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")


def decoded_text(data: bytes, where: str) -> str:
    """A whole text in UTF-8, such as a prompt in a file. FathomError: it is not UTF-8."""
    try:
        return uniform(data.decode("utf-8"))
    except UnicodeDecodeError as problem:
        raise FathomError(f"{where} is not UTF-8 at byte {problem.start}; save it as UTF-8") from None
