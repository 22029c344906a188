"""P2: one head and query, from the stream to the stream, step by step; and the same with a step left out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fathom.glass.heads import heads, teaching, within
from fathom.glass.panel import Check, Panel, Series, checked
from fathom.glass.passes import LOOKING, Pass
from fathom.glass.steps import steps
from fathom.inspect import identities
from fathom.inspect.derived import Tensors, head_result
from fathom.inspect.microscope import Change, after, around, attend_otherwise, head_biases, head_weights, one_layer
from fathom.model.attention import Attention, attend, attend_fused
from fathom.model.norm import Norm
from fathom.model.position import Rope

KEPT_BYTES = 1_500_000  # of an exported file, before they are packed


@dataclass(frozen=True)
class Options:
    """query: from the end where negative. The others are those of `Change`: what the layer does otherwise."""

    layer: int = 0
    head: int = 0
    query: int = -1
    no_root: bool = False
    no_mask: bool = False
    rotate_v: bool = False
    split: bool = False

    @property
    def change(self) -> Change:
        return Change(self.no_root, self.no_mask, self.rotate_v, self.split)

    @property
    def wrong(self) -> bool:
        return self.change.wrong


def panel(run: Pass, options: Options) -> Panel:
    if not run.model.blocks:
        return Panel(absent="A bigram has no attention: each token is predicted from the one before it alone.")
    within(options.layer, len(run.model.blocks), "layer")
    within(options.head, heads(run), "head")
    seen, at = recorded(run, options), run.place(options.query)
    parts = Parts(run, options, seen, at)
    made = parts.read() | parts.compared() | parts.written() | parts.weights()
    facts = parts.facts()
    facts["stages"] = steps(made, facts, not options.no_root, not options.no_mask)
    return Panel(made, checks(run, options, seen, at), facts, source(run, options))


def kept(run: Pass) -> list[Options]:
    """The first view, the head that teaches most, the same with each change, then other heads and other queries, as far
    as there is room in a file and at least three."""
    config = run.subject.config.resolved()
    if not config.n_layer:
        return [Options()]
    each = 4 * (config.d_model * (run.t + 4) + config.head_dim * (4 * run.t + 4 * config.d_model)) + 12_000
    at, _ = teaching(run)
    shown = list(dict.fromkeys([Options(), Options(*at)] if at else [Options()]))
    changes: list[dict[str, bool]] = [{"no_mask": True}, {"no_root": True}, {"rotate_v": True}, {"split": True}]
    changed = [replace(one, **change) for one in shown for change in changes]
    heads = [Options(layer, head) for layer in range(config.n_layer) for head in range(config.n_head)]
    queries = [Options(query=query) for query in range(run.t - 1)]
    others = [one for one in heads if one not in shown]
    return [*shown, *changed, *others, *queries][: max(3, KEPT_BYTES // each)]


def recorded(run: Pass, options: Options) -> Tensors:
    """What the layer computes in the model as it is, or with the change."""
    names = around(run.model, options.layer)
    if options.change == Change():
        return {**run.seen(*names), "logits": run.seen("logits")["logits"]}
    key = f"microscope {options.layer} {options.change}"
    if key not in run.notes:
        for old in [note for note in run.notes if note.startswith("microscope")][:-1]:
            del run.notes[old]  # two are kept
        with LOOKING:
            run.notes[key] = one_layer(run.model, run.ids, options.layer, options.change, "logits")
    found: Tensors = run.notes[key]
    return found


@dataclass(frozen=True)
class Parts:
    """The series of one head and query."""

    run: Pass
    options: Options
    seen: Tensors
    at: int

    @property
    def path(self) -> str:
        return f"blocks.{self.options.layer}"

    @property
    def group(self) -> int:
        """The head of keys and values."""
        config = self.run.subject.config.resolved()
        return self.options.head * config.n_kv_head // config.n_head

    @property
    def setup(self) -> tuple[str, ...]:
        layer, change = self.options.layer, self.options.change
        if change == Change():
            names = f"around(model, {layer})"
            lines = ("from fathom.inspect.microscope import around",)
            return (*lines, f"with torch.no_grad(), fathom.look(model, *{names}) as seen:", "    model(ids)")
        lines = ("from fathom.inspect.microscope import Change, one_layer",)
        return (*lines, f"seen = one_layer(model, ids, {layer}, {change!r})")

    def measured(self, name: str, where: str, *dims: str) -> Series:
        """A tap at indices such as "0, 3, {0}"."""
        at = tuple(slice(None) if word.startswith("{") else int(word) for word in where.split(", "))
        return Series(self.seen[name][at], "measured", name, dims, f'seen["{name}"][{where}]', self.setup)

    def read(self) -> dict[str, Series]:
        """From the stream to q, k and v, before and after they are rotated."""
        attn, head, at, group = f"{self.path}.attn", self.options.head, self.at, self.group
        made = {
            "x": self.measured(f"{self.path}.resid_pre", f"0, {at}, {{0}}", "width"),
            "norm": self.measured(f"{self.path}.attn_norm", "0, {0}, {1}", "key", "width"),
            "q": self.measured(f"{attn}.q", f"0, {at}, {head}, {{0}}", "channel"),
            "k": self.measured(f"{attn}.k", f"0, {{0}}, {group}, {{1}}", "key", "channel"),
            "v": self.measured(f"{attn}.v", f"0, {{0}}, {group}, {{1}}", "key", "channel"),
        }
        if f"{attn}.q_rot" in self.seen:
            made["q_rot"] = self.measured(f"{attn}.q_rot", f"0, {at}, {head}, {{0}}", "channel")
            made["k_rot"] = self.measured(f"{attn}.k_rot", f"0, {{0}}, {group}, {{1}}", "key", "channel")
        return made

    def compared(self) -> dict[str, Series]:
        """From q and k to the pattern."""
        attn, head, key = f"{self.path}.attn", self.options.head, ("key",)
        name = "_rot" * (f"{attn}.q_rot" in self.seen)
        q, k = self.seen[f"{attn}.q{name}"][0, self.at, head], self.seen[f"{attn}.k{name}"][0, :, self.group]
        dot, root, cap = k @ q, q.shape[-1] ** 0.5, self.run.subject.config.scale.attn_cap
        code = f'(seen["{attn}.k{name}"][0, :, {self.group}] @ seen["{attn}.q{name}"][0, {self.at}, {head}])'
        scaled, formula, quotient = dot, "q · k", code
        if not self.options.no_root:
            scaled, formula, quotient = dot / root, "q · k / √c", f"({code} / {root})"
        if cap is not None:
            scaled, formula = cap * torch.tanh(scaled / cap), f"{cap:g} tanh({formula} / {cap:g})"
            quotient = f"({cap} * torch.tanh({quotient} / {cap}))"
        return {
            "dot": Series(dot, "computed", "q · k", key, f"{code}[{{0}}]", self.setup),
            "scaled": Series(scaled, "computed", formula, key, f"{quotient}[{{0}}]", self.setup),
            "scores": self.measured(f"{attn}.scores", f"0, {head}, {self.at}, {{0}}", "key"),
            "pattern": self.measured(f"{attn}.pattern", f"0, {head}, {self.at}, {{0}}", "key"),
        }

    def written(self) -> dict[str, Series]:
        """From values to the stream."""
        attn, head, layer, width = f"{self.path}.attn", self.options.head, self.options.layer, ("width",)
        z, out = self.seen[f"{attn}.z"], self.run.model.blocks[layer].attn
        made = {"z": self.measured(f"{attn}.z", f"0, {self.at}, {head}, {{0}}", "channel")}
        if self.options.rotate_v and (rotate := self.rotation()):
            places = f"torch.arange({self.run.t}), {self.run.model.blocks[layer].kind!r}, {self.run.t}"
            v = f'seen["{attn}.v"].transpose(1, 2)'
            code = f"model.position.rotation({places})({v})[0, {self.group}, {{0}}, {{1}}]"
            v_rot = rotate(self.seen[f"{attn}.v"].transpose(1, 2))[0, self.group]
            made["v_rot"] = Series(v_rot, "computed", "v, rotated", ("key", "channel"), code, self.setup)
        code = f'head_result(model.blocks[{layer}].attn, seen["{attn}.z"], {head})[0, {self.at}, {{0}}].detach()'
        setup = (*self.setup, "from fathom.inspect.derived import head_result")
        made["out"] = Series(head_result(out, z, head)[0, self.at], "computed", "z W_out", width, code, setup)
        made["attn"] = self.measured(attn, f"0, {self.at}, {{0}}", "width")
        if f"{attn}_after" in self.seen:
            made["attn_after"] = self.measured(f"{attn}_after", f"0, {self.at}, {{0}}", "width")
        return made | {"stream": self.measured(after(self.run.model, layer), f"0, {self.at}, {{0}}", "width")}

    def weights(self) -> dict[str, Series]:
        """The matrices and biases of the head: what its numbers are sums of products of."""
        layer, head = self.options.layer, self.options.head
        setup = ("from fathom.inspect.microscope import head_biases, head_weights",)
        made = {}
        for name, values in head_weights(self.run.model, layer, head).items():
            code = f'head_weights(model, {layer}, {head})["{name}"][{{0}}, {{1}}]'
            source = f"{self.path}.attn.{name}.weight"
            made[f"w_{name}"] = Series(values, "measured", source, ("channel", "width"), code, setup)
        for name, values in head_biases(self.run.model, layer, head).items():
            code, source = f'head_biases(model, {layer}, {head})["{name}"][{{0}}]', f"{self.path}.attn.{name}.bias"
            made[f"b_{name}"] = Series(values, "measured", source, ("channel",), code, setup)
        return made

    def rotation(self) -> Callable[[Tensor], Tensor] | None:
        """The function that rotates in this layer; None where none does."""
        position, kind = self.run.model.position, self.run.model.blocks[self.options.layer].kind
        if not isinstance(position, Rope) or kind == "n":
            return None
        return position.rotation(torch.arange(self.run.t, device=self.run.ids.device), kind, self.run.t)

    def facts(self) -> dict[str, Any]:
        """What the panel says in words."""
        config, block = self.run.subject.config.resolved(), self.run.model.blocks[self.options.layer]
        row = self.seen[f"{self.path}.attn.scores"][0, self.options.head, self.at]
        visible = row.isfinite().nonzero().flatten()
        return {
            "layer": self.options.layer,
            "head": self.options.head,
            "at": self.at,
            "kv_head": self.group,
            "shared": config.n_head // config.n_kv_head,
            "visible": [int(visible[0]), int(visible[-1])],
            "norm": type(block.attn_norm).__name__ if isinstance(block.attn_norm, Norm) else "",
            "located": located(self.rotation() is not None, config.qk_norm, block.attn.sharpness),
            "rotates": self.rotation() is not None,
            "position": config.position,
            "cap": config.scale.attn_cap,
            "alibi": config.position == "alibi",
            "stream": config.residual,
            "factor": config.scale.residual,
            "out_bias": block.attn.out.bias is not None,
            "wrong": self.options.change.wrong,
            "fused": self.options.change == Change() and config.scale.attn_cap is None,
            **self.said(),
        }

    def said(self) -> dict[str, Any]:
        """The likeliest next token with and without the change, and the KL divergence between the two, in nats."""
        then, now = (x[self.at].double().log_softmax(-1) for x in (self.run.logits, self.seen["logits"][0]))
        tokens = {}
        for name, logprobs in (("then", then), ("now", now)):
            id = int(logprobs.argmax())
            tokens[name] = {"id": id, "text": self.run.text_of(id), "p": logprobs[id].exp().item()}
        return tokens | {"kl": float((then.exp() * (then - now)).sum().clamp(min=0))}


def located(rotated: bool, qk_norm: str, sharpness: float) -> list[str]:
    """What happens to q and k before they are compared, in this order."""
    steps = ["rotated by their position"] * rotated
    normed = [] if qk_norm == "off" else ["normed"]
    steps = [*steps, *normed] if qk_norm == "rotated" else [*normed, *steps]
    return [*steps, f"q times {sharpness:.4g}"] if sharpness != 1 else steps


def checks(run: Pass, options: Options, seen: Tensors, at: int) -> list[Check]:
    """C1 over the whole layer, C2 with the scores, C3 for attention, and C6 for all that was recorded."""
    layers, path = [options.layer], f"blocks.{options.layer}"
    made = checked("C1", "pattern_is_causal", identities.pattern_is_causal(run.model, seen, layers))
    for name in ("scores_are_products", "heads_sum_to_attention"):
        made += checked("C2", name, getattr(identities, name)(run.model, seen, layers))
    keep = 0.0 if run.subject.config.residual == "off" else 1.0
    total = identities.with_layer(run.model, seen[f"{path}.resid_pre"] * keep, seen, f"{path}.attn")
    off = identities.off(total, seen[after(run.model, options.layer)])
    made += checked("C3", "stream_is_a_sum", {"resid_pre + attn = resid_mid": off})
    return made + checked("C6", "looking_changes_nothing", {"logits with look = without": run.changed_by_looking()})


def source(run: Pass, options: Options) -> list[Callable[..., Any]]:
    """What ran."""
    block, change = run.model.blocks[options.layer], options.change
    explicit = change != Change() or run.subject.config.scale.attn_cap is not None
    kernel = [attend] if explicit else [attend_fused]
    norms = [type(block.attn_norm)] if isinstance(block.attn_norm, Norm) else []
    rotation = [Rope.rotation] if isinstance(run.model.position, Rope) else []
    wrong = [attend_otherwise] * change.wrong
    return [*norms, Attention.forward, *rotation, *wrong, *kernel, type(block.join)]
