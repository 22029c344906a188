"""A pickle is a program for a small machine with a stack, which builds one value; this machine builds tensors alone.

`pickletools` lists the steps of the program. A pickle may name any function there is; this machine accepts three and
calls none of them: it notes what they would return.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from fathom.errors import FathomError

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # the number that a file of torch before 1.6 begins with
STEP_LIMIT = 1 << 18  # a tensor takes some 30
DIMENSIONS = 8
STORAGES = {  # torch's name of each kind of storage
    "torch DoubleStorage": "F64", "torch FloatStorage": "F32", "torch HalfStorage": "F16", "torch BoolStorage": "BOOL",
    "torch BFloat16Storage": "BF16", "torch LongStorage": "I64", "torch IntStorage": "I32", "torch ShortStorage": "I16",
    "torch CharStorage": "I8", "torch ByteStorage": "U8",
}  # fmt: skip
TENSOR, PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
FUNCTIONS = {"collections OrderedDict", TENSOR, PARAMETER}


def is_legacy(start: bytes) -> bool:
    """Whether a file that begins so is several pickles and no zip, as torch wrote it before version 1.6."""
    return start.startswith(LEGACY)


@dataclass(frozen=True, slots=True)
class Global:
    """A function or class that the pickle names. It stays a name."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """`numel` numbers of one kind, in the file under `key`."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: part of a storage, with the step from one number to the next along each dimension."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Machine:
    """The stack, those saved at each MARK, and the memo of values that are used again."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Everything above the last MARK, removed from the stack."""
        values, self.stack = self.stack, self.marked.pop()
        return values

    def take(self, count: int) -> list[Any]:
        """The `count` values on top, removed, in the order in which they were pushed."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def put(self, place: int | None) -> None:
        """Memoise the value on top; MEMOIZE names no place and takes the next one."""
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def find(self, name: str | None) -> None:
        """Push a global; STACK_GLOBAL has its module and name on the stack."""
        name = " ".join(map(_text, self.take(2))) if name is None else name
        if name not in FUNCTIONS and name not in STORAGES:
            raise FathomError(
                f"the pickle asks for {name[:80].replace(' ', '.')!r}; expected only tensors; do not trust it"
            )
        self.push(Global(name))

    def storage(self, _: Any) -> None:
        """Push a storage, which is outside of the pickle: ("storage", its class, key, device, number of numbers)."""
        match self.stack.pop():
            case (
                "storage",
                Global(name),
                str() | int() as key,
                str(),
                int(numel),
                *view,
            ) if (  # before torch 1.6 one with a view
                name in STORAGES and _counts((numel,)) and view in ([], [None])
            ):
                self.push(Storage(STORAGES[name], str(key)[:80], numel))  # litgpt counts them
            case _:
                raise FathomError(
                    "the pickle refers to something that is not a storage of numbers; expected only tensors"
                )

    def call(self, _: Any) -> None:
        """Push what the function under the arguments would return."""
        function, arguments = self.take(2)
        match function, arguments:
            case Global("collections OrderedDict"), ():
                self.push({})
            case Global(name), (View() as view, bool(), {}) if name == PARAMETER:
                self.push(view)
            case Global(name), (Storage() as storage, int(offset), tuple(shape), tuple(stride), bool(), {}) if (
                name == TENSOR and _counts((offset, *shape, *stride)) and len(shape) == len(stride) <= DIMENSIONS
            ):
                self.push(View(storage, offset, shape, stride))
            case _:
                what = function.name if isinstance(function, Global) else type(function).__name__
                raise FathomError(f"the pickle calls {what!r} with arguments of no tensor; expected only tensors")

    def build(self, _: Any) -> None:
        """Drop attributes of an OrderedDict: those of a state dict are the versions of its modules."""
        holder, attributes = self.take(2)
        if not isinstance(holder, dict) or not isinstance(attributes, dict):
            raise FathomError("the pickle sets attributes of something that is not a dict; expected only tensors")
        self.push(holder)

    def extend(self, values: list[Any]) -> None:
        holder = self.stack[-1]
        if not isinstance(holder, list):
            raise FathomError("the pickle appends to something that is not a list; expected only tensors")
        holder.extend(values)

    def update(self, values: list[Any]) -> None:
        """Keys and values in turn, into the dict on top."""
        holder = self.stack[-1]
        if not isinstance(holder, dict) or len(values) % 2 or not {str, int} >= set(map(type, values[::2])):
            raise FathomError("the pickle fills something that is not a dict with text as keys; expected only tensors")
        holder.update(zip(values[::2], values[1::2]))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _counts(values: tuple[Any, ...]) -> bool:
    """Whether all are whole numbers of at most 63 bits."""
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


Step = Callable[[Machine, Any], None]


def _constant(value: Any) -> Step:
    return lambda machine, _: machine.push(value)


def _tuple(count: int) -> Step:
    return lambda machine, _: machine.push(tuple(machine.take(count)))


STEPS: dict[str, Step] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(
        ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), Machine.push
    ),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _tuple(0),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "APPEND": lambda machine, _: machine.extend(machine.take(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": lambda machine, _: machine.update(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "MARK": Machine.mark,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, place: machine.push(machine.memo[place])),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), Machine.find),
    "BINPERSID": Machine.storage,
    "REDUCE": Machine.call,
    "BUILD": Machine.build,
}


def run(pickled: bytes | BinaryIO) -> Any:
    """The value that a pickle describes: plain values, and a `View` for every tensor. FathomError for anything else.

    Of a file, the one that begins where it stands, and it is left where the pickle ends."""
    machine, position = Machine(), 0
    try:
        for count, (opcode, argument, at) in enumerate(pickletools.genops(pickled)):
            position = at or 0
            if opcode.name not in STEPS or count >= STEP_LIMIT:
                expected = f"at most {STEP_LIMIT} steps" if opcode.name in STEPS else "only tensors; do not trust it"
                raise FathomError(f"the pickle has a step {opcode.name} at byte {position}; expected {expected}")
            STEPS[opcode.name](machine, argument)
        (value,) = machine.stack
    except (IndexError, KeyError, ValueError) as problem:
        raise FathomError(f"the pickle is damaged at or after byte {position} ({str(problem)[:80]})") from None
    return value
