"""A tokenizer with more special tokens, such as those that a chat template needs and a base model lacks."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from fathom.errors import FathomError
from fathom.tokenizer.load import FILE, MODEL, read_folder, to_folder
from fathom.tokenizer.protocol import Tokenizer

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def with_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokenizer:
    """The same tokenizer in which each of these texts is a special token; ids follow the last one. FathomError where
    the tokenizer cannot have more tokens, or a text is empty."""
    new = [text for text in dict.fromkeys(texts) if text not in tokenizer.special.names]
    if any(not text or text.isspace() for text in texts):
        raise FathomError("a token to add is empty; expected text such as <|im_start|>")
    if not new:
        return tokenizer
    files = {name: data for name, data in to_folder(tokenizer).items() if name != MODEL}
    values = json.loads(files[FILE])
    values["added_tokens"] += [{"id": tokenizer.vocab_size + i, "content": text, **FLAGS} for i, text in enumerate(new)]
    files[FILE] = json.dumps(values).encode()
    with TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        added = read_folder(Path(folder), tokenizer.vocab_size + len(new), tokenizer.special.ends)
    if added is None or any(text not in added.special.names for text in new):
        raise FathomError(f"{new[0]!r} cannot be added to this tokenizer; give a model with a BPE tokenizer")
    return added
