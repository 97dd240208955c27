"""A pickle that ``torch.save`` wrote in, its objects as inert values out: nothing in it is imported, called or run.

The pickle is interpreted here instead of being loaded. A name in it is never looked up, so that a class becomes a
:class:`Module` that only holds its state, a tensor becomes a :class:`Stored` that only says where its numbers lie,
and every name that is not listed here ends the reading.
"""

from __future__ import annotations

import mmap
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, cast

import torch

from dlslicer_geo.errors import ModelError

LAYERS = {
    "torch.nn.modules.activation": ("ReLU",),
    "torch.nn.modules.batchnorm": ("BatchNorm2d",),
    "torch.nn.modules.container": ("ModuleList", "Sequential"),
    "torch.nn.modules.conv": ("Conv2d",),
    "torch.nn.modules.dropout": ("Dropout",),
    "torch.nn.modules.linear": ("Identity", "Linear"),
    "torch.nn.modules.pooling": ("AdaptiveAvgPool2d", "AvgPool2d", "MaxPool2d"),
    "torch.nn.parallel.data_parallel": ("DataParallel",),
    "torch.nn.parallel.distributed": ("DistributedDataParallel",),
}
"""Module of torch → classes that may stand in a file."""

NETWORKS = ("BasicBlock", "Bottleneck", "ResNet")
"""Classes that may come from any module called ``resnet``, because copies of torchvision's are common."""

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
"""Storage class of torch → type of its numbers."""

MAX_AXES = 8
MAX_STEPS = 2_000_000  # instructions; ResNet-101 needs 65,000
_MARK = object()
_PLAIN = (
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES"
)


@dataclass(frozen=True, slots=True)
class Name:
    """A listed name of the pickle: never looked up."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers in the file."""

    dtype: torch.dtype
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor whose numbers are still in the file."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(slots=True)
class Module:
    """What is left of a ``torch.nn.Module``: the name of its class and what it stored."""

    kind: str
    state: dict[Any, Any] = field(default_factory=dict)


