"""The Rosetta table: what every file format calls the parts of one model, and how it lays them out.

Read across for a part, down for a format; N is the layer, and each part has a weight and perhaps a bias. All renaming
is derived from the tables. Does not know files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.errors import FathomError, near
from fathom.model.config import ModelConfig
from fathom.model.skeleton import weight_shapes

# Marks say what must be done to a stored tensor to get ours, from left to right:
#   .T       stored as (in, out), ours is (out, in)  (GPT-2's Conv1D)
#   [1/3]    stored with others as one tensor; ours is the first third of its rows
#   [pairs]  there rope turns channels 2i and 2i + 1 of a head together, here i and i + c/2: the rows are reordered
#   -        the format has no name for it

LLAMA = """
ours                 hf                                      meta                          gguf
embed                model.embed_tokens                      tok_embeddings                token_embd
blocks.N.attn_norm   model.layers.N.input_layernorm          layers.N.attention_norm       blk.N.attn_norm
blocks.N.attn.q      model.layers.N.self_attn.q_proj         layers.N.attention.wq[pairs]  blk.N.attn_q[pairs]
blocks.N.attn.k      model.layers.N.self_attn.k_proj         layers.N.attention.wk[pairs]  blk.N.attn_k[pairs]
blocks.N.attn.v      model.layers.N.self_attn.v_proj         layers.N.attention.wv         blk.N.attn_v
blocks.N.attn.q_norm model.layers.N.self_attn.q_norm         -                             -
blocks.N.attn.k_norm model.layers.N.self_attn.k_norm         -                             -
blocks.N.attn.out    model.layers.N.self_attn.o_proj         layers.N.attention.wo         blk.N.attn_output
blocks.N.mlp_norm    model.layers.N.post_attention_layernorm layers.N.ffn_norm             blk.N.ffn_norm
blocks.N.mlp.gate    model.layers.N.mlp.gate_proj            layers.N.feed_forward.w1      blk.N.ffn_gate
blocks.N.mlp.up      model.layers.N.mlp.up_proj              layers.N.feed_forward.w3      blk.N.ffn_up
blocks.N.mlp.down    model.layers.N.mlp.down_proj            layers.N.feed_forward.w2      blk.N.ffn_down
final_norm           model.norm                              norm                          output_norm
unembed              lm_head                                 output                        output
"""

GPT2 = """
ours                 hf                                      gguf
embed                transformer.wte                         token_embd
position.table       transformer.wpe                         position_embd
blocks.N.attn_norm   transformer.h.N.ln_1                    blk.N.attn_norm
blocks.N.attn.q      transformer.h.N.attn.c_attn.T[1/3]      blk.N.attn_qkv[1/3]
blocks.N.attn.k      transformer.h.N.attn.c_attn.T[2/3]      blk.N.attn_qkv[2/3]
blocks.N.attn.v      transformer.h.N.attn.c_attn.T[3/3]      blk.N.attn_qkv[3/3]
blocks.N.attn.out    transformer.h.N.attn.c_proj.T           blk.N.attn_output
blocks.N.mlp_norm    transformer.h.N.ln_2                    blk.N.ffn_norm
blocks.N.mlp.up      transformer.h.N.mlp.c_fc.T              blk.N.ffn_up
blocks.N.mlp.down    transformer.h.N.mlp.c_proj.T            blk.N.ffn_down
final_norm           transformer.ln_f                        output_norm
unembed              lm_head                                 output
"""

CELL = re.compile(r"(?P<name>[\w.]+?)(?P<T>\.T)?(\[(?P<part>\d)/(?P<parts>\d)\])?(?P<pairs>\[pairs\])?")


@dataclass(frozen=True)
class Place:
    """Where one of our tensors lies in a format: the stored tensor's name, and what its cell is marked with."""

    name: str
    transposed: bool = False
    part: int = 1
    parts: int = 1
    pairs: bool = False

    def read(self, stored: Tensor, heads: int) -> Tensor:
        """Our tensor out of the stored one. `heads`: how many heads its rows are for, if it is marked [pairs]."""
        x = stored.T if self.transposed and stored.ndim == 2 else stored
        x = x.chunk(self.parts)[self.part - 1]
        return x.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2) if self.pairs else x

    def write(self, parts: Sequence[Tensor], heads: int) -> Tensor:
        """The stored tensor, from all of ours that lie in it, in order."""
        x = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
        x = x.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2) if self.pairs else x
        return x.T.contiguous() if self.transposed and x.ndim == 2 else x


