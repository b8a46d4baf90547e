import math

import pytest

from passl.config.scalars import parse_scalar


@pytest.mark.parametrize("text, value", [
    ("null", None), ("Null", None), ("NULL", None), ("~", None), ("None", None), ("", None),
    ("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False),
    ("0", 0), ("-3", -3), ("+7", 7), ("010", 10), ("0x1F", 31), ("0o17", 15),
    ("1e-6", 1e-6), ("1E3", 1000.0), ("4.8", 4.8), ("0.", 0.0), (".5", 0.5), ("-1.5e+2", -150.0), (".inf", math.inf),
    ("-.inf", -math.inf), ("1.0/255.0", 1 / 255), ("1/4", 0.25), ("-1e2 / 8", -12.5),
    ("(0.9, 0.999)", [0.9, 0.999]), ("[1, 2]", [1, 2]), ("()", []), ("(5,)", [5]), ("(5)", 5),
    ("((1, 2), None)", [[1, 2], None]),
    ("(True, 'a, b', \"c\")", [True, "a, b", "c"]), ("(1e-3, 1/2)", [1e-3, 0.5]), ("(1, [2, (3,)])", [1, [2, [3]]]),
])
def test_value_and_type(text, value):
    parsed = parse_scalar(text)
    assert parsed == value and type(parsed) is type(value)


def test_not_a_number():
    assert math.isnan(parse_scalar(".nan"))


@pytest.mark.parametrize("text", [
    "yes", "no", "on", "off", "none", "tRUE", "nan", "inf", "1_000", "1:30", "2020-01-01", "1/0", "1.0/x", "a/b", "e5",
    "1e",
    "O1", "./output/", "__import__('os').getcwd()", "max", "v", "2**10", "(old) images", "(a, b)", "(1, 2", "(1 2)",
    "(1,,2)", "[1, 2)", "(1, 2) tail", "'quoted", "(", "([)]", "lambda: 0",
])
def test_text_stays_text(text):
    assert parse_scalar(text) == text


@pytest.mark.parametrize("text", [
    "(" * 10_000 + ")" * 10_000, "[" * 9 + "]" * 9, "(" * 10_000, "[{(" * 300, "(" + "-" * 900 + "1)",
    "(" + "not " * 200 + "1)", "(1" + ", 1" * 400 + ")", "(" + "1+" * 400 + "1)", "(lambda:" * 8 + "1" + ")" * 8,
    "((1)+(2), 3)", "[1][0]", "(1).real", "[x for x in (1, 2)]", "(1_000, 2)", "({1}, {2: 3})", "(b'a', 1)", "(1j,)",
    "(f'{1}',)", "(*[1], 2)", "(x := 1)", "(...)", "(__import__('os'),)", "(9" + "9" * 5000 + ",)", "(\0)", "(\ud800)",
    "('\\N{bad}',)", "('\\d' 1)", "(1 is 1)", "(yield)", "(await x)",
])
def test_hostile_text_stays_text_and_warns_of_nothing(text, recwarn):
    assert parse_scalar(text) == text and not recwarn


def test_the_longest_sequence_that_is_read():
    assert parse_scalar("(" + "1, " * 300 + ")") == [1] * 300
