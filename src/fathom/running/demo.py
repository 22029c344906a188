"""`fathom.demo`: a model that comes with the package, so that there is something to look at before any training."""

from fathom.adapters.load import load
from fathom.demos import ADDRESS, require_demo
from fathom.formats.tokenizer import require_tokenizer
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer


def demo(name: str = "") -> tuple[Transformer, Tokenizer]:
    """A small trained model that comes with the package, and its tokenizer.

        >>> model, tokenizer = fathom.demo("copycat")
        >>> print(fathom.generate(model, tokenizer, "kXq7pdGkXq7", max_new_tokens=3, temperature=0)[0].text)  # pdG

    name: bigram, one-head, gpt-tiny, llama-mha, llama-gqa, llama-mqa, full-finetune, adapter or copycat. It is what
    `fathom.load("demo:NAME")` gives: demo:NAME stands wherever the path of a model does. FathomError: there is no demo
    of this name; the line lists them.
    """
    address = f"{ADDRESS}{require_demo(name)}"
    model, tokenizer = load(address)
    return model, require_tokenizer(tokenizer, address)
