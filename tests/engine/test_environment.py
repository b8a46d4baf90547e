"""What is set before Paddle is imported."""
import pytest

from passl.engine import environment


@pytest.mark.parametrize("configured, inherited, expected", [
    (None, None, "3"), (None, "5", "5"), (2, None, "2"), (2, "5", "2")])
def test_the_configured_number_of_threads_wins_over_the_environment(monkeypatch, configured, inherited, expected):
    monkeypatch.setattr(environment, "available_cores", lambda: 6)
    monkeypatch.setenv("PADDLE_TRAINER_ENDPOINTS", "10.0.0.1:1,10.0.0.1:2,10.0.0.2:1")
    monkeypatch.setenv("PADDLE_CURRENT_ENDPOINT", "10.0.0.1:2")
    monkeypatch.setenv("OMP_NUM_THREADS", inherited or "")
    if inherited is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    assert environment.prepare(configured, cpu=False) == int(expected)
    assert environment.os.environ["OMP_NUM_THREADS"] == expected
