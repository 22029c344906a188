"""A cache in pages (Kwon et al. 2023): rows of any length side by side, and a text that was read once found again.

Memory for PAGE tokens at a time is lent to rows, whose page tables say where each PAGE of their tokens lie. A full page
is known by a hash of all tokens up to its end, so that another row with the same beginning shares it. Knows no text
and no order of requests; layers with a window keep all their keys, and the mask hides those outside.
"""

import hashlib
import math
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fathom.errors import ContextOverflow, FathomError
from fathom.machine import free_memory
from fathom.model.cache import NoCache
from fathom.model.config import ModelConfig
from fathom.model.position import original_context
from fathom.native.panels import Arena
from fathom.words import counted

PAGE = 16  # tokens of a page: the lanes of native code


def pages_for(tokens: int) -> int:
    """How many pages hold this many tokens."""
    return -(-tokens // PAGE)


def beginning(adapter: str | None, stretched: bool = False) -> bytes:
    """The digest of an empty text: the keys of the same tokens are others with an adapter, or rotated otherwise."""
    name = b"" if adapter is None else b"+" + adapter.encode("utf-8")
    return hashlib.blake2b(bytes([stretched]) + name, digest_size=32).digest()


def digest(parent: bytes, ids: Sequence[int]) -> bytes:
    """Of a page with these tokens, after a text with the digest `parent`."""
    return hashlib.blake2b(parent + struct.pack(f"<{len(ids)}q", *ids), digest_size=32).digest()


def digests(ids: Sequence[int], begin: bytes) -> list[bytes]:
    """Of every full page of a text. begin: that of the empty text, see `beginning`."""
    found = [begin]
    for start in range(0, len(ids) - PAGE + 1, PAGE):
        found.append(digest(found[-1], ids[start : start + PAGE]))
    return found[1:]


class Ledger:
    """Who uses which page. A page is free, lent to one or more rows, or kept: used by none, and found by its digest.

    Kept pages are the first to be lent anew, the least recently used ones before all others.
    """

    def __init__(self, n_pages: int) -> None:
        self.n_pages = n_pages
        self.users = [0] * n_pages
        self.free = list(reversed(range(n_pages)))
        self.kept: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self.names: dict[int, bytes] = {}  # of pages that can be found
        self.places: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """How many pages can be lent now."""
        return len(self.free) + len(self.kept)

    @property
    def used(self) -> int:
        return self.n_pages - self.available

    def take(self, count: int) -> list[int]:
        """Pages with nothing in them, each with one user. FathomError where there are fewer; then none is taken."""
        if count > self.available:
            raise FathomError(
                f"the cache has {counted(self.available, 'free page')} of {self.n_pages:,} and {count:,} are needed;"
                " end a text first"
            )
        pages = [self.free.pop() if self.free else self.oldest() for _ in range(count)]
        for page in pages:
            self.users[page] = 1
        return pages

    def oldest(self) -> int:
        """The least recently used of the kept pages, forgotten."""
        page, _ = self.kept.popitem(last=False)
        del self.places[self.names.pop(page)]
        return page

    def find(self, names: Iterable[bytes]) -> list[int]:
        """The pages of the longest beginning that is there; they are not taken yet."""
        pages = []
        for name in names:
            if (page := self.places.get(name)) is None:
                break
            pages.append(page)
        return pages

    def kept_among(self, pages: Sequence[int]) -> int:
        """How many of these are used by none: sharing them makes fewer available."""
        return sum(page in self.kept for page in pages)

    def share(self, pages: Sequence[int]) -> None:
        """One more user for each."""
        for page in pages:
            self.users[page] += 1
            self.kept.pop(page, None)

    def name(self, page: int, name: bytes) -> None:
        """Let a full page be found. Where another one has the same text, that one is."""
        if name not in self.places and page not in self.names:
            self.places[name], self.names[page] = page, name

    def forget(self, pages: Sequence[int]) -> None:
        """Let these be found no more: what is in them is wrong."""
        for page in pages:
            if (name := self.names.pop(page, None)) is not None:
                del self.places[name]
            if page in self.kept:
                del self.kept[page]
                self.free.append(page)

    def give_back(self, pages: Sequence[int]) -> None:
        """One user less for each of a row's pages, in their order: its end is forgotten before its beginning."""
        for page in reversed(pages):
            assert self.users[page] > 0, f"page {page} is given back by a row that does not have it"
            self.users[page] -= 1
            if self.users[page] == 0 and page in self.names:
                self.kept[page] = None
            elif self.users[page] == 0:
                self.free.append(page)


class Pages:
    """Memory for keys and values of many texts, for all layers, reserved as a whole: `tokens`, in pages of PAGE.

    keys: (n_layer, n_pages, g, c, PAGE), channel by channel, so that a page's keys lie side by side; in bf16
    (n_layer, n_pages, g, c / 2, PAGE, 2), in words of two channels as native dot products read them (an odd c: as
    others). values: (n_layer, n_pages, g, PAGE, c).
    """

    def __init__(
        self,
        config: ModelConfig,
        tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """FathomError where there is no memory for so many tokens."""
        config, n_pages = config.resolved(), pages_for(tokens)
        g, c = config.n_kv_head, config.head_dim
        self.device = torch.device(device)
        fits(page_bytes(config, dtype), n_pages, self.device)
        self.paired = dtype == torch.bfloat16 and c % 2 == 0
        inside = (c // 2, PAGE, 2) if self.paired else (c, PAGE)
        self.keys = zeros((config.n_layer, n_pages, g, *inside), dtype, self.device)
        self.values = zeros((config.n_layer, n_pages, g, PAGE, c), dtype, self.device)
        self.windows = [config.layers.window_of(layer) for layer in range(config.n_layer)]
        scaling = config.rope.scaling if config.position == "rope" else None
        longrope = scaling is not None and scaling.kind == "longrope"
        self.original = original_context(config) if longrope else None  # longer texts are rotated otherwise
        self.ledger = Ledger(n_pages)

    @property
    def n_pages(self) -> int:
        return self.ledger.n_pages

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def stretched(self, length: int) -> bool:
        """Whether a text of this length is rotated otherwise than a short one, from its first token on."""
        return self.original is not None and length > self.original

    def write(self, layer: int, place: tuple[Tensor, Tensor], k: Tensor, v: Tensor) -> None:
        """Store k and v (b, t, g, c) at these pages and places in them, (b, t) each."""
        page, slot = place
        if self.paired:
            self.keys[layer][page, :, :, slot] = k.unflatten(-1, (-1, 2)).to(self.keys.dtype)  # (b, t, g, c/2, 2)
        else:
            self.keys[layer][page, :, :, slot] = k.to(self.keys.dtype)  # (b, t, g, c)
        self.values[layer][page, :, slot] = v.to(self.values.dtype)  # (b, t, g, c)

    def copy(self, page: int, to: int) -> None:
        """All that is in a page, in all layers."""
        self.keys[:, to], self.values[:, to] = self.keys[:, page], self.values[:, page]

    def read(self, layer: int, place: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values (b, g, s, c) at these pages and places in them, (b, s) each."""
        page, slot = place
        k, v = self.keys[layer][page, :, :, slot], self.values[layer][page, :, slot]
        k = k.flatten(-2) if self.paired else k
        return k.transpose(1, 2), v.transpose(1, 2)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. On a CPU the system hands them out as they are first written, so that nobody waits for gigabytes."""
    nbytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or not nbytes:
        return torch.zeros(shape, dtype=dtype, device=device)
    return Arena(nbytes).take(shape, dtype)  # new memory is zero


def page_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Of one page, in all layers."""
    config = config.resolved()
    return 2 * config.n_layer * config.n_kv_head * config.head_dim * PAGE * dtype.itemsize


def fits(each: int, n_pages: int, device: torch.device) -> None:
    """FathomError where there is no memory for so many pages of so many bytes."""
    needed, free = each * n_pages, free_memory(device)
    if device.type != "meta" and free is not None and needed > free:
        raise FathomError(
            f"a cache of {n_pages * PAGE:,} tokens needs {needed / 2**20:,.0f} MiB ({n_pages:,} pages of"
            f" {each / 2**10:,.0f} KiB) and {free / 2**20:,.0f} MiB are free, which hold"
            f" {free // each * PAGE:,} tokens; ask for fewer"
        )


class PagedCache(NoCache):
    """The past of some rows for one pass, in which each reads t more tokens: their pages and lengths.

    tables: (b, most pages of a row), unused entries 0. lengths: (b,) tokens read so far. horizon: the length of the
    longest of their texts, where it comes in pieces. Keys are given right-aligned: the last of s are the new ones.
    """

    def __init__(self, pages: Pages, tables: Sequence[Sequence[int]], lengths: Sequence[int], horizon: int = 0) -> None:
        super().__init__(pages.device)
        self.pages, self.length, self.horizon = pages, max(lengths), horizon
        width = max(map(len, tables))
        full = [[*table, *[0] * (width - len(table))] for table in tables]
        self.tables = torch.tensor(full, dtype=torch.int64, device=self.device).view(len(full), width)
        self.lengths = torch.tensor(lengths, dtype=torch.int64, device=self.device)
        self.room = min(len(table) * PAGE - length for table, length in zip(tables, lengths))

    @property
    def stretched(self) -> bool:
        """Whether these rows are rotated as long texts of longrope are. Rows of both kinds share no pass."""
        return self.pages.stretched(max(self.length, self.horizon))

    def positions(self, t: int) -> Tensor:  # (b, t)
        return self.lengths[:, None] + torch.arange(t, device=self.device)

    def keys(self, t: int, window: int | None = None) -> int:
        first = 0 if window is None else max(0, self.length - window + 1)
        return self.length - first + t

    def places(self, t: int, window: int | None) -> Tensor:
        """(b, s) the positions of the keys that `append` gives; below 0 there is none."""
        s = self.keys(t, window)
        return self.lengths[:, None] + torch.arange(t - s, t, device=self.device)

    def visible(self, t: int, window: int | None = None) -> Tensor | None:
        """(b, 1, t, s); None for a single row whose queries see all up to their own."""
        if len(self.lengths) == 1 and (window is None or self.keys(t) <= window):
            return None
        key, query = self.places(t, window)[:, None, None, :], self.positions(t)[:, None, :, None]
        seen = (key >= 0) & (key <= query)
        return seen if window is None else seen & (key > query - window)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (b, g, t, c); returns those of all that may be seen (b, g, s, c). Where a row has fewer, its
        first ones stand in their place, which the mask hides."""
        t = k.shape[2]
        self.require_room(t)
        k, v = k.detach(), v.detach()
        self.pages.write(layer, self.where(self.positions(t)), k.transpose(1, 2), v.transpose(1, 2))
        return self.pages.read(layer, self.where(self.places(t, self.pages.windows[layer]).clamp(min=0)))

    def where(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The page of each of these positions (b, n), and the place in it."""
        return self.tables.gather(1, positions // PAGE), positions % PAGE

    def require_room(self, t: int) -> None:
        """ContextOverflow where t more tokens of a row do not fit in its pages."""
        if t > self.room:
            raise ContextOverflow(f"{t} tokens are to be read and the pages of a row have room for {self.room} more")

    def advance(self, t: int) -> None:
        self.lengths, self.length, self.room = self.lengths + t, self.length + t, self.room - t
