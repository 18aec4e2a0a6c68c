"""Reads a ``.pt`` as data: none of its classes is instantiated, none of its functions called.

A pickle is a program. ``torch.load`` runs it with a list of what it may call, and ultralytics adds
classes to that list that open and download further files when they are instantiated. Here every
object is an empty shell with the class's name and the object's state, and tensors are views of the
file.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

#: Torch's names of its storages in a pickle.
_DTYPES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
#: yolov8x has 600 modules, and the description of a network a few hundred items.
_MAX_MODULES = 20_000
_MAX_ITEMS = 20_000


class Shell:
    """An object of a pickle: only the name of its class, and its state as attributes."""

    def __new__(cls, *_args: object, **_named: object) -> Shell:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Table(dict[Any, Any]):
    """An ordered dict that is filled item by item: copies would make a small file large."""

    def __init__(self, *_args: object) -> None:
        super().__init__()

    def __setstate__(self, _state: object) -> None:
        pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pickled:
    """The content of a pickle, and the full names of all classes and functions that it names."""

    content: Any
    names: frozenset[str]


def read_pickled(archive: zipfile.ZipFile, name: str) -> Pickled:
    """Read ``name``, the data.pkl of a checkpoint; a damaged one may raise any exception."""
    reader = _Reader(archive, name)
    content = reader.load()
    return Pickled(content=content, names=frozenset(reader.names))


def class_name(thing: object) -> str:
    """The full name of an object's class, for a shell that of the class it stands for."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def modules_of(network: object) -> dict[str, object]:
    """The network and all modules in it by name; raises ValueError for too many of them."""
    found: dict[str, object] = {}
    waiting = collections.deque([("", network)])
    while waiting:
        name, module = waiting.popleft()
        found[name] = module
        if len(found) > _MAX_MODULES:
            raise ValueError("a network of more modules than there can be")
        for part, inner in _items(module, "_modules"):
            if inner is not None:
                waiting.append((f"{name}.{part}" if name else part, inner))
    return found


def tensors_of(modules: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Parameters and buffers by their names in the network, of real modules or shells."""
    return {
        f"{name}.{part}" if name else part: tensor.detach()
        for name, module in modules.items()
        for kind in ("_parameters", "_buffers")
        for part, tensor in _items(module, kind)
        if isinstance(tensor, torch.Tensor)
    }


def plain(value: object) -> Any:
    """A copy of plain data; raises ValueError for other objects and for too many items, as a part
    may be referred to many times."""
    left = _MAX_ITEMS

    def copy(value: object) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("a description of more items than there can be")
        if isinstance(value, dict):
            return {copy(key): copy(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [copy(item) for item in value]
        if value is None or isinstance(value, (str, int, float)):
            return value
        raise ValueError(f"a description that holds a {class_name(value)}")

    return copy(value)


def _items(module: object, kind: str) -> Iterator[tuple[str, object]]:
    table = vars(module).get(kind)
    return iter(table.items()) if isinstance(table, dict) else iter(())


# In Python: the C reader allocates as many memo entries as a pickle claims to need.
class _Reader(pickle._Unpickler):
    """Reads one pickle of an archive; ``names`` are the classes and functions that it named."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)))
        self.names: set[str] = set()
        self._archive = archive
        self._folder = name.removesuffix("data.pkl")
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        self.names.add(full)
        if full in _REAL:
            return _REAL[full]
        return type(name, (Shell,), {"__module__": module, "__qualname__": name})

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _kind, storage, key, _place, _count = pid
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            dtype = _DTYPES[storage.__name__]
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0)
        return self._storages[key]


def _tensor(
    storage: torch.Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_rest: object
) -> torch.Tensor:
    if math.prod(size) > storage.numel():
        raise ValueError("a tensor that is larger than the file")
    return torch.as_strided(storage, size, stride, offset)


def _parameter(tensor: torch.Tensor, *_rest: object) -> torch.Tensor:
    return tensor


#: The only names that are resolved to something real.
_REAL: Mapping[str, Any] = {
    "collections.OrderedDict": _Table,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
