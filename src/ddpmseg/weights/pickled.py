"""Extracts the tensors of a torch file that holds more than tensors, without executing any of it.

    python -m ddpmseg.weights.pickled INPUT OUTPUT.safetensors [ENTRY]

It runs as a separate process, which imports neither torch nor anything that the file names. Its
unpickler knows tensors and dictionaries; every other class or function that the file names becomes
a placeholder that does nothing. Numbers are copied byte by byte, one tensor at a time. The process
prints one JSON object: `Salvaged` as a dictionary; or, with exit status 1, {"error": ...}, or
{"unwritable": ERRNO} where the output cannot be written.

Source: the format of `torch.save` since torch 1.6: a zip archive of `data.pkl` and, by number, the
storages of the tensors.
"""

import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
"""torch's name of a storage -> safetensors' name of its dtype."""
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}
"""Bytes of a number; 1 for dtypes that are not listed."""


class SalvageError(Exception):
    """No tensors can be extracted; the message is a clause that follows the file's name."""


@dataclass(frozen=True)
class Salvaged:
    """Summary of what was written; `left_out` maps the file's other entries to their types."""

    entry: str | None
    tensors: int
    parameters: int
    left_out: dict[str, str]


class Storage(NamedTuple):
    key: str
    dtype: str
    count: int


class StoredTensor(NamedTuple):
    """A tensor as a view of a storage: offset, shape and strides, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Known:
    """A function that the file may call but cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("it changes a function")

    __setstate__ = None


class _Mapping(dict):
    """A dictionary that takes no attributes, as an OrderedDict would."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class _Placeholder:
    """Replaces objects of all other classes: accepts any call and does nothing."""

    named = ""

    def __new__(cls, *_: Any, **__: Any) -> "_Placeholder":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "_Placeholder":
        return self

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass

    def append(self, _item: object) -> None:
        pass

    def extend(self, _items: object) -> None:
        pass

    def add(self, _item: object) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Imports nothing that a file names: `find_class` resolves every name."""

    def find_class(self, module: str, name: str, /) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return _Known(_tensor if name == "_rebuild_tensor_v2" else lambda data, *_: data)
        if (module, name) == ("collections", "OrderedDict"):
            return _Known(_Mapping)
        return type("_Placeholder", (_Placeholder,), {"named": f"{module}.{name}"})

    def persistent_load(self, pid: Any, /) -> Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in STORAGES.values():
            raise pickle.UnpicklingError("it refers to something that is no storage of numbers")
        return Storage(str(key), dtype, int(count))


def _tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    view = StoredTensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
    last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    negative = view.offset < 0 or any(number < 0 for number in (*view.shape, *view.strides))
    count = prod(view.shape)
    if negative or count > storage.count or (count and last >= storage.count):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return view


class TorchFile:
    """A zip archive that `torch.save` wrote. Raises SalvageError for any other file."""

    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except Exception as error:
            # Damage raises many types: BadZipFile, UnicodeDecodeError, ...
            raise SalvageError(
                "is no archive as torch has written since version 1.6; it is truncated, no weight "
                "file, or older"
            ) from error
        names = self.archive.namelist()
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise SalvageError("is an archive, but none of torch: it holds no data.pkl")
        self.folder = pickles[0].removesuffix("data.pkl")
        order = f"{self.folder}byteorder"
        if order in names and self._read(order) != b"little":
            raise SalvageError("was written on a big-endian machine")

    def content(self) -> Any:
        try:
            with self.archive.open(f"{self.folder}data.pkl") as file:
                return _Unpickler(file).load()
        except Exception as error:
            # A damaged or hostile pickle raises nearly any type of error.
            raise SalvageError(f"cannot be read: its data.pkl is damaged ({error})") from error

    def numbers(self, tensor: StoredTensor) -> bytes:
        """The elements of a tensor in order."""
        storage = tensor.storage
        size = BYTES.get(storage.dtype, 1)
        stored = self._read(f"{self.folder}data/{storage.key}")
        if len(stored) < storage.count * size:
            raise SalvageError(f"is truncated: storage {storage.key} is shorter than it should be")
        flat = np.frombuffer(stored, dtype=f"V{size}")[tensor.offset :]
        strides = [step * size for step in tensor.strides]
        return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides).tobytes()

    def _read(self, name: str) -> bytes:
        try:
            stored = self.archive.getinfo(name).compress_type == zipfile.ZIP_STORED
            content = self.archive.read(name) if stored else b""
        except Exception as error:
            raise SalvageError(f"is damaged: '{name}' cannot be read ({error})") from error
        if not stored:
            raise SalvageError("holds compressed numbers, which torch never writes")
        return content


