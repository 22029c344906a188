"""One way to change a model from outside: parts of a kind are exchanged for others, and the exchange can be undone.

    with swap(model, {GeluMLP: Mine}): ...  # every GeluMLP computes as Mine, a subclass of it, until the block ends
    swapped = swap(model, attend=mine)      # every Attention calls this function, until swapped.undo()

A kind is an exact class. A part that descends from a kind may compute something else: it is refused, not exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fathom.errors import FathomError, near
from fathom.model.attention import Attention
from fathom.words import article

Kind = type[nn.Module]
New = Kind | Callable[[Any], nn.Module]  # a subclass of the kind, or what makes a new part of an old one
HOOKS = [name for name in vars(nn.Module()) if name.startswith(("_forward", "_backward", "_is_full_backward"))]


def swap(
    model: nn.Module,
    kinds: Mapping[Kind, New] | None = None,
    *,
    attend: Callable[..., Tensor] | None = None,
    names: str | Iterable[str] | None = None,
) -> Swap:
    """Exchange parts of a model for others, of your own for instance: every part of a kind, or those called `names`.

        >>> with fathom.swap(model, attend=my_attention):  # what every Attention calls, until the block ends
        ...     model(ids)

    kinds: {kind: new}. A subclass of the kind with the same constructor takes the part over as it is: one object, with
    its parameters, children and hooks, whose class is now another. Anything else is called with the old part and
    returns the new one, which gets the old one's hooks, device and training flag. FathomError, and nothing changed:
    a part descends from a kind or has a `forward` of its own, there is no part of a kind, or `new` failed.
    """
    kinds = kinds or {}
    check_call(kinds, attend, names)
    matches = matching(model, {*kinds, *([Attention] if attend else [])}, [names] if isinstance(names, str) else names)
    swapped = Swap(model, list(matches))
    try:
        inner_first = sorted(matches, key=lambda name: name.count("."), reverse=True)
        for part in dict.fromkeys(matches[name] for name in inner_first):
            kind, places = type(part), [name for name, each in matches.items() if each is part]
            if kind in kinds:
                part = swapped.exchange(places, part, kinds[kind])
            if kind is Attention and attend:
                swapped.set_attend(places, part, attend)
    except BaseException:
        swapped.undo()
        raise
    return swapped


class Swap:
    """What was exchanged, by `names`. As a context manager it is undone at the end."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self.model, self.names = model, names
        self.changes: list[tuple[str, Callable[[], bool], Callable[[], object], Callable[[], object]]] = []
        # of each: where, whether it is still so, how to undo it, how to do it again

    def undo(self) -> None:
        """Put everything back, to the same objects. FathomError, and nothing changed, where a part has been exchanged
        again since."""
        undone: list[Callable[[], object]] = []
        for name, unchanged, restore, repeat in reversed(self.changes):
            if not unchanged():
                for again in reversed(undone):
                    again()
                raise FathomError(f"{name} has been exchanged again since; undo that first")
            restore()
            undone.append(repeat)
        self.changes.clear()

    def __enter__(self) -> Swap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        try:
            self.undo()
        except FathomError as problem:
            if error is None:
                raise
            error.add_note(str(problem))  # the error of the block is the one to see

    def exchange(self, places: list[str], old: nn.Module, new: New) -> nn.Module:
        """Put what `new` means in all places of the old part."""
        kind = type(old)
        if isinstance(new, type) and issubclass(new, kind) and new.__init__ is kind.__init__:
            old.__class__ = new
            self.changes.append(
                (
                    places[0],
                    lambda: type(old) is new,
                    lambda: setattr(old, "__class__", kind),
                    lambda: setattr(old, "__class__", new),
                )
            )
            return old
        part = settled(built(new, old, places[0]), old)

        model = self.model  # no closure holds this Swap itself: with the last reference to it the old parts are freed

        def put(there: nn.Module) -> None:
            exchange_hooks(old, part)
            for name in places:
                model.set_submodule(name, there)

        put(part)
        self.changes.append((places[0], lambda: named(model, places[0]) is part, lambda: put(old), lambda: put(part)))
        return part

    def set_attend(self, places: list[str], part: nn.Module, attend: Callable[..., Tensor]) -> None:
        """Let this attention call another function."""
        before, part.attend = part.attend, attend  # type: ignore[assignment]
        self.changes.append(
            (
                places[0],
                lambda: part.attend is attend,
                lambda: setattr(part, "attend", before),
                lambda: setattr(part, "attend", attend),
            )
        )


