"""The C interface is what the C++ files declare, and an argument of a wrong type is refused."""

import ctypes
import re
from enum import IntEnum
from pathlib import Path

import pytest
import torch

from fathom.native import interface
from fathom.native.build import SOURCES, library
from fathom.native.interface import FUNCTIONS, Pointer, WeightKind

needs_native = pytest.mark.skipif(library("fused") is None, reason="no C++ compiler")
CODE = re.sub(r"//.*", "", "\n".join(path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.[ch]*"))))
KINDS = [kind for kind in vars(interface).values() if isinstance(kind, type) and kind.__module__ == interface.__name__]
VALUES = {"int64_t": ctypes.c_int64, "int": ctypes.c_int, "float": ctypes.c_float, "bool": ctypes.c_bool, "void": None}
STRUCTURES = {"Linear": interface.Linear, "Model": interface.Model, "Pass": interface.Pass}
DTYPES = {"float": torch.float32, "uint8_t": torch.uint8, "bf16": torch.bfloat16}


def exported(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Function -> its result and the types of its parameters, of a C++ file."""
    code = path.read_text(encoding="utf-8").partition('extern "C"')[2]
    pattern = r"^(?: |extern \"C\" )?\{?\s*((?:void|bool|int64_t)) (\w+)\(([^)]*)\) \{"
    return {
        name: (result, [re.sub(r"\s*\w+$", "", part.strip()) for part in parameters.split(",")])
        for result, name, parameters in re.findall(pattern, code, re.MULTILINE)
    }


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, IntEnum)])
def test_enumerations_are_those_of_the_code(kind: type[IntEnum]) -> None:
    match = re.search(rf"enum (?:class )?{kind.__name__} : int64_t {{([^}}]*)}}", CODE)
    assert match and match[1].replace(",", " ").split() == [value.name for value in kind]
    assert [int(value) for value in kind] == list(range(len(kind)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, ctypes.Structure)])
def test_structures_have_the_fields_of_the_code(kind: type[ctypes.Structure]) -> None:
    match = re.search(rf"struct {kind.__name__} {{(.*?)\n}};", CODE, re.DOTALL)
    assert match
    fields = [line.strip()[:-1] for line in match[1].splitlines() if line.strip(" }") and "(" not in line]
    types = {"int64_t": ctypes.c_int64, "double": ctypes.c_double, "Norm": interface.Norm, "Linear": interface.Linear}
    declared = []
    for kind_of, names in (re.fullmatch(r"((?:const )?\w+)(?: |(?=\*))(.*)", field).groups() for field in fields):  # type: ignore[union-attr]
        for name in names.split(","):
            plain = ctypes.c_int64 if kind_of.endswith("Kind") else types.get(kind_of)
            if name.endswith("[ROTATIONS]"):
                name, plain = name.removesuffix("[ROTATIONS]"), interface.Rotation * interface.ROTATIONS
            declared.append((name.strip(" *"), ctypes.c_void_p if "*" in names else plain))
    ours = [(name, ctypes.c_void_p if issubclass(of, ctypes._Pointer) else of) for name, of in kind._fields_]  # type: ignore[misc]
    assert declared == ours


@pytest.mark.parametrize("name", sorted(path.stem for path in SOURCES.glob("*.cpp")))
def test_every_function_is_declared_as_in_the_code(name: str) -> None:
    functions = exported(SOURCES / f"{name}.cpp")
    assert functions.keys() == FUNCTIONS[name].keys()
    for function, (result, parameters) in functions.items():
        ours, *arguments = FUNCTIONS[name][function]
        assert ours is VALUES[result] and len(arguments) == len(parameters)
        for theirs, argument in zip(parameters, arguments):
            pointee = theirs.removeprefix("const ").rstrip("*").strip()
            if "*" not in theirs:
                assert argument is VALUES[theirs]
            elif pointee in STRUCTURES:
                assert argument is ctypes.POINTER(STRUCTURES[pointee])
            elif pointee == "int64_t":
                assert argument._type_ is ctypes.c_int64
            else:
                assert isinstance(argument, Pointer)
                assert argument.dtypes == (interface.FLOATS if pointee == "void" else (DTYPES[pointee],))


X = torch.zeros(4, dtype=torch.bfloat16)


@needs_native
@pytest.mark.parametrize(
    "wrong",
    [
        X.float(),
        X.to("meta"),
        torch.zeros(8, dtype=torch.bfloat16)[::2],
        X.data_ptr(),
        None,
        [0.0],
    ],
    ids=["fp32", "meta", "strided", "address", "None", "list"],
)
def test_only_tensors_of_the_declared_format_are_passed(wrong: object) -> None:
    lib = library("fused")
    assert lib is not None
    with pytest.raises(ctypes.ArgumentError):
        lib.gelu_forward(X, wrong, 4, 1)
    lib.gelu_forward(X, torch.empty_like(X), 4, 1)


@needs_native
@pytest.mark.parametrize("wrong", [(X, X, 4.0, 1), (X, X, "4", 1), (X, X, 4, None), (X, X, 4)], ids=str)
def test_numbers_of_a_wrong_type_and_missing_ones_are_refused(wrong: tuple[object, ...]) -> None:
    lib = library("fused")
    assert lib is not None
    with pytest.raises((ctypes.ArgumentError, TypeError)):
        lib.gelu_forward(*wrong)


@needs_native
def test_a_structure_of_another_kind_is_refused() -> None:
    step, panels = library("step"), library("panels")
    assert step is not None and panels is not None
    with pytest.raises(ctypes.ArgumentError):
        step.step(interface.Pass(), interface.Pass(), 1)
    x = torch.zeros(1, 4)
    with pytest.raises(ctypes.ArgumentError):
        panels.linear(interface.Norm(), x, False, 1, x, False, 1)


@needs_native
@pytest.mark.parametrize("kind", [-1, len(WeightKind), 2**40])
def test_an_unknown_kind_of_weights_is_refused(isa: str, kind: int) -> None:
    lib, x, y = library("panels"), torch.ones(1, 4), torch.full((1, 4), 7.0)
    assert lib is not None
    assert not lib.linear(interface.Linear(kind, 4, 4), x, False, 1, y, False, 1)
    assert (y == 7).all()