def is_state(content: object) -> bool:
    """Whether `content` maps names to tensors, at least one."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, StoredTensor) for k, v in content.items())
    )


def choose_entry(content: Any, entry: str | None) -> tuple[str | None, dict[str, StoredTensor]]:
    """Choose a state dict: returns its name in the file (None: the whole file) and the state dict.

    'models.generator' names entry 'generator' of 'models'; such entries count only if named, or if
    there are no others. Raises SalvageError when there is no state dict, or the choice is not
    unique.
    """
    if entry is None and is_state(content):
        return None, content
    entries = content if isinstance(content, dict) else {}
    states = {key: value for key, value in _entries(entries) if is_state(value)}
    within = {key: value for key, value in _nested_entries(entries) if is_state(value)}
    shown = ", ".join(sorted(map(str, entries))) or _type_name(content)
    if entry is not None and entry not in states | within:
        raise SalvageError(f"has no tensors by name under '{entry}'; it holds {shown}")
    names = list(states or within)
    if entry is None and len(names) != 1:
        several = f"several: name one with --entry ({', '.join(names)})" if names else "none"
        raise SalvageError(f"holds {shown}; of these, mappings of names to tensors are {several}")
    chosen = entry if entry is not None else names[0]
    return chosen, (states | within)[chosen]


def _entries(content: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in content.items() if isinstance(key, str))


def _nested_entries(content: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Entries of the mappings in `content`, named 'outer.inner'."""
    for outer, value in _entries(content):
        if isinstance(value, dict) and not is_state(value):
            yield from ((f"{outer}.{inner}", entry) for inner, entry in _entries(value))


def _others(content: dict[Any, Any], state: object) -> Iterator[tuple[str, Any]]:
    """All entries but `state`; the mapping that holds `state` is replaced by its entries."""
    for key, value in content.items() if content is not state else ():
        if isinstance(value, dict) and any(inner is state for inner in value.values()):
            yield from ((f"{key}.{inner}", entry) for inner, entry in _others(value, state))
        elif value is not state:
            yield str(key), value


def _type_name(value: object) -> str:
    """The type that a value had in the file."""
    if isinstance(value, _Placeholder):
        return value.named
    return {_Mapping: "dict", StoredTensor: "tensor"}.get(type(value), type(value).__name__)


def write_safetensors(file: TorchFile, state: dict[str, StoredTensor], output: Path) -> int:
    """Write a safetensors file; returns the number of values in it.

    Tensors of the largest dtypes come first, so that all are aligned. Source of the format: README
    of huggingface/safetensors.
    """
    names = sorted(state, key=lambda name: (-BYTES.get(state[name].storage.dtype, 1), name))
    header, end = {}, 0
    for name in names:
        tensor = state[name]
        begin, end = end, end + prod(tensor.shape) * BYTES.get(tensor.storage.dtype, 1)
        header[name] = {
            "dtype": tensor.storage.dtype,
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def parts() -> Iterator[bytes]:
        yield len(text).to_bytes(8, "little")
        yield text
        for name in names:
            yield file.numbers(state[name])

    with output.open("wb") as out:
        for part in parts():
            out.write(part)
    return sum(prod(tensor.shape) for tensor in state.values())


def salvage(path: Path, output: Path, entry: str | None = None) -> Salvaged:
    """Write the tensors of one entry to `output`.

    Raises SalvageError for the input, OSError for the output.
    """
    file = TorchFile(path)
    content = file.content()
    chosen, state = choose_entry(content, entry)
    count = write_safetensors(file, state, output)
    left_out = {key: _type_name(value) for key, value in _others(content, state)}
    return Salvaged(chosen, len(state), count, left_out)


def main(arguments: list[str]) -> int:
    try:
        result = asdict(salvage(Path(arguments[0]), Path(arguments[1]), *arguments[2:]))
    except SalvageError as error:
        result = {"error": str(error)}
    except OSError as error:
        result = {"unwritable": error.errno}
    sys.stdout.write(json.dumps(result) + "\n")
    return int("error" in result or "unwritable" in result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
