"""The -p option: its parsing, and a trace of real steps."""
import pytest

from passl.engine.profile import Profile
from tests.engine.runs import trainer


@pytest.mark.parametrize("options, message", [
    ({"batch": "1"}, "unknown key 'batch'; known: batch_range"),
    ({"batch_range": "[5]"}, r"batch_range=\[5\]: expected two steps"),
    ({"batch_range": "[5, 5]"}, "second step must lie after"),
    ({"sorted_key": "name"}, "choose one of CPUTotal"),
])
def test_refuses_what_it_does_not_know(options, message):
    with pytest.raises(ValueError, match=message):
        Profile(options)


def test_writes_a_trace_of_the_steps(config, tmp_path, capsys):
    from passl.engine.trainer import Trainer

    prepared = trainer(config, "Global.max_train_step=4").config
    Trainer(prepared, [Profile({"batch_range": "[1, 3]", "profile_path": str(tmp_path / "profile")})]).run()
    assert list((tmp_path / "profile").glob("*.json"))
    assert "conv2d" in capsys.readouterr().out
