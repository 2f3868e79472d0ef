"""An unpickler that can build containers, numbers and tensor *descriptions*; it runs nothing from the file.

The pure Python machine of the standard library is used with most of its instructions taken out: the C one trusts
lengths in the file (a memo index of 2^32 makes it ask for 64 GB).
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch

ALLOWED = (
    *("MARK", "STOP", "POP", "POP_MARK", "DUP", "PROTO", "FRAME", "MEMOIZE"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "BINPERSID"),
)

STORAGE_DTYPES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
DTYPE_NAMES = frozenset(str(d).removeprefix("torch.") for d in STORAGE_DTYPES.values())

INERT_MODULES = (
    *("pytorch_lightning", "lightning", "numpy", "omegaconf", "_codecs", "datetime", "pathlib", "typing", "argparse"),
)
"""Packages that trainers leave traces of in checkpoints (callbacks, scalars, settings). Their objects are skipped."""


DAMAGED = (
    *(struct.error, ValueError, TypeError, AttributeError, IndexError, EOFError, OverflowError, MemoryError),
    *(RecursionError, AssertionError, NotImplementedError, ImportError),
)
"""What the pure Python machine raises over programs that make no sense."""


class Forbidden(pickle.UnpicklingError):
    """The file asks for something that no model needs."""


class Storage(NamedTuple):
    """A block of numbers in the file: `length` elements of `dtype` under `key`.

    A tuple, like `TensorPlan`, because a BUILD instruction could change the fields of anything else after the check.
    """

    key: str
    dtype: torch.dtype
    length: int


class TensorPlan(NamedTuple):
    """Where a tensor lies in a storage. Offset, size and stride in elements, already checked to stay inside."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Unpickler(pickle._Unpickler):
    """Reads one pickle of torch's making; anything else raises `Forbidden` or `pickle.UnpicklingError`."""

    dispatch: ClassVar[dict[int, Any]] = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in ALLOWED
    }

    def find_class(self, module: str, name: str) -> object:
        """Give a harmless stand-in for the few names that tensors need."""
        found = _GLOBALS.get((module, name))
        if found is not None:
            return found
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if module == "torch.storage" and name == "UntypedStorage":
            return torch.uint8
        if module == "torch" and name in DTYPE_NAMES:
            return getattr(torch, name)
        if module.split(".", maxsplit=1)[0] in INERT_MODULES:
            return _Inert
        raise Forbidden(f"it asks to run {module}.{name}")

    def persistent_load(self, saved: object) -> Storage:
        """A storage reference: `("storage", type, key, location, count[, view])`."""
        if not isinstance(saved, tuple) or len(saved) not in (5, 6) or saved[0] != "storage":
            raise Forbidden("a storage reference is damaged")
        _, dtype, key, _, count = saved[:5]
        if len(saved) == 6 and saved[5] is not None:
            raise Forbidden("it uses storage views, which no torch of the last ten years writes")
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _is_count(count):
            raise Forbidden("a storage reference is damaged")
        return Storage(key, dtype, count)


def load_one(file: io.BytesIO) -> object:
    """Read the next pickle of `file`. Raises `pickle.UnpicklingError` for whatever is wrong with it."""
    try:
        return Unpickler(file, encoding="utf-8").load()
    except pickle.UnpicklingError:
        raise
    except KeyError as e:
        raise pickle.UnpicklingError(f"it uses the instruction {e}, which no model needs") from None
    except DAMAGED as e:
        raise pickle.UnpicklingError(f"it is damaged ({str(e) or type(e).__name__})") from None


class _Inert:
    """Stands for an object that is skipped: may be made and filled, keeps nothing, does nothing."""

    __slots__ = ()

    def __new__(cls, *_args: object, **_kwargs: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...

    def __setitem__(self, _key: object, _value: object) -> None: ...

    def append(self, _item: object) -> None:
        """List-like objects are filled by this."""

    def extend(self, _items: object) -> None:
        """List-like objects are filled by this."""


class _Call:
    """A function as the pickle sees it: callable, but without attributes that a BUILD instruction could change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: object) -> object:
        function: Callable[..., object] = object.__getattribute__(self, "_function")
        return function(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise Forbidden(f"it tries to change {name}")


def _rebuild(*args: object) -> TensorPlan:
    """`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`."""
    if len(args) < 4:
        raise Forbidden("a tensor is damaged")
    storage, offset, size, stride = args[:4]
    # _rebuild_tensor_v3 has the dtype of untyped storages at place 6
    dtype = args[6] if len(args) > 6 and isinstance(args[6], torch.dtype) else None
    return _checked(storage, offset, size, stride, dtype)


def _checked(storage: object, offset: object, size: object, stride: object, dtype: torch.dtype | None) -> TensorPlan:
    if not isinstance(storage, Storage) or not _is_count(offset) or not isinstance(offset, int):
        raise Forbidden("a tensor is damaged")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride) or len(size) > 16:
        raise Forbidden("a tensor's shape is damaged")
    if not all(_is_count(n) for n in (*size, *stride)):
        raise Forbidden("a tensor's shape is damaged")
    real = dtype or storage.dtype
    count = storage.length * storage.dtype.itemsize // real.itemsize
    reach = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1 if 0 not in size else offset
    elements = math.prod(size)
    # more elements than the storage has would be a broadcast view: small in the file, endless once copied
    if reach > count or elements > count:
        raise Forbidden("a tensor reaches beyond its storage")
    return TensorPlan(storage, offset, size, stride, real)


def _parameter(*args: object) -> object:
    """`torch._utils._rebuild_parameter(data, requires_grad, hooks)`."""
    if not args or not isinstance(args[0], TensorPlan):
        raise Forbidden("a parameter is damaged")
    return args[0]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


_GLOBALS: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_rebuild),
    ("torch._utils", "_rebuild_tensor_v3"): _Call(_rebuild),
    ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
    ("torch", "Size"): _Call(lambda *args: tuple(args[0]) if args else ()),
    ("torch.serialization", "_get_layout"): _Inert,
    ("torch", "device"): _Inert,
}
