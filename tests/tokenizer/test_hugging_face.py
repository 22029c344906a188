"""Hugging Face's folders against transformers: the same ids and the same bos, read from it and written for it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer import byte_fallback, load
from fathom.tokenizer.bpe import BPETokenizer, byte_letters
from fathom.tokenizer.hugging_face import read_folder, to_folder
from fathom.tokenizer.protocol import Special, Tokenizer
from tests.mutants import survive

transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")

TEXT = "To be, or not to be: that is the question — whether 'tis nobler in the mind to suffer 😀\n" * 20
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
TRICKY = st.lists(
    st.sampled_from(
        [*" \n\t\r\xa0\u3000▁'sStdrelv.!,<>|_-/", *"aeé1²東😀\u0301", "<s>", "</s>", "<0x41>", "  ", "the"]
    ),
    max_size=60,
).map("".join)
SPLIT = {"split_special_tokens": True}  # special tokens in a user's text are text
ANY = 1 << 20
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def auto(folder: Path, **options: Any) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, **options)


def put(folder: Path, **files: Any) -> Path:
    """A folder of these files; double underscores are dots in their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in files.items():
        text = values if isinstance(values, str) else json.dumps(values)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def llama(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaMA 2's tokenizer as transformers converts it: a Metaspace puts the first space there."""
    folder = tmp_path_factory.mktemp("llama")
    shutil.copyfile(shared_data / "llama2_tokenizer.model", folder / "tokenizer.model")
    transformers.LlamaTokenizerFast.from_pretrained(folder).save_pretrained(folder / "converted")
    return folder / "converted"


@pytest.fixture(scope="module")
def published(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as the published LLaMA 2 has it: normalisers put the space there, a template puts <s> there."""
    values = json.loads((llama / "tokenizer.json").read_text())
    steps = [byte_fallback.PREPEND, byte_fallback.REPLACE]
    values |= {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
    values["post_processor"] = template("<s>", 1)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": added("</s>")}
    return put(tmp_path_factory.mktemp("published"), tokenizer__json=values, tokenizer_config__json=config)


def added(name: str) -> dict[str, Any]:
    """A special token as published configurations have it."""
    return {"__type": "AddedToken", "content": name, **FLAGS}


def template(name: str, *ids: int) -> dict[str, Any]:
    steps = [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {name: {"id": name, "ids": [*ids], "tokens": [name] * len(ids)}}
    return {"type": "TemplateProcessing", "single": steps, "pair": steps, "special_tokens": special}


@pytest.fixture(scope="module", params=["converted", "published"])
def style(request: pytest.FixtureRequest, llama: Path, published: Path) -> Path:
    return llama if request.param == "converted" else published


@pytest.fixture(scope="module")
def both(style: Path) -> tuple[Tokenizer, Any]:
    ours = read_folder(style, 32000)
    assert ours is not None
    return ours, auto(style, **SPLIT)


@given(text=UNICODE | TRICKY)
@settings(max_examples=300, deadline=None)
def test_llama_2_encodes_as_transformers_does(both: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = both
    start = [] if ours.bos is None else [ours.bos]
    assert start + ours.encode(text) == reference(text).input_ids
    assert ours.encode_array(text).tolist() == ours.encode(text)


@given(text=UNICODE | TRICKY)
@settings(max_examples=200, deadline=None)
def test_llama_2_decodes_as_transformers_does(both: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = both
    ids = ours.encode(text)
    assert ours.decode(ids) == reference.decode(ids, clean_up_tokenization_spaces=False)
    assert ours.decode_bytes(ids).decode() == ours.decode(ids)


def test_llama_2_knows_its_special_tokens(style: Path, both: tuple[Tokenizer, Any]) -> None:
    ours, reference = both
    start = reference("").input_ids
    assert start == ([1] if "published" in style.name else [])
    assert ours.special == Special(start[0] if start else None, 2, names={"<unk>": 0, "<s>": 1, "</s>": 2})
    assert not {0, 1, 2} & {*ours.encode("<s></s><unk> <s>")}


def test_llama_2_goes_through_a_run(both: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    ours, _ = both
    load.save(ours, tmp_path / "tokenizer.json")
    again = load.load(tmp_path)
    assert again.to_json() == ours.to_json()
    assert (again.kind, again.special, again.encode(TEXT)) == (ours.kind, ours.special, ours.encode(TEXT))


def test_a_long_text_in_pieces_equals_the_whole(both: tuple[Tokenizer, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, reference = both
    monkeypatch.setattr("fathom.tokenizer.bpe.PIECE", 53)
    text = " ▁ a" + TEXT + "  ▁ ▁▁ x" + " " * 200 + TEXT.replace(" ", "\n ▁  ")
    assert ours.encode(text) == reference(text, add_special_tokens=False).input_ids


@given(text=TRICKY)
@settings(max_examples=200, deadline=None)
def test_a_cut_tears_no_token(both: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = both
    for cut in {ours.cut(text[:end]) for end in range(len(text) + 1)}:
        assert ours.encode(text[:cut]) + ours.encode(text[cut:]) == reference(text, add_special_tokens=False).input_ids


def test_where_it_is_cut(llama: Path, published: Path) -> None:
    ends = [load.load(folder).cut("some words") for folder in (llama, published)]
    assert ends == [4, 0]  # a normaliser would put a space before the second part


@pytest.fixture(scope="module")
def gpt2(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's files as published, the vocabulary written out."""
    merges = (shared_data / "gpt2_merges.txt").read_text(encoding="utf-8")
    pairs = [line.split(" ") for line in merges.split("\n") if line and not line.startswith("#version")]
    tokens = [*byte_letters(), *map("".join, pairs), "<|endoftext|>"]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    return put(tmp_path_factory.mktemp("gpt2"), merges__txt=merges, vocab__json=vocabulary, config__json=GPT2_CONFIG)


GPT2_CONFIG = {"model_type": "gpt2"}


def test_gpt2_from_merges_alone_is_gpt2(gpt2: Path, tmp_path: Path) -> None:
    shutil.copyfile(gpt2 / "merges.txt", tmp_path / "merges.txt")
    whole, alone = read_folder(gpt2, 50257), read_folder(tmp_path, 50257)
    assert whole is not None and alone is not None
    assert whole.to_json()["tokenizer"]["model"] == alone.to_json()["tokenizer"]["model"] | {
        "vocab": whole.to_json()["tokenizer"]["model"]["vocab"]
    }
    assert whole.special == alone.special == Special(eos=50256, names={"<|endoftext|>": 50256})
    assert [whole.decode_bytes([id]) for id in range(50257)] == [alone.decode_bytes([id]) for id in range(50257)]
    assert load.load(tmp_path / "merges.txt").encode(TEXT) == whole.encode(TEXT)


@pytest.fixture(scope="module")
def gpt2_both(gpt2: Path) -> tuple[Tokenizer, Any]:
    ours = read_folder(gpt2, 50257)
    assert ours is not None
    return ours, auto(gpt2, **SPLIT)


@given(text=UNICODE | TRICKY)
@settings(max_examples=200, deadline=None)
def test_gpt2_encodes_as_transformers_does(gpt2_both: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = gpt2_both
    assert ours.encode(text) == reference(text).input_ids
    assert ours.decode(ours.encode(text)) == text


def small(**changes: Any) -> dict[str, Any]:
    """A small `tokenizer.json` whose end token is id 0."""
    return {**BPETokenizer.train([TEXT], 300).to_json()["tokenizer"], **changes}


END = "<|endoftext|>"
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}


@pytest.mark.parametrize(
    ("processor", "config"),
    [
        (None, {}),
        (template(END, 0), {}),
        (template(END, 0), {"add_bos_token": False, "bos_token": END}),  # the file of the vocabulary wins
        (None, {"add_bos_token": True, "bos_token": END}),
        ({"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, {}),
        ({"type": "Sequence", "processors": [template(END, 0)]}, {}),
    ],
)
def test_bos_goes_before_a_text_where_transformers_puts_it(processor: Any, config: Any, tmp_path: Path) -> None:
    put(tmp_path, tokenizer__json=small(post_processor=processor), tokenizer_config__json=FAST | config)
    ours = read_folder(tmp_path, ANY)
    assert ours is not None
    assert ([] if ours.bos is None else [ours.bos]) == auto(tmp_path)("").input_ids


@pytest.mark.parametrize(("flag", "bos"), [(True, 300), (False, None), (None, None)])
def test_bos_of_files_without_a_tokenizer_json(flag: bool | None, bos: int | None, tmp_path: Path) -> None:
    tokens = [*byte_letters(), *(f"x{n}" for n in range(44)), "<start>", END]
    config = {"add_bos_token": flag, "bos_token": added("<start>"), "tokenizer_class": "GPT2Tokenizer"}
    vocabulary = {token.replace("x", "Ġ") if token[1:].isdigit() else token: id for id, token in enumerate(tokens)}
    put(tmp_path, vocab__json=vocabulary, merges__txt="#version: 0.2\n", tokenizer_config__json=config)
    ours = read_folder(tmp_path, ANY)
    assert ours is not None
    assert ours.bos == bos
    assert ([] if bos is None else [bos]) == auto(tmp_path)("").input_ids
    assert ours.eos == 301
    assert not {300, 301} & {*ours.encode("<start><|endoftext|>")}


def test_a_sentencepiece_model_alone(shared_data: Path, tmp_path: Path) -> None:
    shutil.copyfile(shared_data / "llama2_tokenizer.model", tmp_path / "tokenizer.model")
    ours = read_folder(tmp_path, 32000)
    assert ours is not None
    assert (ours.kind, ours.bos, ours.eos) == ("sentencepiece", 1, 2)
    put(tmp_path, tokenizer_config__json={"add_bos_token": False, "bos_token": "<s>"})
    again = read_folder(tmp_path, 32000, [2, 7])
    assert again is not None
    assert (again.bos, again.special.last) == (None, {2, 7})


@pytest.mark.parametrize(
    ("files", "eos"),
    [
        ({}, 0),  # a name that published tokenizers use
        ({"tokenizer_config__json": {"eos_token": None}}, 0),
        ({"tokenizer_config__json": {"eos_token": "<x>"}}, 300),
        ({"tokenizer_config__json": {"eos_token": {"content": "<x>"}}}, 300),
        ({"special_tokens_map__json": {"eos_token": {"content": "<x>", "lstrip": False}}}, 300),
        ({"special_tokens_map__json": {"eos_token": "<x>"}, "tokenizer_config__json": {"eos_token": END}}, 0),
        ({"tokenizer_config__json": {"eos_token": "<nowhere>"}}, 0),
    ],
)
def test_the_end_of_a_text(files: dict[str, Any], eos: int, tmp_path: Path) -> None:
    values = small()
    values["added_tokens"].append({**values["added_tokens"][0], "id": 300, "content": "<x>"})
    ours = read_folder(put(tmp_path, tokenizer__json=values, **files), 301, [5, eos])
    assert ours is not None
    assert (ours.eos, ours.special.names) == (eos, {END: 0, "<x>": 300})
    assert ours.special.last == {5, eos}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"tokenizer_config__json": {"chat_template": "{{ a }}"}}, "{{ a }}"),
        (
            {
                "tokenizer_config__json": {
                    "chat_template": [{"name": "tool", "template": "b"}, {"name": "default", "template": "c"}]
                }
            },
            "c",
        ),
        ({"tokenizer_config__json": {"chat_template": [{"name": "tool", "template": "b"}]}}, None),
        ({"tokenizer_config__json": {"chat_template": "a"}, "chat_template__jinja": "d\n"}, "d\n"),
    ],
)
def test_the_chat_template(files: dict[str, Any], expected: str | None, tmp_path: Path) -> None:
    ours = read_folder(put(tmp_path, tokenizer__json=small(), **files), 300)
    assert ours is not None
    assert ours.special.template == expected


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    put(tmp_path, config__json={}, tokenizer_config__json={"eos_token": "</s>"})
    assert read_folder(tmp_path, ANY) is None
    with pytest.raises(FathomError, match="holds no tokenizer"):
        load.load(tmp_path)


