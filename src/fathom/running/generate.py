"""`fathom.generate` and `fathom.stream`: text from a model, which is given by its path or as it is in memory."""

from __future__ import annotations

from typing import Any

from fathom.errors import FathomError
from fathom.generation import generate as generation
from fathom.generation.generate import Prompts, Stream
from fathom.generation.options import GenerateOptions
from fathom.generation.text import Completion
from fathom.running.ready import Model, ready, ready_draft
from fathom.tokenizer.protocol import Tokenizer


def generate(
    model: Model,
    tokenizer: Tokenizer | Prompts | None = None,
    prompts: Prompts | None = None,
    options: GenerateOptions | None = None,
    draft: Model | None = None,
    **changes: Any,
) -> list[Completion]:
    """Continue one text, or several side by side. Give the path of a model, or a model and its tokenizer:

        >>> print(fathom.generate("runs/demo", "The ", max_new_tokens=40, temperature=0.8)[0])
        >>> model, tokenizer = fathom.load("runs/demo")
        >>> print(fathom.generate(model, tokenizer, ["The ", "A "])[1].text)

    model: a path is loaded on every call, prepared for inference: as fast as this machine can, equal to the readable
    model up to rounding. A model in memory runs exactly as it is. tokenizer: left out with a path. prompts: a text, or
    a list of texts or of lists of token ids; default "", the start of a document.

    options, or any of its fields by name: max_new_tokens=256 (tokens), temperature=1.0 (0: always the likeliest
    token), top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, stop (texts),
    num_samples=1, seed, past_context, use_cache, speculate; see fathom.generation.options. Without `options`, a field
    that is not named is what the model's generation_config.json (or GGUF header) recommends, if it does; `options` are
    taken as they are. draft: a smaller model of the same vocabulary, or its path, for speculative decoding.

    Returns a Completion for each sample of each prompt: `.text`, `.tokens`, `.logprobs` (natural logarithms),
    `.finish_reason` ("stop", "length" or "eos"). FathomError: there is no such model, a wrong option, or a character
    that the vocabulary does not hold.
    """
    return stream(model, tokenizer, prompts, options, draft, **changes).collect()


def stream(
    model: Model,
    tokenizer: Tokenizer | Prompts | None = None,
    prompts: Prompts | None = None,
    options: GenerateOptions | None = None,
    draft: Model | None = None,
    **changes: Any,
) -> Stream:
    """The text of `fathom.generate` piece by piece, as the model writes it. The arguments are the same.

        >>> for piece in fathom.stream("runs/demo", "The ", temperature=0.8):
        ...     print(piece.text, end="", flush=True)

    Returns an iterator of Pieces: `.text` (may be empty: half a character waits for its other half), `.token`,
    `.logprob`, `.row` (which prompt and sample), `.finish_reason` on the last one. The iterator's `stats` hold the
    speed so far. FathomError, before the first piece, as in `fathom.generate`.
    """
    if not isinstance(tokenizer, Tokenizer | None):
        if prompts is not None:
            raise FathomError(f"tokenizer is {tokenizer!r:.40}; expected a tokenizer, such as fathom.load returns")
        tokenizer, prompts = None, tokenizer
    network, vocabulary = ready(model, tokenizer)
    return generation.stream(network, vocabulary, prompts or "", options, ready_draft(draft, vocabulary), **changes)
