"""Unquoted text to a value, by the rules of YAML 1.2 plus the habits of PASSL files; nothing is ever evaluated.

    null, Null, NULL, ~, None, empty            None
    true, True, TRUE, false, False, FALSE       bool (yes, no, on and off are text, as in YAML 1.2)
    12, -3, 0x1f, 0o17                          int (010 is ten; 1_000 and 1:30 are text)
    1e-6, .5, 2., 4.8, .inf, -.inf, .nan        float
    1.0/255.0, 1/3                              float: one number divided by another
    (0.9, 0.999), [1, 'a'], ((1, 2), None)      list, when every element is a number, a bool, None, quoted or a list
    anything else                               text

A one-element parenthesis is its element, `(5)` is 5 and `(5,)` is [5], as in Python. Quoted YAML scalars do not come
here: they stay text, and are read as unquoted only where a key does not take text (`passl.config.typecheck`).
"""
from __future__ import annotations

import re
from typing import Any, List, Tuple

_WORDS = {word: value for words, value in (
    (("null", "Null", "NULL", "~", "None", ""), None),
    (("true", "True", "TRUE"), True),
    (("false", "False", "FALSE"), False),
) for word in words}
_DECIMAL = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_INT = re.compile(r"[-+]?[0-9]{1,4000}")  # Python refuses to read more digits
_HEX_OR_OCTAL = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(_DECIMAL)
_SPECIAL_FLOAT = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_FRACTION = re.compile(rf"({_DECIMAL})\s*/\s*({_DECIMAL})")
_TOKEN = re.compile(r"""\s*(?:([()\[\],])|('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|([^()\[\],'"]+))""")


def parse_scalar(text: str) -> Any:
    """The value of an unquoted scalar: None, bool, int, float, str, or a list for a tuple written as text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "([":
        try:
            return _parse_sequence(text)
        except _NotASequence:
            return text
    return _parse_number(text)


def _parse_number(text: str) -> Any:
    if _INT.fullmatch(text):
        return int(text)
    if _HEX_OR_OCTAL.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    special = _SPECIAL_FLOAT.fullmatch(text)
    if special:
        return float("nan") if special.group(3) else float(special.group(1) + "inf")
    fraction = _FRACTION.fullmatch(text)
    if fraction and float(fraction.group(2)):
        return float(fraction.group(1)) / float(fraction.group(2))
    return text


class _NotASequence(Exception):
    """The text only looks like a tuple, for instance the path `(old) images`."""


def _parse_sequence(text: str) -> Any:
    tokens = _tokens(text)
    value, end = _read(tokens, 0, depth=0)
    if end != len(tokens):
        raise _NotASequence
    return value


def _tokens(text: str) -> List[Tuple[str, Any]]:
    tokens, position, text = [], 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _NotASequence
        mark, quoted, word = match.groups()
        if mark:
            tokens.append((mark, None))
        elif quoted:
            tokens.append(("value", re.sub(r"\\(.)", r"\1", quoted[1:-1], flags=re.DOTALL)))
        elif word.strip():
            value = _WORDS[word.strip()] if word.strip() in _WORDS else _parse_number(word.strip())
            if isinstance(value, str):  # an unquoted word: `(a, b)` is a name, not a list
                raise _NotASequence
            tokens.append(("value", value))
        position = match.end()
    return tokens


def _read(tokens, position, depth) -> Tuple[Any, int]:
    """One element starting at `position`: (value, position behind it)."""
    if position >= len(tokens) or depth > 32:
        raise _NotASequence
    mark, value = tokens[position]
    if mark == "value":
        return value, position + 1
    if mark not in "([":
        raise _NotASequence
    closing, items, commas = ")" if mark == "(" else "]", [], 0
    position += 1
    while position < len(tokens) and tokens[position][0] != closing:
        item, position = _read(tokens, position, depth + 1)
        items.append(item)
        if position < len(tokens) and tokens[position][0] == ",":
            commas, position = commas + 1, position + 1
        elif position >= len(tokens) or tokens[position][0] != closing:
            raise _NotASequence
    if position >= len(tokens):
        raise _NotASequence
    if mark == "(" and len(items) == 1 and not commas:
        return items[0], position + 1
    return items, position + 1
