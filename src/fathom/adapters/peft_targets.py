"""Which modules of a model have an adapter, as the fields of adapter_config.json say and as peft reads them.

Names match the end of a module's name, from a dot on; one text instead of a list is a regular expression for the whole
name. `layers_to_transform` keeps some of the layers, `exclude_modules` leaves modules out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fathom.errors import FathomError
from fathom.json_file import short

# Patterns are regular expressions in peft. This subset suffices, and none of it backtracks exponentially.
PATTERN = re.compile(r"\^?(?:[\w-]|\\?\.|\.\*|\\d\+?|\[[\w-]+\]\+?|\((?:\?:)?(?:[\w.|-]|\\\.|\[[\w-]+\])+\))+\$?")


@dataclass(frozen=True)
class Targets:
    """`names` or a `pattern`; neither: the tensors in the file decide."""

    names: tuple[str, ...] | None = None
    pattern: str | None = None
    layers: tuple[int, ...] | None = None  # None: all
    around: tuple[str, ...] = ()  # what stands before the number of a layer, such as `layers`; empty: any word
    excluded: tuple[str, ...] | str = ()

    def hold(self, module: str) -> bool | None:
        """Whether a module of this name has an adapter; None: the tensors decide."""
        if self.names is None and self.pattern is None:
            return None
        if isinstance(self.excluded, str):
            excluded = re.fullmatch(self.excluded, module) is not None
        else:
            excluded = ends_in(module, self.excluded)
        if excluded:
            return False
        if self.pattern is not None:
            return re.fullmatch(self.pattern, module) is not None
        assert self.names is not None
        if module in self.names or self.layers is None:
            return ends_in(module, self.names)
        patterns = self.around or (r"[^.]*",)
        matches = (re.match(rf".*\.{pattern}\.(\d+)\.", module) for pattern in patterns)
        layer = next((match for match in matches if match is not None), None)
        return ends_in(module, self.names) and layer is not None and int(layer[1]) in self.layers


def ends_in(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def is_safe(pattern: str) -> bool:
    """Whether a regular expression is of the subset that is followed."""
    return len(pattern) <= 200 and pattern.count(".*") <= 3 and PATTERN.fullmatch(pattern) is not None


def read_targets(values: Mapping[str, Any], where: str) -> Targets:
    """FathomError where names and patterns of modules are not what they must be."""
    targets, excluded = values.get("target_modules"), values.get("exclude_modules")
    names = None if isinstance(targets, str | None) else tuple(names_in(values, "target_modules", where))
    pattern = targets if isinstance(targets, str) and targets != "all-linear" and is_safe(targets) else None
    if isinstance(excluded, str) and not is_safe(excluded):
        names = pattern = None
    rule = excluded if isinstance(excluded, str) else tuple(names_in(values, "exclude_modules", where))
    some = values.get("layers_to_transform")
    layers = None if some is None else some if isinstance(some, list) else [some]
    if layers is not None and not all(type(layer) is int for layer in layers):
        raise FathomError(f"{where}: layers_to_transform is {short(some)}; expected numbers of layers, from 0 on")
    around = values.get("layers_pattern")
    words = [around] if isinstance(around, str) and around else names_in(values, "layers_pattern", where)
    if unsafe := [word for word in words if not is_safe(word)]:
        raise FathomError(f"{where}: layers_pattern is {short(unsafe[0])}; expected a word such as layers")
    return Targets(names, pattern, None if layers is None else tuple(layers), tuple(words), rule)


def names_in(values: Mapping[str, Any], field: str, where: str) -> list[str]:
    """A list of names; none where the field is absent."""
    names = values.get(field) or []
    if not isinstance(names, list) or not all(isinstance(x, str) and len(x) < 300 for x in names):
        raise FathomError(f"{where}: {field} is {short(values[field])}; expected names of layers")
    return names
