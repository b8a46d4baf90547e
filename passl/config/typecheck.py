"""A value against a typing annotation, the same way for the schema tables and for constructor parameters."""
from __future__ import annotations

import collections.abc
import types
import typing
from typing import Any, Mapping

from passl.config.scalars import parse_scalar
from passl.registry import choices, is_declared

_UNIONS = (typing.Union, getattr(types, "UnionType", typing.Union))
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_SCALARS: Mapping[Any, Any] = {bool: bool, int: int, float: (int, float), str: str}


class Mismatch(Exception):
    """The value does not fit the annotation."""


def convert(value: Any, annotation: Any) -> Any:
    """`value` as `annotation` wants it; raises Mismatch.

    An int is a float where a float is wanted; tuples are lists. Quoted text is read as if it were unquoted where text
    does not fit: PASSL files write `betas: "(0.9, 0.999)"` and `'1e-6'`; and `'None'` is None wherever None is allowed.
    Annotations that are not about plain data (a class, a callable) accept anything.
    """
    kinds = typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else [annotation]
    if value == "None" and isinstance(value, str) and (None in kinds or type(None) in kinds):
        return None
    try:
        return _convert(value, annotation)
    except Mismatch:
        if isinstance(value, str) and not isinstance(parse_scalar(value), str):
            return _convert(parse_scalar(value), annotation)
        raise


def _convert(value: Any, annotation: Any) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (None, type(None)):
        return _require(value is None, value)
    if annotation in _SCALARS:  # True is an int to Python
        _require(isinstance(value, _SCALARS[annotation]) and (annotation is bool or not isinstance(value, bool)), value)
        return float(value) if annotation is float else value
    if origin in _UNIONS:
        return _convert_union(value, arguments)
    if origin is typing.Literal:
        return _require(is_declared(value, arguments), value)
    if (origin or annotation) in _LISTS:
        return _convert_list(value, origin, arguments)
    if (origin or annotation) in _MAPPINGS:
        _require(isinstance(value, Mapping), value)
        if len(arguments) == 2:
            for key, item in value.items():
                dict.__setitem__(value, key, convert(item, arguments[1]))
        return value
    return value


def _require(fits: bool, value: Any) -> Any:
    if not fits:
        raise Mismatch
    return value


def _convert_union(value: Any, arguments) -> Any:
    exact_first = sorted(arguments, key=lambda argument: argument is not type(value))
    for argument in exact_first:
        try:
            return convert(value, argument) if argument is not str else _convert(value, argument)
        except Mismatch:
            continue
    raise Mismatch


def _convert_list(value: Any, origin: Any, arguments) -> list:
    _require(isinstance(value, (list, tuple)), value)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        _require(len(value) == len(arguments), value)
        return [convert(item, argument) for item, argument in zip(value, arguments)]
    if arguments:
        return [convert(item, arguments[0]) for item in value]
    return list(value)


def describe(annotation: Any) -> str:
    """The annotation in words: `list of int`, `str or null`, `soft | hard`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (None, type(None)):
        return "null"
    if choices(annotation):
        return " | ".join("null" if choice is None else str(choice) for choice in choices(annotation))
    if origin in _UNIONS:
        return " or ".join(describe(argument) for argument in arguments)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"list of {len(arguments)} values ({', '.join(describe(argument) for argument in arguments)})"
    if (origin or annotation) in _LISTS:
        return f"list of {describe(arguments[0])}" if arguments else "list"
    if (origin or annotation) in _MAPPINGS:
        return f"mapping to {describe(arguments[1])}" if len(arguments) == 2 and arguments[1] is not Any else "mapping"
    return getattr(annotation, "__name__", None) or str(annotation).replace("typing.", "")


def describe_value(value: Any) -> str:
    """The value with its type: `'many' (str)`."""
    if value is None:
        return "null"
    kind = "mapping" if isinstance(value, Mapping) else type(value).__name__
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kind})"