def parse(table: str) -> dict[str, dict[str, Place]]:
    """Format -> our part -> its place, of every row the format has a name for."""
    head, *rows = [line.split() for line in table.strip().splitlines()]
    columns = {kind: {row[0]: row[i] for row in rows if row[i] != "-"} for i, kind in enumerate(head)}
    return {kind: {ours: _place(cell) for ours, cell in cells.items()} for kind, cells in columns.items()}


def _place(cell: str) -> Place:
    mark = CELL.fullmatch(cell)
    assert mark is not None, cell
    part, parts = int(mark["part"] or 1), int(mark["parts"] or 1)
    return Place(mark["name"], mark["T"] is not None, part, parts, mark["pairs"] is not None)


FAMILIES = {"llama": parse(LLAMA), "gpt2": parse(GPT2)}
CHOICES = {  # what a model must have chosen to be of a family; in gpt2, q, k and v are also all as wide as the stream
    "llama": {"position": "rope", "norm": "rms", "mlp": "swiglu", "residual": True},
    "gpt2": {"position": "learned", "norm": "layer", "mlp": "gelu", "residual": True, "bias": True, "qk_norm": False},
}


def family(config: ModelConfig) -> str:
    """`llama` or `gpt2`: whose names the parts of this model have in files. FathomError when it is neither."""
    config = config.resolved()
    square = config.d_model == config.n_head * config.head_dim == config.n_kv_head * config.head_dim
    for name, choices in CHOICES.items():
        if all(getattr(config, field) == value for field, value in choices.items()) and (square or name != "gpt2"):
            return name
    said = ", ".join(
        f"{field}={getattr(config, field)}" for field in (*CHOICES["gpt2"], "n_head", "n_kv_head", "head_dim")
    )
    raise FathomError(
        f"{said} is neither GPT-2 nor LLaMA, and other formats hold no other model; keep the run directory"
    )


def column(family: str, kind: str) -> dict[str, Place]:
    """Our part -> its place in format `kind`, for the parts a family has."""
    if kind not in FAMILIES[family]:
        known = ", ".join(FAMILIES[family])
        raise FathomError(
            f"no format {kind!r} of {family} models{near(kind, FAMILIES[family]) or ';'} Choose one of {known}"
        )
    return FAMILIES[family][kind]


def rename(name: str, source: str, target: str, family: str) -> list[str]:
    """A part or tensor of format `source` in format `target`; several where one holds together what the other splits.

    rename("blocks.3.attn.q.weight", "ours", "hf", "llama") -> ["model.layers.3.self_attn.q_proj.weight"]
    """
    part, layer, suffix = split(name)
    places = column(family, source)
    rows = [ours for ours, place in places.items() if place.name == part]
    if not rows:
        likely = near(name, [join(place.name, layer or "0", suffix) for place in places.values()])
        raise FathomError(f"{name!r} is no part of a {family} model in format {source}{likely}")
    found = [place.name for ours, place in column(family, target).items() if ours in rows]
    if not found:
        raise FathomError(f"format {target} has no name for {name!r}; choose another format")
    return [join(part, layer, suffix) for part in dict.fromkeys(found)]


def places(config: ModelConfig, kind: str) -> dict[str, Place]:
    """Our tensor -> its place in format `kind`, for every tensor of this model; of two tied ones, for the first."""
    name, found = family(config), {}
    for tensor in weight_shapes(config):
        part, layer, suffix = split(tensor)
        place = column(name, kind).get(part)
        if place is None:
            raise FathomError(f"format {kind} has no name for {tensor!r}; choose another format")
        found[tensor] = replace(place, name=join(place.name, layer, suffix))
    return found


def split(name: str) -> tuple[str, str, str]:
    """`blocks.3.attn.q.weight` -> `blocks.N.attn.q`, `3`, `.weight`."""
    part, suffix = re.fullmatch(r"(.*?)(\.weight|\.bias|)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    layer = re.search(r"(?<=\.)\d+(?=\.)", part)
    return re.sub(r"(?<=\.)\d+(?=\.)", "N", part, count=1), layer[0] if layer else "", suffix


def join(part: str, layer: str, suffix: str) -> str:
    """What `split` took apart."""
    return part.replace(".N.", f".{layer or 'N'}.") + suffix
