"""The three doors show the same page: a notebook's frame, a file, and text where there is no HTML."""

import base64
import gzip
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fathom
from fathom.errors import FathomError
from fathom.glass import document as documents
from fathom.model.transformer import Transformer
from fathom.tokenizer.characters import ByteTokenizer
from tests.architectures import LLAMA, model_of
from tests.glass.panels import decoded

SCRIPT = "let here = 1 < 2"
TEXT = "to be, or not </script><b>to"


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "bundle", lambda: (SCRIPT, "body{}"))


def model() -> Transformer:
    return model_of(replace(LLAMA, vocab_size=256, context_length=64)).eval()


def test_the_notebook_frame_is_the_file(tmp_path: Path) -> None:
    shown = fathom.show(model(), ByteTokenizer(), TEXT, panels=["next-token"])
    shown.save(tmp_path / "look.html")
    frame = shown._repr_html_()
    (inside,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(inside) == (tmp_path / "look.html").read_text() and 'sandbox="allow-scripts"' in frame


def test_the_file_holds_its_data_and_asks_for_nothing() -> None:
    shown = fathom.show(model(), ByteTokenizer(), TEXT, panels=["next-token"])
    page = shown.html()
    (values,) = re.findall(r'<script type="application/json" id="fathom-document">(.*?)</script>', page, re.S)
    told = json.loads(values)
    assert "".join(token["text"] for token in told["sides"]["A"]["tokens"]) == TEXT  # the text did not end the element
    (blob,) = re.findall(rf'id="{told["panels"]["A/next-token?"]}">(.*?)</script>', page)
    about, tensors = decoded(gzip.decompress(base64.b64decode(blob)))
    expected = shown.run.logits[-1].double().softmax(-1)
    assert torch.allclose(tensors["p"], expected[tensors["ids"].long()].float()) and about["checks"][0]["ok"]
    assert "default-src 'none'" in page and "connect-src 'none'" in page and not re.search("https?://", page)


def test_beside_another_model() -> None:
    one, other = model(), model()
    assert fathom.show(one, ByteTokenizer(), "to be", beside=other).run.beside is not None
    with pytest.raises(FathomError, match="the prompt is empty"):
        fathom.show(one, ByteTokenizer(), "")
    with pytest.raises(FathomError, match="65 tokens, more than the 64"):
        fathom.show(one, ByteTokenizer(), "x" * 65)
    with pytest.raises(FathomError, match="give ids"):
        fathom.show(one, None, "to be")
    with pytest.raises(FathomError, match="no panel is called 'head'"):
        fathom.show(one, ByteTokenizer(), "to be", panels=["head"])
    with pytest.raises(FathomError, match=r"expected a list of ids: panels=\['heads'\]"):
        fathom.show(one, ByteTokenizer(), "to be", panels="heads")
    with pytest.raises(FathomError, match="the tokenizer is a text"):
        fathom.show(one, "to be")  # type: ignore[arg-type]


def test_without_html_it_is_a_table() -> None:
    lines = repr(fathom.show(model(), ByteTokenizer(), "to be")).splitlines()
    assert lines[2].split() == ["0", "116", "'t'"] and lines[-1].startswith("next: ") and lines[-1].count("%") == 5
