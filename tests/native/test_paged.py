"""Native code over pages: the plain model's numbers, and the same bits alone, in company, in pieces, after a prefix."""

import copy
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fathom.backend.inference import InferenceModel, prepare_for_inference
from fathom.backend.pages import PAGE, PagedCache, Pages, pages_for
from fathom.errors import FathomError, OutsideVocabulary
from fathom.model.cache import KVCache
from fathom.model.config import Layers, ModelConfig, RopeScaling, Rotary, Scale
from fathom.model.transformer import Transformer
from fathom.quant.model import keep_layer, linears
from fathom.quant.schemes import FORMATS, scheme_named
from tests.backend.test_inference import any_config, random_model
from tests.native.k_quants import K_QUANTS, in_blocks

Texts = list[Tensor]  # (n,) ids each
LONG = 2 * PAGE + 7
EVEN = ModelConfig(vocab_size=40, context_length=200, d_model=256, n_layer=2, n_head=8, n_kv_head=2, d_ff=256,
                   position="rope", norm="rms", mlp="swiglu", qk_norm="on")  # fmt: skip
ODD = replace(EVEN, d_model=70, n_head=5, n_kv_head=1, head_dim=48, d_ff=50, qk_norm="off", norm="layer", mlp="gelu",
              layers=Layers("lg", 9), scale=Scale(attn_cap=2.0, logit_cap=5.0), bias=("qkv", "mlp"))  # fmt: skip
ALIBI = replace(ODD, n_head=3, n_kv_head=3, head_dim=6, position="alibi", layers=Layers("g"), qk_norm="layer")
CASES = [(kind, dtype, config) for dtype in (torch.float32, torch.bfloat16)
         for kind, config in (("floats", EVEN), ("floats", ODD), ("floats", ALIBI), ("int8", ODD), ("int4", EVEN),
                              ("q4_k", EVEN), ("q6_k", EVEN))]  # fmt: skip
NAMES = [f"{kind}, {str(dtype)[6:]}, c {config.head_dim or 32}" for kind, dtype, config in CASES]


class Reader:
    """Some texts in one pool, whose pages lie in any order."""

    def __init__(self, model: Transformer, texts: Texts, seed: int = 0) -> None:
        self.model, self.texts, self.horizon = model, texts, max(map(len, texts))
        self.pages = Pages(model.config, PAGE * sum(pages_for(len(text)) for text in texts), model.embed.weight.dtype)
        random.Random(seed).shuffle(self.pages.ledger.free)
        self.pages.keys.fill_(torch.nan), self.pages.values.fill_(torch.nan)  # what nobody wrote is never seen
        self.tables = [self.pages.ledger.take(pages_for(len(text))) for text in texts]
        self.lengths = [0] * len(texts)
        self.found: list[list[Tensor]] = [[] for _ in texts]  # logits of each text, piece by piece

    def read(self, rows: Sequence[int], t: int) -> None:
        """The next t tokens of these texts in one pass."""
        ids = torch.stack([self.texts[row][self.lengths[row] :][:t] for row in rows])
        cache = PagedCache(
            self.pages, [self.tables[row] for row in rows], [self.lengths[row] for row in rows], self.horizon
        )
        step = self.model.step if isinstance(self.model, InferenceModel) else None
        assert step is None or step.takes(ids, cache)
        for row, logits in zip(rows, self.model(ids, cache)):
            self.found[row].append(logits)
            self.lengths[row] += t

    def logits(self, row: int) -> Tensor:
        return torch.cat(self.found[row])


def native(model: Transformer) -> InferenceModel:
    quick = prepare_for_inference(model)
    assert isinstance(quick, InferenceModel) and quick.step is not None
    return quick


def random_texts(vocabulary: int, lengths: Sequence[int]) -> Texts:
    return [torch.randint(0, vocabulary, (length,)) for length in lengths]


@pytest.mark.parametrize("seed", range(40))
@torch.no_grad()
def test_fp32_is_the_plain_model(isa: str, seed: int) -> None:
    """Rows of other lengths together, then each text alone over a plain cache."""
    choice = random.Random(seed)
    model = random_model(any_config(choice))
    texts = random_texts(
        model.config.vocab_size, [LONG - choice.randrange(LONG - 9) for _ in range(choice.choice([1, 2, 5]))]
    )
    reader = Reader(native(copy.deepcopy(model)), texts)
    ends = [len(text) - 9 for text in texts]
    for row, end in enumerate(ends):
        if end:
            reader.read([row], end)
    for t in (1, 5, 1, 2):
        reader.read(range(len(texts)), t)
    for row, text in enumerate(texts):
        expected, plain = (alone(one, text, reader.horizon) for one in (copy.deepcopy(model).double(), model))
        near, nearer = ((logits - expected).abs().max() for logits in (plain, reader.logits(row)))
        assert nearer <= 4 * near + 1e-6


def alone(model: Transformer, text: Tensor, horizon: int) -> Tensor:
    cache = KVCache(model.config, 1, len(text), dtype=model.embed.weight.dtype)
    cache.horizon = horizon
    return model(text[None], cache)[0]


def packed_model(kind: str, dtype: torch.dtype, config: ModelConfig) -> Transformer:
    model = random_model(config)
    for name in [] if kind == "floats" else [*linears(model), "unembed"]:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        fields = in_blocks(layer.weight, kind) if kind in K_QUANTS else scheme_named(kind).quantize(layer.weight)
        keep_layer(model, name, fields, layer.bias, FORMATS[kind])
    return model.to(dtype)