def test_more_tokens_than_the_model_has(gpt2: Path, published: Path, shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(FathomError, match="50257 tokens; the model has 50256"):
        read_folder(gpt2, 50256)
    with pytest.raises(FathomError, match="32000 tokens; the model has 31999"):
        read_folder(published, 31999)
    with pytest.raises(FathomError, match="ids run from 0 to 299"):
        read_folder(put(tmp_path, tokenizer__json=small()), 300, [300])


def kinds() -> Iterator[tuple[str, Callable[[Path, Path], Tokenizer]]]:
    chars = "".join(sorted({*TEXT, *"<>|/▁\r\t\xa0éa1"}))
    yield "gpt2", lambda gpt2, published: load.load(gpt2)
    yield "byte_fallback", lambda gpt2, published: load.load(published)
    yield "metaspace", lambda gpt2, published: load.load(published.parent / "llama0" / "converted")
    yield "byte", lambda gpt2, published: load.make("byte", [])
    yield "character", lambda gpt2, published: load.make("char", [chars])
    yield "bpe", lambda gpt2, published: load.make("bpe:300", [TEXT])


@pytest.fixture(scope="module", params=[name for name, _ in kinds()])
def handed_on(
    request: pytest.FixtureRequest, gpt2: Path, published: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Any, Tokenizer]:
    return hand_on(dict(kinds())[request.param](gpt2, published), tmp_path_factory.mktemp("handed_on"))


def hand_on(ours: Tokenizer, folder: Path) -> tuple[Tokenizer, Any, Tokenizer]:
    """A tokenizer, what transformers makes of its files, and what we read in them."""
    for name, data in to_folder(ours).items():
        (folder / name).write_bytes(data)
    put(folder, config__json={"model_type": "llama", "vocab_size": ours.vocab_size})
    again = read_folder(folder, ours.vocab_size)
    assert again is not None
    return ours, auto(folder, **SPLIT), again


def same(handed_on: tuple[Tokenizer, Any, Tokenizer], text: str) -> None:
    ours, reference, again = handed_on
    try:
        ids = ours.encode(text)
    except OutsideVocabulary:
        with pytest.raises(Exception, match="UNK"):
            reference(text)
        return
    assert again.encode(text) == ids
    assert reference(text).input_ids == ([] if ours.bos is None else [ours.bos]) + ids
    assert again.decode(ids) == ours.decode(ids)


@given(text=UNICODE | TRICKY)
@settings(max_examples=200, deadline=None)
def test_what_is_handed_on_is_the_same_tokenizer(handed_on: tuple[Tokenizer, Any, Tokenizer], text: str) -> None:
    same(handed_on, text)


def test_special_tokens_are_handed_on(handed_on: tuple[Tokenizer, Any, Tokenizer]) -> None:
    ours, reference, again = handed_on
    assert again.special == ours.special
    assert (reference.bos_token_id, reference.eos_token_id) == (ours.bos, ours.eos)
    assert len(reference) == again.vocab_size == ours.vocab_size


@pytest.fixture(scope="module")
def sentencepiece(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any, Tokenizer]:
    return hand_on(load.load(shared_data / "llama2_tokenizer.model"), tmp_path_factory.mktemp("sentencepiece"))


@given(text=UNICODE | TRICKY | st.text(" \n", max_size=80))
@settings(max_examples=500, deadline=None)
def test_sentencepiece_is_handed_on_as_merges(sentencepiece: tuple[Tokenizer, Any, Tokenizer], text: str) -> None:
    same(sentencepiece, text)


def test_sentencepiece_is_handed_on_as_it_was_too(
    sentencepiece: tuple[Tokenizer, Any, Tokenizer], shared_data: Path
) -> None:
    _, reference, again = sentencepiece
    same(sentencepiece, (shared_data / "tinyshakespeare.txt").read_text()[:100_000])
    assert (again.bos, again.eos, reference.bos_token_id, reference.eos_token_id) == (1, 2, 1, 2)
    assert not {0, 1, 2} & {*again.encode("<s></s><unk>")}


def test_the_template_is_handed_on(tmp_path: Path) -> None:
    chat = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    put(tmp_path, tokenizer__json=small(), chat_template__jinja=chat)
    first = read_folder(tmp_path, 300)
    assert first is not None
    (tmp_path / "again").mkdir()
    _, reference, again = hand_on(first, tmp_path / "again")
    assert again.special.template == reference.chat_template == chat


def tiny() -> dict[str, Any]:
    """The smallest vocabulary with byte fallback."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abc", "▁a", "bc"]
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    model |= {"vocab": {token: id for id, token in enumerate(tokens)}, "merges": [["▁", "a"], ["b", "c"]]}
    added = [{"id": id, "content": tokens[id], "special": True, **FLAGS} for id in range(3)]
    steps = {"type": "Sequence", "normalizers": [byte_fallback.PREPEND, byte_fallback.REPLACE]}
    decoder = {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    parts = {"normalizer": steps, "pre_tokenizer": None, "post_processor": template("<s>", 1), "decoder": decoder}
    return {"version": "1.0", "added_tokens": added, **parts, "model": model}


def change(values: Any, path: str, new: Any) -> Any:
    """The values with one of them replaced; `path` names the keys that lead to it."""
    values = json.loads(json.dumps(values))
    *way, last = path.split("/")
    place = values
    for key in way:
        place = place[int(key) if key.isdigit() else key]
    place[int(last) if last.isdigit() else last] = new
    return values


DEEP: Any = {"type": "Sequence", "normalizers": []}
for _ in range(90):
    DEEP = {"type": "Sequence", "normalizers": [DEEP]}


@pytest.mark.parametrize(
    ("path", "new", "said"),
    [
        ("model/type", "Unigram", "tokenizers library|known"),
        ("model/vocab", [], "tokenizers library|known"),
        ("model/vocab/a", -1, "tokenizers library"),
        ("model/vocab/a", 1.5, "tokenizers library"),
        ("model/vocab/a", 1 << 31, "gaps"),
        ("model/vocab/a", 1 << 70, "tokenizers library"),
        ("model/vocab/a", 4, "share"),
        ("model/merges/0", ["a"], "tokenizers library"),
        ("model/merges/0", ["a", "x"], "tokenizers library"),
        ("model/merges", {"a": 1}, "'merges'"),
        ("model/dropout", 0.5, "dropout"),
        ("model/continuing_subword_prefix", "##", "prefix"),
        ("model/byte_fallback", False, "WordLevel|byte-level|spell bytes"),
        ("normalizer/normalizers/0/prepend", "_", "spaces are treated"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "normalizer is 'Precompiled'"),
        ("normalizer", DEEP, "tokenizers library|spaces are treated"),
        ("normalizer", "NFC", "expected an object"),
        ("normalizer/normalizers", 3, "expected a list"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "("}}, "tokenizers library"),
        ("post_processor", template("<s>", 1 << 31), "ids run from"),
        ("post_processor", template("<s>", 1, 1), "at most one"),
        ("post_processor/single/0", {"SpecialToken": {"id": "<x>", "type_id": 0}}, "tokenizers library"),
        ("added_tokens/1/id", 7, "added token '<s>'"),
        ("added_tokens/1/content", "<x>", "added token '<x>'"),
        ("added_tokens/1/content", 7, "'added_tokens'"),
        ("added_tokens", 7, "'added_tokens'"),
        ("added_tokens/1", {"id": 259, "content": "▁", "special": True, **FLAGS}, "special token"),
        ("decoder", {"type": "CTC"}, "decoder is 'CTC'"),
    ],
)
def test_what_a_file_may_not_say(path: str, new: Any, said: str, tmp_path: Path) -> None:
    file = put(tmp_path, tokenizer__json=change(tiny(), path, new)) / "tokenizer.json"
    with pytest.raises(FathomError, match=said) as error:
        load.load(file)
    assert str(file) in str(error.value)


def test_every_byte_needs_a_token(tmp_path: Path) -> None:
    values = tiny()
    values["model"]["vocab"]["x"] = values["model"]["vocab"].pop("<0x41>")
    with pytest.raises(FathomError, match="no token <0x41>"):
        load.load(put(tmp_path, tokenizer__json=values))
    values = small()
    values["model"]["vocab"]["!!"] = values["model"]["vocab"].pop("x")
    values["model"]["merges"] = []
    with pytest.raises(FathomError, match="no token for the byte 0x78"):
        load.load(put(tmp_path, tokenizer__json=values))


def test_the_tiny_vocabulary_is_one(tmp_path: Path) -> None:
    ours = load.load(put(tmp_path, tokenizer__json=tiny()))
    assert (ours.bos, ours.encode("abc a")) == (1, [263, 264, 263])
    assert ours.decode_bytes(ours.encode("\0 é")) == "\0 é".encode()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[" * 100_000, "not a tokenizer file"),
        ("[]", "expected an object"),
        ('{"eos_token": 3}', "eos_token is '3'"),
        ('{"eos_token": {"text": "a"}}', "eos_token"),
        ('{"chat_template": 3}', "chat_template is '3'"),
        ('{"chat_template": [{"name": "default", "template": 3}]}', "chat_template"),
    ],
)
def test_what_a_configuration_may_not_say(config: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(FathomError, match=said):
        read_folder(put(tmp_path, tokenizer__json=tiny(), tokenizer_config__json=config), ANY)


def test_merges_never_make_a_special_token(tmp_path: Path) -> None:
    """transformers' own conversions may hold such merges: where `<s` and `>` are tokens."""
    values = tiny()
    values["model"]["vocab"] |= {"<": 265, "s": 266, ">": 267, "<s": 268}
    values["model"]["merges"] += [["<", "s"], ["<s", ">"]]
    ours = load.load(put(tmp_path, tokenizer__json=values))
    assert ours.encode("a<s>") == [263, 268, 267]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("Ġ t\nĠ t\n", "line 3|new one"),
        ("Ġ tt\n", "new one"),
        ("Ġ t t\nx y\n", "line 2"),
        ("Ġ t\n\udcff\n", "UTF-8"),
    ],
)
def test_damaged_merges(lines: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "merges.txt"
    path.write_bytes(f"#version: 0.2\n{lines}".encode("utf-8", "surrogateescape"))
    with pytest.raises(FathomError, match=said) as error:
        read_folder(tmp_path, ANY)
    assert str(path) in str(error.value)


def mutants(folder: Path, name: str, count: int) -> None:
    """Every mutant of one file of a folder: read, and used."""

    def read(path: Path) -> None:
        tokenizer = read_folder(folder, ANY)
        assert tokenizer is not None
        tokenizer.decode(tokenizer.encode("a bc, <s> é"))

    survive(read, folder / name, count)


FILES = ["byte_level", "byte_fallback", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"]


def damaged(what: str, count: int, folder: Path) -> None:
    byte_level = BPETokenizer.train(["a bc a bc"], 260).to_json()["tokenizer"]
    settings = {"eos_token": {"content": "</s>"}, "bos_token": "<s>", "add_bos_token": True}
    config = settings | {"chat_template": [{"name": "default", "template": "{{ messages }}"}]}
    put(folder, tokenizer_config__json=config, special_tokens_map__json=settings)
    if what in ("vocab.json", "merges.txt"):
        vocabulary = byte_letters() | {"Ġa": 256, "bc": 257, "<s>": 258, "</s>": 259}
        put(folder, vocab__json=vocabulary, merges__txt="#version: 0.2\nĠ a\nb c\n")
        return mutants(folder, what, count)
    values = byte_level if what == "byte_level" else tiny()
    name = "tokenizer.json" if what in ("byte_level", "byte_fallback") else what
    return mutants(put(folder, tokenizer__json=values), name, count)


@pytest.mark.parametrize("what", FILES)
def test_2_000_damaged_files_of_each_kind(what: str, tmp_path: Path) -> None:
    damaged(what, 2_000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("what", FILES)
def test_10_000_damaged_files_of_each_kind(what: str, tmp_path: Path) -> None:
    damaged(what, 10_000, tmp_path)
