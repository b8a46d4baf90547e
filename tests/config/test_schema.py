import subprocess
import sys

import pytest

from passl.config.__main__ import lines
from passl.config.fields import ABSENT, REQUIRED, Section
from passl.config.schema import SCHEMA
from passl.config.typecheck import convert


def keys(section, path=""):
    for key in section.keys.values():
        name = f"{path}.{key.name}".lstrip(".")
        yield pytest.param(key, id=name)
        if isinstance(key.type, Section):
            yield from keys(key.type, name)


@pytest.mark.parametrize("key", keys(SCHEMA))
def test_defaults_fit_their_own_row(key):
    assert key.help.endswith(".")
    if key.default in (REQUIRED, ABSENT) or isinstance(key.type, Section):
        return
    assert convert(key.default, key.type) == key.default
    assert key.minimum is None or key.default is None or key.default >= key.minimum


def test_the_tables_print():
    printed = list(lines())
    assert "Global.eval_unit: epoch | step = epoch  # What eval_interval counts." in printed
    assert "Loss.Train.*.weight: float = 1.0  # Factor of this loss in the sum." in printed
    assert "Global.task_type: accepted, no effect  # Model.name decides the task" in printed


def test_loading_and_checking_imports_no_paddle():
    code = ("import sys, passl.config, passl.cli.run; "
            "passl.config.check(passl.config.Config({'Global': {'epochs': 1}, 'Model': {'name': 'x'}}), {}); "
            "print([name for name in ('paddle', 'cv2', 'sklearn', 'visualdl') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
