"""P2's steps, in the order of computation: what each shows, and what is said of it."""

from collections.abc import Collection, Mapping
from typing import Any

Shown = tuple[str, str, str, str]  # a series, what it is called, row | table | bars, and whose colour it has

TITLES = {
    "x": "x",
    "norm": "norm",
    "qkv": "q, k, v",
    "rotate": "rotate",
    "dot": "q · k",
    "scale": "/ √c",
    "mask": "mask",
    "softmax": "softmax",
    "z": "Σ p · v",
    "out": "out",
    "stream": "stream",
}


def steps(series: Collection[str], facts: Mapping[str, Any], root: bool, mask: bool) -> list[dict[str, Any]]:
    """Each step: id, label, says, and its drawings of the series that there are. root, mask: whether scores are
    divided by √c, and later tokens hidden."""
    said, drawn = sentences(facts, root, mask), drawings(series)
    names = ("series", "name", "as", "tone")
    return [
        {"id": id, "label": label, "says": said[id]}
        | {"drawings": [dict(zip(names, one)) for one in drawn[id] if one[0] in series]}
        for id, label in TITLES.items()
    ]


def drawings(series: Collection[str]) -> dict[str, list[Shown]]:
    """What each step draws, where it is there."""
    value, added = ("v_rot" if "v_rot" in series else "v"), ("attn_after" if "attn_after" in series else "attn")
    return {
        "x": [("x", "x", "row", "")],
        "norm": [("norm", "norm(x)", "table", "")],
        "qkv": [("q", "q", "row", "query"), ("k", "k", "table", "key"), ("v", "v", "table", "value")],
        "rotate": [
            ("q_rot", "q", "row", "query"),
            ("k_rot", "k", "table", "key"),
            ("v_rot", "v, rotated too", "table", "value"),
        ],
        "dot": [("dot", "q · k", "bars", "")],
        "scale": [("scaled", "score", "bars", "")],
        "mask": [("scores", "score after the mask", "bars", "")],
        "softmax": [("pattern", "pattern", "bars", "query")],
        "z": [("z", "z", "row", "output"), ("pattern", "p", "bars", "query"), (value, "v", "table", "value")],
        "out": [
            ("out", "this head", "row", "output"),
            ("attn", "all heads", "row", "output"),
            ("attn_after", "after its norm", "row", "output"),
        ],
        "stream": [("x", "before", "row", ""), (added, "added", "row", "output"), ("stream", "after", "row", "")],
    }


def sentences(facts: Mapping[str, Any], root: bool, mask: bool) -> dict[str, str]:
    """What is said of each step."""
    norm, shared, cap = facts["norm"], facts["shared"], facts["cap"]
    bias = " and the bias" if facts["out_bias"] else ""
    return {
        "x": "The residual stream of the query's token, as it comes into the layer.",
        "norm": f"{norm}: the same vector at one size, times a learned weight. Each row is the vector of one token."
        if norm
        else "This model has no norm here: the layer reads the stream as it is.",
        "qkv": "What the query asks for, what each token can be found by, what each has to say: three products with "
        "the head's own matrices."
        + (f" Keys and values are those of KV head {facts['kv_head']}, which {shared} heads share." * (shared > 1)),
        "rotate": rotated(facts["located"], facts["position"]),
        "dot": "The query with the key of every token, also of those that it may not see: where both point the same "
        "way the product is large.",
        "scale": (
            "Divided by √c, so that scores do not grow with the length of q and k."
            if root
            else "Nothing is divided: the scores stay as large as they are."
        )
        + ("" if cap is None else f" Then capped at ±{cap:g} by a tanh."),
        "mask": masked(facts, mask),
        "softmax": "e to the score, divided by the sum over all keys: shares that sum to 1.",
        "z": "Each token's value times its share, added up: what the head takes from the text.",
        "out": "The head's part of W_out turns it into a vector as wide as the stream. "
        f"All heads{bias} together are what attention says.",
        "stream": "This model has no residual stream: what attention says replaces what was there."
        if facts["stream"] == "off"
        else "What attention says is added to the stream, which is all that later layers read.",
    }


def rotated(located: list[str], position: str) -> str:
    if located:
        return f"q and k of each token: {', then '.join(located)}. v is left as it is."
    if position == "learned":
        return "Nothing is rotated: this model adds a learned vector for each position to the embedding."
    if position == "alibi":
        return "Nothing is rotated: this model takes the distance, times a slope of the head, from the scores."
    return "Nothing is rotated in this layer: q and k do not know where they stand."


def masked(facts: Mapping[str, Any], mask: bool) -> str:
    first, last = facts["visible"]
    slope = " The distance, times the head's slope, has been taken from the scores." * facts["alibi"]
    if not mask:
        return f"No mask: the token sees all others, also those after it, which it is trained to predict.{slope}"
    seen = f"the window of tokens {first} to {last}" if first else "itself and what comes before it"
    return f"Token {facts['at']} sees {seen}; all others get −∞.{slope}"
