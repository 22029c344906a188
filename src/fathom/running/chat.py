"""`fathom.chat`: a conversation with a model, which is given by its path or as it is in memory."""

from __future__ import annotations

from typing import Any

from fathom.generation.chat import Conversation
from fathom.generation.generate import changed
from fathom.generation.options import GenerateOptions
from fathom.running.ready import Model, ready, ready_draft
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import NO_EXTRAS, Extras


def chat(
    model: Model,
    tokenizer: Tokenizer | None = None,
    system: str | None = None,
    options: GenerateOptions | None = None,
    draft: Model | None = None,
    extras: Extras = NO_EXTRAS,
    **changes: Any,
) -> Conversation:
    """A conversation: `ask` for a whole answer, `say` for its pieces as they come.

        >>> talk = fathom.chat("runs/finetune", temperature=0.8)
        >>> print(talk.ask("What is a token?"))

    model: a path is loaded prepared for inference; a model in memory runs exactly as it is and needs its `tokenizer`.
    system: the system prompt. extras: tools and further names for the chat template. options, draft, and fields of
    GenerateOptions by name: as in `fathom.generate`.

    Returns a Conversation: `.ask(text)`, `.say(text)`, `.messages`, `.reset()`, `.save(file)`, `.load(file)`. The
    messages go through the model's chat template, or a plain transcript where it has none; the oldest ones are dropped
    when the context is full. FathomError as in `fathom.generate`.
    """
    network, vocabulary = ready(model, tokenizer)
    chosen = changed(options, changes, vocabulary)
    return Conversation(network, vocabulary, chosen, system, ready_draft(draft, vocabulary), extras)
