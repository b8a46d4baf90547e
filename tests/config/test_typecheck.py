from typing import Any, Callable, Dict, List, Literal, Optional, Sequence, Tuple, Union

import pytest

from passl.config.typecheck import Mismatch, convert, describe


@pytest.mark.parametrize("value, annotation, expected", [
    (1, float, 1.0), (1, int, 1), (1, Union[float, int], 1), (1.5, Union[int, float], 1.5), (True, bool, True),
    ("1e-6", float, 1e-6), ("None", Optional[str], None), ("None", Optional[int], None), ("None", str, "None"),
    ("(0.9, 0.999)", Tuple[float, float], [0.9, 0.999]), ("(1, 2)", List[int], [1, 2]), ("(1, 2)", str, "(1, 2)"),
    ((1, 2), List[float], [1.0, 2.0]), ([1, "2"], List[int], [1, 2]), ([None, 3], List[Optional[int]], [None, 3]),
    ("0.5", Union[float, str], "0.5"), ({"a": 1}, Dict[str, float], {"a": 1.0}), ("x", Any, "x"), ("x", Callable, "x"),
    ([1], Sequence[int], [1]), ([1, 2, 3], Tuple[int, ...], [1, 2, 3]), ("soft", Literal["soft", "hard"], "soft"),
    (None, Optional[float], None), ([1], list, [1]), (3000, Union[int, List[int]], 3000),
])
def test_accepted(value, annotation, expected):
    converted = convert(value, annotation)
    assert converted == expected and type(converted) is type(expected)


@pytest.mark.parametrize("value, annotation", [
    (True, int), (True, float), (1.0, int), ("many", int), ("yes", bool), (1, bool), (1, str), (None, str),
    (None, float),
    (5, List[int]), ([1, "x"], List[int]), ([1], Tuple[int, int]), ([1], dict), ("firm", Literal["soft", "hard"]),
    (True, Literal[1]), ({"a": "x"}, Dict[str, float]), ("(1, 2)", Tuple[int, int, int]),
])
def test_refused(value, annotation):
    with pytest.raises(Mismatch):
        convert(value, annotation)


@pytest.mark.parametrize("annotation, text", [
    (int, "int"), (Optional[str], "str or null"), (List[int], "list of int"),
    (Tuple[float, float], "list of 2 values (float, float)"),
    (Dict[str, float], "mapping to float"), (Union[int, List[int]], "int or list of int"),
    (Literal["soft", "hard"], "soft | hard"), (Optional[Literal["a"]], "a | null"),
])
def test_description(annotation, text):
    assert describe(annotation) == text
