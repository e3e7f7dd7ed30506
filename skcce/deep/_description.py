"""What tells a network, or a function, from another one that looks the same."""

import copyreg
import dis
import functools
import hashlib
import io
import sys
import types
import warnings
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Known by their text.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
# What every module keeps for itself; it does not count where it is empty.
_BOOKKEEPING = frozenset(vars(nn.Module()))
_CODE = (
    *("co_code", "co_consts", "co_names", "co_varnames", "co_freevars", "co_flags"),
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_exceptiontable"),
)
# In a class: where it was written down, and what Python and torch add.
_NOT_OF_THE_CLASS = frozenset(
    {
        *("__dict__", "__weakref__", "__module__", "__qualname__", "__doc__"),
        *("__firstlineno__", "__static_attributes__", "__annotations__"),
        *("__annotate__", "__annotate_func__", "__annotations_cache__"),
        "_autograd_function_id",  # counts those of the process
    }
)
_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_SLOTS = (types.GetSetDescriptorType, types.MemberDescriptorType)


def describe(value: Any) -> str:
    """Return a digest of all that `value` computes with.

    Tensors and arrays are known by their content; functions and classes that can be
    imported, by their name; other ones by their code and all that it refers to; any
    other object as in a pickle, by its class and its state. The mode of a module, its
    device, and what of it is frozen do not count; nor whether equal parts are shared.

    Raises
    ------
    TypeError
        If something in `value` is known by none of these. The message names it.
    """
    try:
        return _digest(value, "", 0, {}).hex()
    except RecursionError:
        raise TypeError("something is nested too deeply") from None


@dataclass
class _Visit:
    """An object that was met before; kept, or another one might get its id."""

    value: Any
    digest: bytes


def _digest(value: Any, path: str, depth: int, seen: dict[int, _Visit]) -> bytes:
    """Return the digest of a part, which was found at `path`."""
    kind = type(value)
    if kind in _PLAIN:
        return _hash(kind.__name__, repr(value))
    if id(value) not in seen:
        # Whatever refers to it meanwhile goes round in a circle.
        seen[id(value)] = visit = _Visit(value, _hash("circle", str(depth)))
        if isinstance(value, types.ModuleType) or _is_importable(value):
            visit.digest = _hash("name", _name(value))
        else:
            parts = _parts_or_reason(value, path)
            pieces = [_digest(kind, path, depth + 1, seen)]
            for name, part in parts:
                if not isinstance(part, memoryview):
                    where = f"{path}.{name}" if name else path
                    part = _digest(part, where, depth + 1, seen)
                pieces += [name, part]
            visit.digest = _hash(*pieces)
    return seen[id(value)].digest


