"""Unquoted text to a value, by the rules of YAML 1.2 plus the habits of PASSL files; nothing is ever evaluated.

    null, Null, NULL, ~, None, empty            None
    true, True, TRUE, false, False, FALSE       bool (yes, no, on and off are text, as in YAML 1.2)
    12, -3, 0x1f, 0o17                          int (010 is ten; 1_000 and 1:30 are text)
    1e-6, .5, 2., 4.8, .inf, -.inf, .nan        float
    1.0/255.0, 1/3                              float: one number divided by another
    (0.9, 0.999), [1, 'a'], ((1, 2), None)      list, when every element is a number as Python writes it, a bool, None,
                                                quoted text or a list; parsed as Python, never run
    anything else                               text

A one-element parenthesis is its element, `(5)` is 5 and `(5,)` is [5], as in Python. Quoted YAML scalars do not come
here: they stay text, and are read as unquoted only where a key does not take text (`passl.config.typecheck`).
"""
from __future__ import annotations

import ast
import itertools
import re
import warnings
from typing import Any

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
_LONGEST_SEQUENCE, _DEEPEST_SEQUENCE = 1000, 8


def parse_scalar(text: str) -> Any:
    """The value of an unquoted scalar: None, bool, int, float, str, or a list for a tuple written as text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "([":
        return _parse_sequence(text)
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


def _parse_sequence(text: str) -> Any:
    """A list for a tuple or list written as text; the text itself where it only looks like one: `(old) images`."""
    depths = itertools.accumulate((mark in "([") - (mark in ")]") for mark in text)
    if len(text) > _LONGEST_SEQUENCE or max(depths) > _DEEPEST_SEQUENCE:
        return text  # beyond any setting; hostile text could otherwise fill the stack of Python's parser
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and numbers, which concern code
            return _element(ast.parse(text.rstrip(), mode="eval").body, text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text


def _element(node: ast.AST, text: str) -> Any:
    """The value of a syntax tree of lists, quoted text and plain values; ValueError for every other kind of code."""
    if isinstance(node, (ast.Tuple, ast.List)):
        return [_element(item, text) for item in node.elts]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    word = ast.get_source_segment(text, node) or "?"
    value = _WORDS[word] if word in _WORDS else _parse_number(word)
    if isinstance(value, str):  # an unquoted word: `(a, b)` is a name, not a list
        raise ValueError
    return value
