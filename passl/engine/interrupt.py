"""SIGTERM and SIGINT as a request to finish the step, save and leave."""
from __future__ import annotations

import signal
from typing import Optional


class Interrupt:
    """Context manager: the first SIGTERM or SIGINT only sets `requested`; a second one ends the process as usual."""

    def __init__(self):
        self.requested: Optional[str] = None
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the embedding program owns the signals
                pass
        return self

    def _note(self, number, frame):
        self.requested = signal.Signals(number).name
        signal.signal(number, self._previous.get(number) or signal.SIG_DFL)

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
