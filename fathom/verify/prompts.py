"""What a model is asked when it is verified: the same texts every time, and tokens drawn at random from a seed.

Random tokens visit every corner of a vocabulary; texts are what models are for. Does not know who answers.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.tokenizer.protocol import Tokenizer

LONGEST = 256  # tokens of one prompt
RANDOM = 4  # prompts of random tokens
TEXTS = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her friends. One"
    ' day, she saw a big, red ball. She wanted to play with it, but it was too high up in the tree. Her mom said, "Do'
    ' not worry, we can ask your dad to help." They went home together, and soon everyone was happy again.',
    "The sea was calm that morning, and the fishermen had already left the harbour. In the market square the first"
    " stalls were opening: bread, cheese, apples and fresh flowers. An old man sat down on the bench in front of the"
    " church, as he had done every day for twenty years, and waited for the bells to ring.",
    "def add(a, b):\n    return a + b\n\n\nassert add(1, 2) == 3\n",
    "Zürich, 東京, Москва: 12.5 % of 1,000 is 125 — isn't it? 🙂\n",
)


def prompts(vocab_size: int, context_length: int, tokenizer: Tokenizer | None, seed: int) -> list[Tensor]:
    """Ids (t,) of each prompt, of at most LONGEST tokens and never more than the context."""
    longest = min(LONGEST, context_length)
    chance = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(vocab_size, (longest,), generator=chance) for _ in range(RANDOM)]
    return [torch.tensor(ids[:longest]) for ids in texts(tokenizer)] + drawn


def texts(tokenizer: Tokenizer | None) -> Iterator[list[int]]:
    """The texts that this vocabulary can say, bos first where the format has one."""
    for text in TEXTS if tokenizer is not None else ():
        assert tokenizer is not None
        try:
            ids = tokenizer.encode(text)
        except FathomError:  # a vocabulary of characters need not have all of these
            continue
        yield ([] if tokenizer.bos is None else [tokenizer.bos]) + ids
