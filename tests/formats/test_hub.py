"""The hub without a network: the library's own errors, each one line; its own files, each asked for once."""

import errno
import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from fathom.errors import FathomError
from fathom.formats.hub import fetch, is_hub_id


@pytest.mark.parametrize(
    "text",
    ["gpt2", "meta-llama/Llama-2-7b-hf", "a/b.c_d-e", "org/name@main", "gpt2@refs/pr/3", "org/name@v1.0", "x/7B_"],
)
def test_names_of_models(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "a/b/c", "/a/b", "./gpt2", "../gpt2", "a//b", "a/", "a b", "a/b@", "@main", "org/--x", "a--b", "a..b/c",
        "-a/b", "a/b.", "stories.bin", "runs/model.safetensors", "model.gguf", "x.git", "a\\b", "C:\\a", "ä/b", "a\nb",
        "a/b@../../x", "x" * 97,
    ],
)  # fmt: skip
def test_what_no_model_is_called(text: str) -> None:
    assert not is_hub_id(text)


def test_a_path_that_is_there_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gpt2").mkdir()
    assert not is_hub_id("gpt2") and is_hub_id("gpt3")


class Hub:
    """A repository of these files; what is fetched from it lands in a folder."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder, self.files, self.asked = folder, files, list[dict[str, Any]]()

    def snapshot_download(self, repo_id: str, **asked: Any) -> str:
        self.asked.append({"repo_id": repo_id, **asked})
        for file in self.files:
            wanted = any(fnmatch.fnmatch(file, pattern) for pattern in asked["allow_patterns"])
            if wanted and not any(fnmatch.fnmatch(file, pattern) for pattern in asked["ignore_patterns"]):
                (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / file).touch()
        return str(self.folder)


BESIDE = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
]
BESIDE += ["tokenizer.model", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "README.md"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
PICKLED = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
OTHER = ["original/consolidated.00.pth", "original/tokenizer.model", "onnx/model.onnx", "onnx/model.safetensors"]
OTHER += ["model-q4.gguf", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "USE_POLICY.md", "figure.png"]


@pytest.mark.parametrize(
    "files, wanted",
    [
        ([*BESIDE, *SHARDS, *PICKLED, *OTHER], {*BESIDE, *SHARDS}),
        ([*BESIDE, "model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], {*BESIDE, "model.safetensors"}),
        ([*BESIDE, *PICKLED, *OTHER], {*BESIDE, *PICKLED}),
        ([*BESIDE, "pytorch_model.bin", "training_args.bin"], {*BESIDE, "pytorch_model.bin"}),
        ([*BESIDE, "weights.safetensors"], {*BESIDE, "weights.safetensors"}),
    ],
)
def test_only_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], wanted: set[str]
) -> None:
    hub = Hub(tmp_path, files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    assert fetch("org/name@v2") == tmp_path
    assert {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()} == wanted
    assert {(asked["repo_id"], asked["revision"]) for asked in hub.asked} == {("org/name", "v2")}


def test_a_repository_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub(tmp_path, [*BESIDE, *OTHER]).snapshot_download)
    with pytest.raises(FathomError, match="holds no safetensors and no pytorch_model"):
        fetch("org/name")


def http(kind: type[Exception]) -> Exception:
    """An error of the hub, without the answer that it came with: that is of whichever library speaks HTTP."""
    return kind.__new__(kind, "said")


@pytest.mark.parametrize(
    "problem, says",
    [
        (http(errors.RepositoryNotFoundError), "found neither locally nor on the hub; check its spelling"),
        (http(errors.GatedRepoError), "accept their terms.*hf auth login"),
        (http(errors.RevisionNotFoundError), "this revision is not; leave @revision out"),
        (errors.LocalEntryNotFoundError("offline"), "the hub cannot be reached; connect to the network"),
        (errors.OfflineModeIsEnabled("offline"), "unset HF_HUB_OFFLINE"),
        (ConnectionError("refused"), "the hub cannot be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free space or set HF_HOME"),
        (http(errors.HfHubHTTPError), "could not be fetched .HfHubHTTPError"),
        (RuntimeError("x" * 5000), "could not be fetched"),
        (ValueError("a long\nanswer"), "could not be fetched .ValueError: a long answer.; run this again"),
    ],
)
def test_every_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, problem: Exception, says: str) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise problem

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FathomError, match=says) as caught:
        fetch("org/name@v2")
    assert str(caught.value).startswith("org/name@v2: ") and len(str(caught.value)) < 400


def test_what_is_in_the_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself, told that there is no network, over a cache as it lays it out."""
    commit = "0123456789" * 4
    snapshot = tmp_path / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text(commit)
    for file in ("config.json", "model.safetensors"):
        (snapshot / file).touch()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch("org/name") == snapshot.resolve()
    with pytest.raises(FathomError, match="org/other: not found locally and not fully downloaded"):
        fetch("org/other")


def test_what_is_no_name_is_not_asked_for() -> None:
    with pytest.raises(FathomError, match=r"'\.\./x' is not a model's name on the hub"):
        fetch("../x")
