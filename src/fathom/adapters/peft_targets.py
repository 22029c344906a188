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

# Patterns are regular expressions in peft. Followed are those that cannot take for ever: nothing is repeated that
# repeats something itself, and few things are repeated or have alternatives.
ATOM = r"(?:[\w-]|\\?\.|\\[dw]|\[\^?[\w.-]+\])(?:[*+?]|\{\d{1,3}(?:,\d{0,3})?\})?|[$^|]"
GROUP = rf"\((?:\?[:!=])?(?:{ATOM}|\((?:\?[:!=])?(?:{ATOM})+\)\??)+\)\??"
PATTERN = re.compile(rf"(?:{ATOM}|{GROUP})+")
COSTLY = re.compile(r"[*+{(]|(?<!\()\?")


@dataclass(frozen=True)
class Targets:
    """`names` or a `pattern`; neither: the tensors in the file decide."""

    names: tuple[str, ...] | None = None
    pattern: str | None = None
    layers: tuple[int, ...] | None = None  # None: all
    around: tuple[str, ...] = ()  # what stands before the number of a layer, such as `layers`; empty: any word
    excluded: tuple[str, ...] | str = ()
    saved: tuple[str, ...] = ()  # modules_to_save
    tied: bool = False  # what is tied to a target has its adapter too, and the tensors in the file say what that is

    def hold(self, module: str) -> bool | None:
        """Whether a module of this name has an adapter; None: the tensors decide."""
        inside = any(re.match(rf"(.*\.)?{re.escape(name)}($|\.)", module) for name in self.saved)
        if inside or (self.names is None and self.pattern is None):
            return None
        if isinstance(self.excluded, str):
            excluded = re.fullmatch(self.excluded, module) is not None
        else:
            excluded = ends_in(module, self.excluded)
        if excluded:
            return False
        held: bool | None = self.pattern is not None and re.fullmatch(self.pattern, module) is not None
        if self.names is not None:
            held = ends_in(module, self.names)
            if held and self.layers is not None and module not in self.names:
                held = self.in_layers(module)
        return None if self.tied and not held else held

    def in_layers(self, module: str) -> bool | None:
        """Whether a module is of a layer that is meant; None: versions of peft differ, since they look for its number
        in front or, formerly, at the end."""
        assert self.layers is not None
        found = []
        for before in (r"(?:^|.*?\.)", r".*\."):
            matches = (re.match(rf"{before}{pattern}\.(\d+)\.", module) for pattern in self.around or (r"[^.]*",))
            layer = next((match for match in matches if match is not None), None)
            found.append(layer is not None and int(layer[1]) in self.layers)
        return found[0] if found[0] == found[1] else None


def ends_in(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def is_safe(pattern: str) -> bool:
    """Whether a regular expression is of the subset that is followed."""
    if len(pattern) > 200 or len(COSTLY.findall(pattern)) > 5 or PATTERN.fullmatch(pattern) is None:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def read_targets(values: Mapping[str, Any], where: str) -> Targets:
    """FathomError where names and patterns of modules are not what they must be."""
    targets, excluded = values.get("target_modules"), values.get("exclude_modules")
    names = None if isinstance(targets, str | None) else tuple(names_in(values, "target_modules", where))
    pattern = targets if isinstance(targets, str) and targets != "all-linear" and is_safe(targets) else None
    if isinstance(excluded, str) and not is_safe(excluded):
        names = pattern = None
    rule = excluded if isinstance(excluded, str) else tuple(names_in(values, "exclude_modules", where))
    some = values.get("layers_to_transform")
    layers = None if some in (None, []) else some if isinstance(some, list) else [some]
    if layers is not None and not all(type(layer) is int for layer in layers):
        raise FathomError(f"{where}: layers_to_transform is {short(some)}; expected numbers of layers, from 0 on")
    around = values.get("layers_pattern")
    words = [around] if isinstance(around, str) and around else names_in(values, "layers_pattern", where)
    if unsafe := [word for word in words if not is_safe(word)]:
        raise FathomError(f"{where}: layers_pattern is {short(unsafe[0])}; expected a word such as layers")
    saved, tied = tuple(names_in(values, "modules_to_save", where)), values.get("ensure_weight_tying") is True
    return Targets(names, pattern, None if layers is None else tuple(layers), tuple(words), rule, saved, tied)


def names_in(values: Mapping[str, Any], field: str, where: str) -> list[str]:
    """A list of names; none where the field is absent."""
    names = values.get(field) or []
    if not isinstance(names, list) or not all(isinstance(x, str) and len(x) < 300 for x in names):
        raise FathomError(f"{where}: {field} is {short(values[field])}; expected names of layers")
    return names
