"""Whether a model still is what it was: what was computed with it before holds as long as nothing in it has changed."""

from operator import is_

from torch import nn


class State:
    """What decides what a model computes, at one moment: its parts, their attributes and hooks, and the versions of its
    tensors. Equal to that of another moment if nothing was exchanged or changed in place.

    It keeps the objects themselves, as another one may have the address of one that is gone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.objects, self.versions = list[object](), list[int]()
        for part in model.modules():
            tensors = [x for x in (*part._parameters.values(), *part._buffers.values()) if x is not None]
            hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
            self.objects += [part, *vars(part).values(), *tensors, *hooks]
            self.versions += [x._version for x in tensors if not x.is_inference()]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State) or self.versions != other.versions:
            return False
        return len(self.objects) == len(other.objects) and all(map(is_, self.objects, other.objects))

    __hash__ = None  # type: ignore[assignment]
