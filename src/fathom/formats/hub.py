"""A model on the Hugging Face hub, by its name: the required files are fetched once into the hub's own cache.

huggingface_hub resumes downloads and respects tokens and HF_* settings; whatever fails there is one line here. A model
in the cache needs no network.
"""

import errno
import re
from pathlib import Path

from fathom.errors import FathomError

DESCRIPTION = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
    "chat_template.json", "README.md", "quantize_config.json", "quant_config.json",
]  # fmt: skip
WEIGHTS = [  # the first of these that a repository has
    ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"],
    ["pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"],
    ["*.safetensors"],
]
ELSEWHERE = ["*/*"]  # original/, onnx/ and the like: the same model once more
PART = r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9_])?"
ID = re.compile(rf"(?P<repo>({PART}/)?{PART})(@(?P<revision>[\w./-]+))?", re.ASCII)
FILE = re.compile(r".*\.(bin|gguf|git|json|model|pt|pth|safetensors|txt|ya?ml)")


def is_hub_id(text: str) -> bool:
    """Whether `text` can be the name of a model on the hub: `name` or `org/name`, perhaps with `@revision`."""
    match = ID.fullmatch(text)
    if match is None or Path(text).exists():
        return False
    repo = match["repo"]
    return len(repo) <= 96 and "--" not in repo and ".." not in text and not FILE.fullmatch(repo)


def fetch(repo_id: str) -> Path:
    """The folder in the hub's cache of the model `org/name` or `org/name@revision`, fetched where it is missing."""
    match = ID.fullmatch(repo_id)
    if match is None or not is_hub_id(repo_id):
        raise FathomError(f"{repo_id!r} is not a model's name on the hub; expected name, org/name or org/name@revision")
    for weights in WEIGHTS:
        folder = _snapshot(match["repo"], match["revision"], DESCRIPTION + weights)
        if any(any(folder.glob(pattern)) for pattern in weights):
            return folder
    raise FathomError(
        f"{repo_id} on the hub holds no safetensors and no pytorch_model.bin; download a file of"
        " weights and give its path"
    )


def _snapshot(repo: str, revision: str | None, patterns: list[str]) -> Path:
    import huggingface_hub  # here: it is slow to import, and most models are on disk

    try:
        folder = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=patterns, ignore_patterns=ELSEWHERE
        )
    except Exception as problem:  # its own, the HTTP library's or the system's
        raise FathomError(f"{repo}{f'@{revision}' if revision else ''}: {_advice(problem)}") from problem
    return Path(folder)


def _advice(problem: Exception) -> str:
    """What went wrong and what to do about it, in a line."""
    from huggingface_hub import errors

    if isinstance(problem, errors.GatedRepoError):
        return "its authors ask you to accept their terms; do so on its page on the hub, then run `hf auth login`"
    if isinstance(problem, errors.RepositoryNotFoundError):
        return "found neither locally nor on the hub; check its spelling, or run `hf auth login` if it is private"
    if isinstance(problem, errors.RevisionNotFoundError):
        return "the model is on the hub, this revision is not; leave @revision out or give a branch, tag or commit"
    if isinstance(problem, errors.LocalEntryNotFoundError | ConnectionError):
        return (
            "not found locally and not fully downloaded, and the hub cannot be reached; connect to the network,"
            " unset HF_HUB_OFFLINE, or give the path of a model on disk"
        )
    if isinstance(problem, OSError) and problem.errno == errno.ENOSPC:
        return "the disk is full; free space or set HF_HOME to a folder elsewhere, then run this again to resume"
    message = " ".join(str(problem).split())[:200]
    return f"could not be fetched ({type(problem).__name__}: {message}); run this again to resume"
