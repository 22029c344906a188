"""Where each name is computed in a running model, and hooks that exist only while look() or edit() is active.

Nearly every name is the output of the module of that name; PLACES lists the others. Edits come before recordings.
Passes of another thread or another model are neither recorded nor changed.
"""

import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fathom.anatomy.swap import swap
from fathom.errors import FathomError
from fathom.inspect.names import Size, names
from fathom.model import tap
from fathom.model.attention import Attention, Soft, attend
from fathom.model.cache import NoCache
from fathom.model.mlp import ExpertsMLP
from fathom.model.transformer import Transformer

PLACES = {  # name (in a block: what follows blocks.L): its module, and whether it is that module's input
    "position": ("position.table", False),
    "logits": ("unembed", False),
    ".resid_pre": ("", True),
    ".attn.z": (".attn.out", True),
    ".resid_mid": (".join", False),  # the output of the first of its two calls
    ".mlp.act": (".mlp.down", True),
}
TAPPED = (".attn.q_rot", ".attn.k_rot")
DERIVED = (".attn.scores", ".attn.pattern")
ROUTED = (".mlp.weights", ".mlp.tokens")  # what follows from the scores of a router


class Watcher:
    """Receives the tensors of the chosen names. The model continues with what `see` returns."""

    reads = True  # False: changes tensors, so it is called before those that read

    def __init__(self, chosen: Collection[str]) -> None:
        self.chosen = dict.fromkeys(chosen)  # a set that keeps its order

    def begin(self, size: Size, itemsize: int) -> None:
        """Called when a pass of this size begins, with activations of `itemsize` bytes a number."""

    def see(self, name: str, x: Tensor) -> Tensor:
        return x

    def attended(self, path: str, q: Tensor, k: Tensor, visible: Tensor | None, soft: Soft | None = None) -> None:
        """Called with what the attention at `path` compares: rotated q (b, h, t, c), the keys k (b, g, s, c) so far,
        which of them are visible, and the soft cap of their scores."""

    def routed(self, path: str, mlp: ExpertsMLP, scores: Tensor) -> None:
        """Called with the scores (b, t, e) by which the experts at `path` are chosen."""


@contextmanager
def watching(model: Transformer, watcher: Watcher) -> Iterator[None]:
    """Pass the tensors of every pass of `model` in this thread to `watcher`; afterwards the model is unchanged."""
    hooks = Hooks.with_watcher(model, watcher)
    try:
        hooks.install()
        yield
    finally:
        hooks.remove(watcher)


