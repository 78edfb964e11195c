"""Strict reading of JSON into frozen dataclasses, and back.

The fields of a dataclass are its schema: a key that is missing, unknown or of the wrong type is a
`ShapeError` that names the key by its path (``graphs.vision.inputs[0].shape``).
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from typing import (
    Any,
    Final,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

T = TypeVar("T")

OPTIONAL: Final[Mapping[str, Any]] = {"optional": True}
"""Metadata of a dataclass field with a default that JSON may leave out. `encode` leaves it out
where it has its default: so a key that came later changes no document that was there before."""

_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


class ShapeError(ValueError):
    """A value that does not fit its schema; the message starts with the path of its key."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: {what}" if path else what)


def parse_json(text: str | bytes) -> Any:
    """JSON as the RFC has it: no NaN or infinity, and no key twice in an object.

    Raises:
        ShapeError: not such a document.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ShapeError("", f"not a JSON document ({error})") from error


def decode(hint: type[T], value: Any, path: str = "") -> T:
    """``value`` (as JSON gives it) as an instance of the dataclass ``hint``.

    Field types understood: int, float (finite; integers are taken), str, bool, ``Literal``, unions
    of these, ``tuple[X, ...]``, ``Mapping[str, X]`` (read-only in the result) and dataclasses.

    Raises:
        ShapeError: a key is missing, unknown or of the wrong type.
    """
    result: T = _decode(hint, value, path)
    return result


def encode(value: Any) -> Any:
    """The inverse of `decode`: dataclasses and mappings as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: encode(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata.get("optional") and getattr(value, f.name) == _default(f))
        }
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _decode(hint: Any, value: Any, path: str) -> Any:
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _decode_dataclass(hint, value, path)
    if origin is Literal:
        choices = get_args(hint)
        if not isinstance(value, str) or value not in choices:
            raise ShapeError(path, f"must be one of {', '.join(choices)}, not {value!r}")
        return value
    if origin in (Union, types.UnionType):
        for option in get_args(hint):
            if type(value) is option:
                return value
        expected = " or ".join(_NAMES[option] for option in get_args(hint))
        raise ShapeError(path, f"must be {expected}, not {_NAMES[type(value)]}")
    if origin is tuple:
        _expect(list, value, path)
        item_hint = get_args(hint)[0]
        return tuple(_decode(item_hint, item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        _expect(dict, value, path)
        item_hint = get_args(hint)[1]
        return types.MappingProxyType(
            {key: _decode(item_hint, item, join(path, key)) for key, item in value.items()}
        )
    if hint is float:
        if type(value) not in (int, float):
            raise ShapeError(path, f"must be a number, not {_NAMES[type(value)]}")
        # A literal such as 1e999 overflows to infinity without passing parse_constant.
        if not math.isfinite(value):
            raise ShapeError(path, f"must be finite, not {value}")
        return float(value)
    _expect(hint, value, path)
    return value


def _decode_dataclass(hint: type, value: Any, path: str) -> Any:
    _expect(dict, value, path)
    hints = get_type_hints(hint)
    names = [f.name for f in dataclasses.fields(hint)]
    optional = {f.name for f in dataclasses.fields(hint) if f.metadata.get("optional")}
    for key in value:
        if key not in names:
            raise ShapeError(join(path, key), f"unknown key; known here: {', '.join(names)}")
    for name in names:
        if name not in value and name not in optional:
            raise ShapeError(join(path, name), "missing key")
    fields = {
        name: _decode(hints[name], value[name], join(path, name)) for name in names if name in value
    }
    try:
        return hint(**fields)
    except (ValueError, TypeError) as error:
        raise ShapeError(path, str(error)) from error


def _expect(kind: type, value: Any, path: str) -> None:
    # By exact type: JSON's true is not an integer although Python's is.
    if type(value) is not kind:
        raise ShapeError(path, f"must be {_NAMES[kind]}, not {_NAMES[type(value)]}")


def join(path: str, key: str) -> str:
    """The path of ``key`` within the object at ``path``."""
    return f"{path}.{key}" if path else key


def _no_constant(name: str) -> NoReturn:
    raise ShapeError("", f"not a JSON document ({name} is not a JSON number)")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ShapeError("", f"key {key!r} appears twice in one object")
        result[key] = value
    return result
