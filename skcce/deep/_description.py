"""What tells a network, or a function, from another one that looks the same."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Known by their text.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
# What every module keeps for itself; of no account where it is empty.
_BOOKKEEPING = frozenset(vars(nn.Module()))
_NO_MATTER = ("training", "meta")  # the latter are notes of torch.fx


def describe(value: Any) -> str:
    """Return a digest of all that `value` computes with.

    Tensors and arrays are known by their content; functions and classes that can be
    imported, by their name; other functions by their code and all that it refers to;
    any other object as in a pickle, by its class and its state. The mode of a module,
    its device, and what of it is frozen do not count.

    Raises
    ------
    TypeError
        If something in `value` is known by none of these. The message names it.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        for piece in _pieces(value, "", {}):
            digest.update(len(piece).to_bytes(8, "little"))
            digest.update(piece)
    except RecursionError:
        raise TypeError("something is nested too deeply, or holds itself") from None
    return digest.hexdigest()


def _pieces(value: Any, path: str, seen: dict[int, "_Visit"]) -> Iterator[Any]:
    """Yield bytes that tell `value` from all others.

    path : where it was found, for an error.
    seen : the objects that came before, by their id.
    """
    kind = type(value)
    yield _name(kind).encode()
    if kind in _PLAIN:
        yield repr(value).encode()
    elif isinstance(value, (type, ModuleType)) or _is_importable(value):
        yield _name(value).encode()
    elif kind in (tuple, list, dict):
        for key, item in value.items() if kind is dict else enumerate(value):
            yield from _pieces(key, path, seen)
            yield from _pieces(item, f"{path}.{key}", seen)
        yield b"end"
    elif kind in (set, frozenset):  # they have no order
        yield from (item.encode() for item in sorted(map(describe, value)))
        yield b"end"
    else:
        visit = seen.setdefault(id(value), _Visit(len(seen), value))
        if visit.counts:
            yield f"number {visit.number}".encode()
            return
        visit.counts = True
        for part in _content(value, path):
            if isinstance(part, memoryview):
                yield part
            else:
                yield from _pieces(part, path, seen)
        # Weights may be shared; of other objects, only cycles end here.
        visit.counts = isinstance(value, (Tensor, nn.Module))


@dataclass
class _Visit:
    """An object that came before; kept, or another one might get its id."""

    number: int
    value: Any
    counts: bool = False


def _content(value: Any, path: str) -> list:
    try:
        return _parts(value)
    except Exception as error:  # what cannot be pickled raises anything
        where = f"{path.removeprefix('.')}, " if path else ""
        raise TypeError(f"{where}a {_name(type(value))}: {error}") from error


def _parts(value: Any) -> list:
    """Return what tells an object from others of its class."""
    if isinstance(value, Tensor):
        if nn.parameter.is_lazy(value):  # the first batch will tell its shape
            return []
        value = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        data = value.flatten().view(torch.uint8).numpy()
        return [str(value.dtype), tuple(value.shape), memoryview(data)]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        return [str(value.dtype), value.shape, memoryview(data)]
    if isinstance(value, RemovableHandle):  # its number counts those of the process
        return []
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, value.co_varnames, value.co_consts]
    if isinstance(value, FunctionType):
        return _function_content(value)
    if isinstance(value, torch.fx.Graph):
        code = value.python_code("self")
        return [code.src, dict(sorted(code.globals.items()))]
    if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
        return [_module_state(vars(value))]
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return [reduced]
    function, arguments, state, items, pairs, *_ = (*reduced, *3 * [None])
    if type(state) is dict:
        state = dict(sorted(state.items()))
    return [function, arguments, state, list(items or ()), list(pairs or ())]


def _module_state(state: dict[str, Any]) -> dict[str, Any]:
    return {
        # By number, as handles are.
        name: list(value.values()) if "hooks" in name else value
        for name, value in sorted(state.items())
        if name not in _NO_MATTER and (name not in _BOOKKEEPING or value)
    }


def _function_content(function: FunctionType) -> list:
    return [
        function.__code__,
        function.__defaults__,
        function.__kwdefaults__,
        [cell.cell_contents for cell in function.__closure__ or ()],
        {
            name: function.__globals__[name]
            for name in sorted(_names_in(function.__code__))
            if name in function.__globals__
        },
    ]


def _names_in(code: CodeType) -> set[str]:
    inner = (_names_in(c) for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*inner)


def _is_importable(value: Any) -> bool:
    """Tell whether the name of `value` leads to it, in a module that others import.

    A function of ``__main__`` may be another one tomorrow.
    """
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
