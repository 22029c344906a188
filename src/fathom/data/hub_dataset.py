"""Data sets of the Hugging Face hub, by name: `org/name`, perhaps `org/name@revision/folder`, and their Parquet files.

A file is fetched when its turn has come; the revision is fixed when the list is read, so that all of them fit together.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.data.record_files import PARQUET
from fathom.data.splits import TRAIN, split_of
from fathom.errors import FathomError

WORD = r"[A-Za-z0-9][\w.-]*"
ID = re.compile(rf"(?P<repo>{WORD}/{WORD})(@(?P<revision>[\w.-]+))?(/(?P<folder>[\w./-]+))?", re.ASCII)
FILE = re.compile(r".*\.(txt|text|md|jsonl?|ndjson|parquet|gz|zst|csv)", re.I)


def is_dataset(name: str) -> bool:
    """Whether this can be a data set's name on the hub, and is no path on this disk, or a mistyped one."""
    if ID.fullmatch(name) is None or FILE.fullmatch(name) or ".." in name:
        return False
    return not Path(Path(name).parts[0]).exists()


@dataclass(frozen=True)
class Dataset:
    """A data set at one revision, and its Parquet files with their bytes."""

    repo: str
    revision: str
    files: tuple[tuple[str, int], ...]

    @property
    def id(self) -> str:
        return f"{self.repo}@{self.revision}"

    @classmethod
    def find(cls, name: str) -> "Dataset":
        """Ask the hub. FathomError: it cannot be reached, or has no such data set or no Parquet files in it."""
        match = ID.fullmatch(name)
        if match is None:
            raise FathomError(f"{name!r} is no data set's name on the hub; expected org/name or org/name@revision")
        with _one_line(name):
            import huggingface_hub  # here: it is slow to import, and most data are on disk

            api = huggingface_hub.HfApi()
            about = api.dataset_info(match["repo"], revision=match["revision"], files_metadata=True, timeout=30)
        folder = f"{match['folder'].strip('/')}/" if match["folder"] else ""
        found = {file.rfilename: file.size or 0 for file in about.siblings or []}
        names = sorted(file for file in found if file.startswith(folder) and file.lower().endswith(PARQUET))
        names = [file for file in names if split_of(file.removeprefix(folder)) in (None, TRAIN)]
        if not names:
            kinds = sorted({Path(file).suffix for file in found if Path(file).suffix})
            raise FathomError(
                f"{name}: no {PARQUET} files to learn from, only {', '.join(kinds) or 'nothing'}; many data sets have"
                f" them in their revision refs/convert/parquet, or download its files and give their folder"
            )
        return cls(match["repo"], str(about.sha), tuple((file, found[file]) for file in names))


@contextmanager
def fetched(dataset: str, name: str, folder: Path, keep: bool) -> Iterator[Path]:
    """A file of a data set, `org/name@revision`, on this disk while the block runs.

    It lies in `folder`, which is removed; keep: in the hub's own cache, where it stays.
    """
    repo, _, revision = dataset.partition("@")
    try:
        with _one_line(f"{repo}/{name}"):
            import huggingface_hub

            place: dict[str, Any] = {} if keep else {"local_dir": folder}
            path = huggingface_hub.hf_hub_download(repo, name, repo_type="dataset", revision=revision, **place)
        yield Path(path)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as problem:  # its own, the HTTP library's or the system's
        raise FathomError(f"{name}: {_advice(problem)}") from problem


def _advice(problem: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(problem, errors.GatedRepoError):
        return "its authors ask you to accept their terms; do so on its page on the hub, then run `hf auth login`"
    if isinstance(problem, errors.RepositoryNotFoundError):
        return "no file or folder, and no data set on the hub; check its spelling, or run `hf auth login`"
    if isinstance(problem, errors.RevisionNotFoundError):
        return "the data set is on the hub, this revision is not; leave @revision out or give a branch, tag or commit"
    refused = isinstance(problem, errors.HfHubHTTPError)
    if isinstance(problem, OSError) and problem.errno == errno.ENOSPC:
        return "the disk is full; make room and run this again to go on"
    if not refused and (isinstance(problem, OSError) or "connect" in type(problem).__name__.lower()):
        return (
            "no file or folder of this name, and the hub, which may have such a data set, cannot be reached; connect to"
            " the network, unset HF_HUB_OFFLINE, or give files on this disk"
        )
    message = " ".join(str(problem).split())[:200]
    return f"could not be fetched ({type(problem).__name__}: {message}); run this again to go on"