class Hooks:
    """The hooks in the one watched model, shared by all its watchers."""

    lock = threading.Lock()
    current: "Hooks | None" = None  # one per process

    def __init__(self, model: Transformer) -> None:
        self.model, self.thread, self.size = model, threading.get_ident(), Size(1, 1, 1)
        self.letters = names(model.config)
        self.watchers: list[Watcher] = []
        self.undo = ExitStack()

    @classmethod
    def with_watcher(cls, model: Transformer, watcher: Watcher) -> "Hooks":
        """The active hooks, or new ones, with one more watcher. One model, one thread and one recording at a time."""
        with cls.lock:
            hooks = cls.current or cls(model)
            if hooks.model is not model or not hooks.here() or any(w.reads and watcher.reads for w in hooks.watchers):
                where = "" if hooks.here() else " in another thread"
                what = "" if hooks.model is model else " of another model"
                raise FathomError(
                    f"another look(){what} is active{where}; leave that `with` first, or give one look() all patterns"
                )
            hooks.watchers = sorted([*hooks.watchers, watcher], key=lambda w: w.reads)
            cls.current = hooks
            return hooks

    def remove(self, watcher: Watcher) -> None:
        self.watchers = [w for w in self.watchers if w is not watcher]
        self.install()
        if not self.watchers:
            Hooks.current = None

    def install(self) -> None:
        """Remove all hooks and register those that the current watchers need."""
        self.undo.close()
        if not self.watchers:
            return
        if "torch._dynamo" in sys.modules:  # the model may be compiled: run its plain modules
            self.undo.enter_context(torch.compiler.set_stance("force_eager"))
        self._hook_hidden()
        chosen = {split(name) for watcher in self.watchers for name in watcher.chosen}
        if any(name in TAPPED for _, name in chosen):
            self._hook_taps()
        for block in {block for block, name in chosen if name in DERIVED}:
            self._hook_attend(f"{block}.attn")
        for block, name in chosen:
            if name not in TAPPED + DERIVED + ROUTED:
                self._hook_module(block, name)
        for block in {block for block, name in chosen if name in ROUTED}:  # after edits of the scores
            self._hook_router(f"{block}.mlp")

    def here(self) -> bool:
        return threading.get_ident() == self.thread

    def see(self, name: str, x: Tensor) -> Tensor:
        """x after every watcher of `name`, one after another."""
        if not self.here():
            return x
        for watcher in self.watchers:
            if name in watcher.chosen:
                x = watcher.see(name, x)
        return x

    def _hook_hidden(self) -> None:
        """Tell every watcher when a pass begins and how large it is."""
        plain = partial(Transformer.hidden, self.model)  # block by block, even where the model has a faster path

        def hidden(ids: Tensor, cache: NoCache | None = None) -> Tensor:
            if self.here():
                past = 0 if cache is None else cache.length
                self.size = Size(ids.shape[0], ids.shape[1], past + ids.shape[1])
                for watcher in self.watchers:
                    watcher.begin(self.size, self.model.embed.weight.element_size())
            return plain(ids, cache)

        self._replace(self.model, "hidden", hidden)

    def _hook_taps(self) -> None:
        """Listen to rotated q and k, which are not the output of a module."""
        paths = {block.attn: f"blocks.{layer}.attn" for layer, block in enumerate(self.model.blocks)}

        def listen(owner: nn.Module, name: str, x: Tensor) -> Tensor:  # (b, h, t, c) -> (b, h, t, c)
            return self._show(f"{paths[owner]}.{name}", x, swap_heads, swap_heads) if owner in paths else x

        tap.listener = listen
        self.undo.callback(setattr, tap, "listener", None)

    def _hook_attend(self, path: str) -> None:
        """Show scores and pattern. Watchers that only read get q and k, and the kernel in use runs; an edit sends the
        layer down the explicit path."""
        attn = self.model.get_submodule(path)
        assert isinstance(attn, Attention)
        plain = attn.attend
        derived = {f"{path}.scores", f"{path}.pattern"}
        edited = any(not w.reads and derived & set(w.chosen) for w in self.watchers)

        def attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float, **soft: Soft) -> Tensor:
            if not self.here():
                return plain(q, k, v, visible, dropout, **soft)
            if edited:
                return attend(q, k, v, visible, dropout, lambda name, x: self.see(f"{path}.{name}", x), **soft)
            for watcher in self.watchers:
                if derived & set(watcher.chosen):
                    watcher.attended(path, q, k, visible, **soft)
            return plain(q, k, v, visible, dropout, **soft)

        self.undo.callback(swap(self.model, attend=attention, names=[path]).undo)

    def _hook_router(self, path: str) -> None:
        """Show how the experts at this path are used."""
        mlp, wanted = self.model.get_submodule(path), {path + name.removeprefix(".mlp") for name in ROUTED}
        assert isinstance(mlp, ExpertsMLP)

        def routed(_: nn.Module, args: object, scores: Tensor) -> None:
            for watcher in self.watchers if self.here() else ():
                if wanted & set(watcher.chosen):
                    watcher.routed(path, mlp, scores)

        self._undo_later(mlp.router.register_forward_hook(routed))

    def _hook_module(self, block: str, name: str) -> None:
        """Show the output of the module of this name, or the input or output that PLACES names."""
        path, reads = PLACES.get(name, (name, False))
        module = self.model.get_submodule(block + path)
        view, back = self._views(block + name)
        if reads:
            self._undo_later(
                module.register_forward_pre_hook(
                    lambda _, args: (self._show(block + name, args[0], view, back), *args[1:])
                )
            )
        elif name == ".resid_mid":
            self._hook_first_join(block, module)
        else:
            self._undo_later(
                module.register_forward_hook(lambda _, args, out: self._show(block + name, out, view, back))
            )

    def _hook_first_join(self, block: str, join: nn.Module) -> None:
        """A block joins twice, after attn and after mlp; the first gives resid_mid."""
        next_is_first = threading.local()

        def enter(*_: object) -> None:
            next_is_first.value = True

        def joined(_: nn.Module, args: object, out: Tensor) -> Tensor:
            first, next_is_first.value = getattr(next_is_first, "value", False), False
            return self.see(f"{block}.resid_mid", out) if first else out

        self._undo_later(self.model.get_submodule(block).register_forward_pre_hook(enter))
        self._undo_later(join.register_forward_hook(joined))

    def _show(self, name: str, x: Tensor, view: "View", back: "View") -> Tensor:
        """Show x in the shape of its name; returns x itself where no watcher changed it."""
        shown = view(x)
        seen = self.see(name, shown)
        return x if seen is shown else back(seen)

    def _views(self, name: str) -> tuple["View", "View"]:
        """From a module's shape to that of the name, and back."""
        c = self.model.config.head_dim
        if self.letters[name][-1] == "c":  # (b, t, h * c) <-> (b, t, h, c)
            return (lambda x: x.unflatten(-1, (-1, c))), (lambda x: x.flatten(-2))
        if name == "position":  # (t, d) or (b, t, d) -> (b, t, d)
            return (lambda x: x.expand(self.size.batch, -1, -1)), identity
        return identity, identity

    def _replace(self, owner: nn.Module, name: str, function: Callable[..., Tensor]) -> None:
        """Set owner.name, and restore it on undo: the owner's own attribute or its class's."""
        own = vars(owner)
        self.undo.callback(own.update, {name: own[name]}) if name in own else self.undo.callback(own.pop, name)
        own[name] = function

    def _undo_later(self, handle: torch.utils.hooks.RemovableHandle) -> None:
        self.undo.callback(handle.remove)


View = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    return x


def swap_heads(x: Tensor) -> Tensor:  # (b, h, t, c) <-> (b, t, h, c)
    return x.transpose(1, 2)


def split(name: str) -> tuple[str, str]:
    """("blocks.3", ".attn.z") of "blocks.3.attn.z"; ("", name) outside the blocks."""
    match = re.fullmatch(r"(blocks\.\d+)?(.*)", name)
    return ("", name) if match is None else (match[1] or "", match[2])
