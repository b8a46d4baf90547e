"""SIGTERM and SIGINT as a request to finish the step, save and leave."""
from __future__ import annotations

import signal
import time
from typing import Optional

# paddle.distributed.launch passes a SIGTERM on three times, 0.2 s apart, to one rank after the other; a scheduler may
# signal launcher and ranks at once. All of these are the same request.
REPEAT_SECONDS = 10.0


class Interrupt:
    """Context manager: the first SIGTERM or SIGINT only sets `requested`, and so do those that follow within 10 s.

    Later ones do what they did before. After a request the block's end does not change that: repeats still under way
    must not kill a process that is just leaving in order.
    """

    def __init__(self):
        self.requested: Optional[str] = None
        self._since = 0.0
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the embedding program owns the signals
                pass
        return self

    def request(self, reason: str) -> None:
        """Note that the run is to end, unless that is known already: a signal of this process, or of another rank."""
        if self.requested is None:
            self.requested, self._since = reason, time.monotonic()

    def _note(self, number, frame):
        if self.requested is not None and time.monotonic() - self._since > REPEAT_SECONDS:
            self._restore()
            signal.raise_signal(number)
            return
        self.request(signal.Signals(number).name)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def __exit__(self, *exception):
        if self.requested is None:
            self._restore()