def interpret(source: bytes | mmap.mmap) -> tuple[Any, dict[str, Storage]]:
    """Go through one pickle.

    Args:
        source: the pickle, or a memory map that stands at its start and is left behind its end.

    Returns:
        the object, and the runs of numbers it refers to.

    Raises:
        ModelError: with the reason alone, if it is damaged, or names or does what is not listed.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], source))):
            if count > MAX_STEPS:
                raise ModelError(f"its pickle has more than {MAX_STEPS} instructions")
            machine.step(opcode.name, argument)
        return machine.stack.pop(), machine.storages
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error, OverflowError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise ModelError(f"it is no pickle of torch.save, or damaged ({said})") from None


def printable(text: str) -> str:
    """Text of a file for a message: short, and without control characters."""
    return text[:120].encode("unicode_escape").decode()


class _Machine:
    """The stack, the memo and the storages seen so far of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do one instruction of the pickle."""
        if name in _PUSHED:
            self.stack.append(_PUSHED[name](argument))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ModelError(f"its pickle holds the instruction {name}, which torch.save does not write")

    def marked(self) -> list[Any]:
        """Take everything above the last mark."""
        taken = []
        while (value := self.stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def tuple_of(self, number: int) -> None:
        """Join the topmost values."""
        taken = tuple(self.stack.pop() for _ in range(number))
        self.stack.append(taken[::-1])

    def fill(self, values: list[Any]) -> None:
        """Put keys and values into the dictionary, or values into the list or set, that is on top."""
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                target[_hashable(key)] = value
        elif isinstance(target, set):
            target.update(map(_hashable, values))
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise ModelError(f"its pickle adds values to a {type(target).__name__}")

    def named(self) -> None:
        """Take the name of a class or function from the stack (protocol 4)."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ModelError("its pickle names something by what is no text, which was not run")
        self.stack.append(_listed(module, name))

    def call(self) -> None:
        """Do what a listed function would have done."""
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise ModelError(f"its pickle calls a {type(called).__name__}, which was not run")
        if called not in _CALLS:
            raise ModelError(f"it calls {printable(f'{called.module}.{called.name}')}, which was not run")
        self.stack.append(_CALLS[called](*arguments))

    def new(self) -> None:
        """A listed class without any state."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Name) or arguments != () or not _is_layer(kind.module, kind.name):
            raise ModelError("its pickle makes an object in a way that torch.save does not")
        self.stack.append(Module(kind.name))

    def build(self) -> None:
        """Give a module its state; what a dictionary carries beside its items is left out."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Module) and isinstance(state, dict):
            target.state.update(state)
        elif not isinstance(target, dict):
            raise ModelError(f"its pickle gives a state to a {type(target).__name__}, which was not run")

    def persistent(self) -> None:
        """A run of numbers, or (in legacy files) a class with its source code, which is not looked at."""
        kind, named, *rest = self.stack.pop()
        if kind == "module" and isinstance(named, Name):
            self.stack.append(named)
            return
        key, _, numel, *view = rest
        if kind != "storage" or not isinstance(named, Name) or named.name not in DTYPES or any(view):
            raise ModelError("its pickle refers to something that is no run of numbers")
        if not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise ModelError("its pickle refers to a run of numbers without a name or length")
        storage = Storage(DTYPES[named.name], key, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise ModelError(f"its pickle describes the numbers {key[:40]!r} in two ways")
        self.stack.append(storage)


def _hashable(value: Any) -> str | int:
    if not isinstance(value, str | int):  # hashing nested tuples may take for ever
        raise ModelError(f"its pickle has a {type(value).__name__} as a key")
    return value


def _is_layer(module: str, name: str) -> bool:
    return name in LAYERS.get(module, ()) or (name in NETWORKS and module.rpartition(".")[2] == "resnet")


def _listed(module: str, name: str) -> Name:
    found = Name(module, name)
    storage = module in ("torch", "torch.cuda") and name in DTYPES
    if not (storage or found in _CALLS or _is_layer(module, name)):
        raise ModelError(f"it names {printable(f'{module}.{name}')}, which was not loaded and not run")
    return found


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Stored:
    numbers = (offset, *shape, *stride)
    whole = all(type(number) is int for number in numbers)
    if not isinstance(storage, Storage) or not whole or len(shape) != len(stride) or len(shape) > MAX_AXES:
        raise ModelError("its pickle describes a tensor that cannot be")
    return Stored(storage, offset, tuple(shape), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


_CALLS: Mapping[Name, Callable[..., Any]] = {
    Name("collections", "OrderedDict"): lambda items=(): {_hashable(key): value for key, value in items},
    Name("builtins", "set"): lambda items=(): set(map(_hashable, items)),
    Name("__builtin__", "set"): lambda items=(): set(map(_hashable, items)),
    Name("torch", "Size"): tuple,
    Name("torch", "device"): lambda *where: ":".join(str(_hashable(part)) for part in where),
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
}
_PUSHED: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_PLAIN.split(), lambda value: value),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_SET": lambda _: set(),
    "MARK": lambda _: _MARK,
    "GLOBAL": lambda names: _listed(*names.split(" ", 1)),
}
_ACTIONS: Mapping[str, Callable[[_Machine], None]] = {
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.marked())),
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "APPEND": lambda machine: machine.fill([machine.stack.pop()]),
    "APPENDS": lambda machine: machine.fill(machine.marked()),
    "SETITEM": lambda machine: machine.fill([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine: machine.fill(machine.marked()),
    "ADDITEMS": lambda machine: machine.fill(machine.marked()),
    "STACK_GLOBAL": lambda machine: machine.named(),
    "REDUCE": lambda machine: machine.call(),
    "NEWOBJ": lambda machine: machine.new(),
    "BUILD": lambda machine: machine.build(),
    "BINPERSID": lambda machine: machine.persistent(),
}