def _hash(*pieces: str | bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        data = memoryview(piece.encode() if isinstance(piece, str) else piece)
        digest.update(data.nbytes.to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _parts_or_reason(value: Any, path: str) -> list[tuple[str, Any]]:
    try:
        return _parts(value)
    except RecursionError:
        raise
    except Exception as error:  # what cannot be pickled raises anything
        where = f"{path.removeprefix('.')}, " if path else ""
        raise TypeError(f"{where}a {_name(type(value))}: {error}") from error


def _parts(value: Any) -> list[tuple[str, Any]]:
    """Return what tells an object from others of its class, by its names."""
    kind = type(value)
    if kind in (tuple, list):
        return [(str(i), item) for i, item in enumerate(value)]
    if kind in (dict, types.MappingProxyType):
        keys = [("", key) for key in value]
        return keys + [(str(key), item) for key, item in value.items()]
    if kind in (set, frozenset):  # they have no order
        return [("", item) for item in sorted(map(describe, value))]
    if isinstance(value, Tensor):
        return _tensor_parts(value)
    if kind is np.ndarray and not value.dtype.hasobject:
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        return _unnamed(str(value.dtype), value.shape, memoryview(data))
    if isinstance(value, nn.Module):
        return _module_parts(value)
    if isinstance(value, torch.fx.Graph):
        code = value.python_code("self")
        return _unnamed(code.src, _sorted(code.globals))
    if isinstance(value, torch._ops.OperatorBase):  # holds what it has dispatched
        return _unnamed(str(value))
    if isinstance(value, RemovableHandle):  # its number counts those of the process
        return []
    if isinstance(value, weakref.ref):
        return _unnamed(value())
    if isinstance(value, types.CodeType):
        return _unnamed(*(getattr(value, name, None) for name in _CODE))
    if isinstance(value, types.FunctionType):
        return _function_parts(value)
    if isinstance(value, types.MethodType):
        return _unnamed(value.__func__, value.__self__)
    if isinstance(value, (staticmethod, classmethod)):
        return _unnamed(value.__func__)
    if isinstance(value, property):
        return _unnamed(value.fget, value.fset, value.fdel)
    if isinstance(value, functools._lru_cache_wrapper):
        return _unnamed(value.__wrapped__, value.cache_parameters())
    if isinstance(value, type):
        return _class_parts(value)
    return _pickled_parts(value)


def _tensor_parts(value: Tensor) -> list[tuple[str, Any]]:
    if nn.parameter.is_lazy(value):  # the first batch will tell its shape
        return []
    if value.layout != torch.strided:
        return _pickled_parts(value)
    kind = str(value.dtype)
    value_of = value.dequantize() if value.is_quantized else value
    plain = value_of.detach().cpu().resolve_conj().resolve_neg().contiguous()
    data = memoryview(plain.flatten().view(torch.uint8).numpy())
    return [*_unnamed(kind, tuple(value.shape), data), *_sorted(vars(value)).items()]


def _module_parts(module: nn.Module) -> list[tuple[str, Any]]:
    if isinstance(module, torch.jit.ScriptModule):
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what will be instead of torch.jit
            torch.jit.save(module, file)
        return _unnamed(memoryview(file.getvalue()))
    state = vars(module)
    compiled = state["_modules"].get("_orig_mod")  # by torch.compile
    if compiled is not None:
        return [("_orig_mod", compiled)]
    ignored = {"training", "_compiled_call_impl"}
    if isinstance(module, torch.fx.GraphModule):
        ignored.add("meta")  # notes of torch.fx
    parts = []
    for name, value in sorted(state.items()):
        if name in ignored or (name in _BOOKKEEPING and not value):
            continue
        if name in _BOOKKEEPING and "hooks" in name:
            value = list(value.values())  # by number, as handles are
        parts.append((name, value))
    return parts


def _function_parts(function: types.FunctionType) -> list[tuple[str, Any]]:
    names = sorted(_globals_in(function.__code__) & function.__globals__.keys())
    return [
        *_unnamed(function.__code__, function.__defaults__, function.__kwdefaults__),
        *_unnamed(*(cell.cell_contents for cell in function.__closure__ or ())),
        *((name, function.__globals__[name]) for name in names),
        *_sorted(vars(function)).items(),
    ]


def _globals_in(code: types.CodeType) -> set[str]:
    loads = ("LOAD_GLOBAL", "LOAD_NAME")
    own = {i.argval for i in dis.get_instructions(code) if i.opname in loads}
    inner = (_globals_in(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return own.union(*inner)


def _class_parts(cls: type) -> list[tuple[str, Any]]:
    """Tell a class that cannot be imported, because it is local or of a notebook."""
    own = [
        (name, value)
        for name, value in _sorted(vars(cls)).items()
        if name not in _NOT_OF_THE_CLASS and not isinstance(value, _SLOTS)
    ]
    return [*_unnamed(cls.__qualname__, cls.__bases__), *own]


def _pickled_parts(value: Any) -> list[tuple[str, Any]]:
    reduce = copyreg.dispatch_table.get(type(value))
    reduced = reduce(value) if reduce else value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return _unnamed(reduced)
    function, arguments, state, items, pairs, *_ = (*reduced, *3 * [None])
    parts = _unnamed(function, arguments, list(items or ()), list(pairs or ()))
    if type(state) is dict:
        return parts + list(_sorted(state).items())
    return [*parts, ("", state)]


def _unnamed(*parts: Any) -> list[tuple[str, Any]]:
    return [("", part) for part in parts]


def _sorted(state: Any) -> dict[str, Any]:
    return dict(sorted(state.items(), key=lambda item: str(item[0])))


def _is_importable(value: Any) -> bool:
    """Tell whether the name of `value` leads to it, in a module that others import.

    A function of ``__main__`` may be another one tomorrow. What is compiled into
    Python or an extension is also known by its name, although it may lead nowhere.
    """
    if isinstance(value, type) and not value.__flags__ & _IN_PYTHON:
        return True
    name, module = (getattr(value, key, None) for key in ("__qualname__", "__module__"))
    if not isinstance(name, str) or module == "__main__" or module not in sys.modules:
        return False
    found = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _name(value: Any) -> str:
    module = getattr(value, "__module__", "")
    return f"{module}.{getattr(value, '__qualname__', value.__name__)}"