def check_call(kinds: Mapping[Kind, New], attend: object, names: object) -> None:
    """FathomError for a call that names nothing, or something that cannot be put in."""
    if not kinds and attend is None:
        raise FathomError("nothing to swap: give {kind: new}, such as {GeluMLP: MyMLP}, or attend=function")
    if isinstance(attend, nn.Module) or (attend is not None and not callable(attend)):
        raise FathomError(
            f"attend is {article(type(attend).__name__)}; expected a function with the arguments of `attend`"
        )
    for kind, new in kinds.items():
        if not isinstance(kind, type) or not issubclass(kind, nn.Module) or not callable(new):
            raise FathomError(f"{kind!r}: {new!r}; expected {{class of a part: a subclass, or a function of the part}}")


def built(new: New, old: nn.Module, place: str) -> nn.Module:
    """What `new` makes of the old part. FathomError where that is no module."""
    try:
        part = new(old)
    except FathomError as error:
        raise FathomError(f"{place}: {error}") from None
    except (TypeError, AttributeError) as error:
        if not isinstance(new, type):
            raise
        raise FathomError(
            f"{place}: {new.__name__} has a constructor of its own, which cannot take the old part ({error}); give a"
            f" function of the old part, such as lambda old: {new.__name__}(...)"
        ) from error
    if not isinstance(part, nn.Module):
        raise FathomError(f"{place}: the function returned {type(part).__name__}; expected an nn.Module")
    return part


def kind_of(part: nn.Module) -> Kind | None:
    """The class whose `forward` this part runs; None where it has one of its own."""
    return None if "forward" in vars(part) else type(part)


def what_is(name: str, part: nn.Module) -> str:
    """`blocks.0.mlp is a MyMLP`: a part that is not what is expected."""
    return f"{name} is {article(type(part).__name__)}{' with a forward of its own' if kind_of(part) is None else ''}"


def parts(model: nn.Module, *kinds: Kind) -> list[str]:
    """Names of the parts of exactly these kinds, in the model's order; all others are left out, and none refused."""
    return [name for name, part in model.named_modules() if kind_of(part) in kinds]


def matching(model: nn.Module, kinds: set[Kind], names: Iterable[str] | None) -> dict[str, nn.Module]:
    """All parts that are or descend from these kinds, or those called `names`. FathomError unless each is of a kind."""
    words = " or ".join(kind.__name__ for kind in kinds)
    if names is None:
        every = model.named_modules(remove_duplicate=False)
        matches = {name: part for name, part in every if name and any(isinstance(part, kind) for kind in kinds)}
        if not matches:
            if any(isinstance(model, kind) for kind in kinds):
                raise FathomError(f"{words} is the whole model; swap exchanges its parts")
            known = dict.fromkeys(type(part).__name__ for name, part in model.named_modules() if name)
            raise FathomError(f"found no {words}; the model's parts are {', '.join(known)}; choose among them")
    else:
        matches = {name: named(model, name) for name in names}
    for name, part in matches.items():
        if kind_of(part) in kinds:
            continue
        parent = next((kind.__name__ for kind in type(part).__mro__[1:] if kind in kinds), None)
        if type(part) in kinds:
            raise FathomError(f"{what_is(name, part)}, which would be lost; swap its class instead of setting forward")
        if parent is None:
            raise FathomError(f"{what_is(name, part)}; expected {words}; name parts of that kind")
        raise FathomError(
            f"{what_is(name, part)}, which descends from {parent} and may compute something else; list"
            f" {type(part).__name__} too, or name the parts that are meant"
        )
    return matches


def named(model: nn.Module, name: str) -> nn.Module:
    """The part of this name. FathomError, with near matches, where there is none."""
    try:
        if name:  # "" is the model itself
            return model.get_submodule(name)
    except AttributeError:
        pass
    known = dict.fromkeys(name for name, _ in model.named_modules())
    raise FathomError(f"{name!r} is not part of this model{near(name, known) or '; see named_modules()'}")


def settled(new: nn.Module, old: nn.Module) -> nn.Module:
    """The new part with the training flag and on the device of the old one, unless that is on meta."""
    device = next((x.device for x in tensors(old)), torch.device("meta"))
    if device.type != "meta" and any(x.device != device for x in tensors(new)):
        new.to(device)
    return new.train(old.training)


def tensors(part: nn.Module) -> list[Tensor]:
    return [*part.parameters(), *part.buffers()]


def exchange_hooks(one: nn.Module, other: nn.Module) -> None:
    """Let hooks stay with the place in the model: who registered them can still remove them."""
    for name in HOOKS:
        vars(one)[name], vars(other)[name] = vars(other)[name], vars(one)[name]
