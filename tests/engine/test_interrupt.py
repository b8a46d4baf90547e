"""Repeated signals are one request; later ones, and signals outside a run, do what they always did."""
import signal

import pytest

from passl.engine.interrupt import REPEAT_SECONDS, Interrupt

pytestmark = pytest.mark.usefixtures("signals_restored")


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def before():
    """Signals that reached the handler which was there before the run."""
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    return seen


def test_repeats_of_the_launcher_are_one_request(clock, before):
    with Interrupt() as interrupt:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            clock[0] += 0.2
        assert interrupt.requested == "SIGTERM"
    signal.raise_signal(signal.SIGTERM)  # one that was still under way when the run had saved and left
    assert before == []


@pytest.mark.parametrize("inside", [True, False])
def test_a_later_signal_does_what_it_did_before(clock, before, inside):
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        clock[0] += REPEAT_SECONDS + 1
        if inside:
            signal.raise_signal(signal.SIGTERM)
    if not inside:
        signal.raise_signal(signal.SIGTERM)
    assert before == [signal.SIGTERM] and interrupt.requested == "SIGINT"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_stopped_the_run_first_is_the_reason(clock, before):
    with Interrupt() as interrupt:
        interrupt.request("another rank")
        signal.raise_signal(signal.SIGTERM)
    assert interrupt.requested == "another rank" and before == []


def test_a_run_without_signals_leaves_the_handlers_as_they_were(before):
    with Interrupt() as interrupt:
        pass
    signal.raise_signal(signal.SIGTERM)
    assert before == [signal.SIGTERM] and interrupt.requested is None