@pytest.mark.parametrize(("kind", "dtype", "config"), CASES, ids=NAMES)
@pytest.mark.parametrize("threads", [1, 2])
@torch.no_grad()
def test_a_text_has_the_same_bits_whatever_is_read_beside_it(
    isa: str, kind: str, dtype: torch.dtype, config: ModelConfig, threads: int
) -> None:
    """Alone in one call; in pieces of any size; among 63 others of other lengths; after a prefix that another read."""
    torch.set_num_threads(threads)
    choice, model = random.Random(kind), native(packed_model(kind, dtype, config))
    lengths = [LONG + choice.randrange(30) for _ in range(3)] + [10 + choice.randrange(50) for _ in range(61)]
    texts = random_texts(config.vocab_size, lengths)
    whole, pieces, crowd = (Reader(model, texts, seed) for seed in range(3))
    for row in range(len(texts)):
        whole.read([row], lengths[row])
        crowd.read([row], lengths[row] - 9)
    for t in (1, 1, 3, 1, 2, 1):
        crowd.read(range(len(texts)), t)
    for row in range(8):
        while left := lengths[row] - pieces.lengths[row]:
            pieces.read([row], choice.choice([n for n in (1, 2, 3, 4, 7, 8, 16, 17) if n <= left]))
        assert torch.equal(pieces.logits(row), whole.logits(row)), row
    for row in range(len(texts)):
        assert torch.equal(crowd.logits(row), whole.logits(row)), row
    for full in (1, 2):
        reuse(whole, pages=full)


def reuse(whole: Reader, pages: int) -> None:
    """Read text 0 from page `pages` on, over the pages that were filled in one call."""
    text, start = whole.texts[0], PAGE * pages
    other = Reader(whole.model, [text])
    other.pages, other.lengths = whole.pages, [start]
    other.tables = [[*whole.tables[0][:pages], *whole.tables[1]]]  # text 1 has been read, and its pages are free
    other.read([0], len(text) - start)
    assert torch.equal(other.logits(0), whole.logits(0)[start:])


@torch.no_grad()
def test_texts_longer_than_longrope_began_with(isa: str) -> None:
    """All rows of a pass are rotated as long texts are, or none is."""
    scaling = RopeScaling(kind="longrope", factor=4.0, short=(1.0, 1.1), long=(2.0, 3.0), original_context_length=20)
    model = random_model(replace(ODD, head_dim=4, layers=Layers("g"), rope=Rotary(scaling=scaling)))
    for lengths in ((12, 20), (21, 30)):
        reader = Reader(native(copy.deepcopy(model)), random_texts(40, lengths))
        for row, length in enumerate(lengths):
            reader.read([row], length - 2)
        reader.read([0, 1], 2)
        for row in (0, 1):
            expected = alone(model, reader.texts[row], reader.horizon)
            assert (reader.logits(row) - expected).abs().max() < 1e-4


def small() -> tuple[InferenceModel, Pages]:
    model = native(random_model(ODD))
    return model, Pages(ODD, 4 * PAGE)


@pytest.mark.parametrize(
    ("tables", "lengths", "t"),
    [
        ([[0, 4]], [15], 2),  # no such page
        ([[0, -1]], [15], 2),
        ([[0, 2**40]], [15], 2),
        ([[0]], [15], 2),  # too few
        ([[0, 1], [2, 3]], [3, 31], 2),
        ([[0, 1]], [-1], 2),
        ([[0, 1]], [2**62], 2),
    ],
)
def test_no_page_outside_the_pool_is_read_or_written(
    isa: str, tables: list[list[int]], lengths: list[int], t: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pages = small()
    cache = PagedCache(pages, tables, lengths)
    monkeypatch.setattr(PagedCache, "require_room", lambda *given: None)
    assert model.step is not None
    monkeypatch.setattr(model.step.position, "check_length", lambda end: None)
    with pytest.raises(FathomError, match="does not support"):
        model.step(torch.zeros(len(lengths), t, dtype=torch.long), cache)
    assert cache.lengths.tolist() == lengths and not pages.keys.any() and not pages.values.any()


def test_pages_of_another_kind_are_left_to_the_plain_model(isa: str) -> None:
    model, pages = small()
    ids = torch.zeros(1, 2, dtype=torch.long)
    step = model.step
    assert step is not None and step.takes(ids, PagedCache(pages, [[0]], [0]))
    others = (
        Pages(replace(ODD, layers=Layers("lg", 8)), 64),
        Pages(replace(ODD, n_layer=3), 64),
        Pages(replace(ODD, head_dim=50), 64),
        Pages(ODD, 64, torch.float16),
    )
    for other in others:
        assert not step.takes(ids, PagedCache(other, [[0]], [0]))
    assert not step.takes(ids, PagedCache(pages, [[0], [1]], [0, 0]))
    odd = native(random_model(replace(ODD, position="learned", head_dim=5)).bfloat16())
    cache = PagedCache(Pages(odd.config, 64, torch.bfloat16), [[0]], [0])
    assert odd.step is not None and not odd.step.takes(ids, cache)
    assert odd(ids, cache).isfinite().all() and cache.length == 2  # block by block


def test_what_fails_late_leaves_the_lengths_where_they_were(isa: str) -> None:
    model = native(random_model(EVEN))
    cache = PagedCache(Pages(EVEN, 160), [[*range(10)]], [3])
    ids = torch.zeros(1, 140, dtype=torch.long)
    ids[0, -1] = 40
    with pytest.raises(OutsideVocabulary, match="found token 40 at position 142"):
        model(ids, cache)
    assert cache.lengths.tolist() == [3] and cache.length == 3 and cache.room == 157
