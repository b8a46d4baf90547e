"""pytest plugin: how much of its bound every comparison uses, written to the file that PASSL_MARGINS names.

    PASSL_MARGINS=margins.jsonl python -m pytest -p tests.machines.margins tests/methods

One line a place in the tests, {"test", "place", "used"}: the largest |found - expected| / bound, 1 at the bound.
With PASSL_ROUNDING=1, 2, ... float32 is rounded otherwise than this machine rounds it (`rounding.py`).
"""
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.machines.rounding import another_rounding

TESTS = str(Path(__file__).parents[1])
USED = {}


def note(difference, bound):
    frame = sys._getframe(2)
    while frame and not frame.f_code.co_filename.startswith(TESTS):
        frame = frame.f_back
    if frame is None:
        return
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" (", 1)[0]
    key = test, f"{os.path.relpath(frame.f_code.co_filename, TESTS)}:{frame.f_lineno}"
    with np.errstate(all="ignore"):
        shares = np.where(np.asarray(difference) == 0, 0, np.asarray(difference) / np.asarray(bound, float))
    USED[key] = max(USED.get(key, 0.0), float(np.nanmax(shares, initial=0.0)))


def watch_numpy():
    original = np.testing.assert_allclose

    def assert_allclose(actual, desired, rtol=1e-7, atol=0, *rest, **options):
        found, wanted = np.asarray(actual, float), np.asarray(desired, float)
        if found.shape == wanted.shape or not found.ndim or not wanted.ndim:
            note(np.abs(found - wanted), atol + rtol * np.abs(wanted))
        return original(actual, desired, rtol, atol, *rest, **options)

    np.testing.assert_allclose = assert_allclose


def watch_approx():
    kind = type(pytest.approx(1.0))
    original = kind.__eq__

    def equal(self, actual):
        if isinstance(actual, (int, float, np.number)) and isinstance(self.expected, (int, float, np.number)):
            note(abs(float(actual) - float(self.expected)), float(self.tolerance))
        return original(self, actual)

    kind.__eq__ = equal


def pytest_configure(config):
    watch_numpy()
    watch_approx()
    if os.environ.get("PASSL_ROUNDING"):
        another_rounding(int(os.environ["PASSL_ROUNDING"])).__enter__()  # to the end of the process


def pytest_sessionfinish(session):
    with open(os.environ["PASSL_MARGINS"], "a") as file:
        for (test, place), used in USED.items():
            file.write(json.dumps({"test": test, "place": place, "used": used}) + "\n")
