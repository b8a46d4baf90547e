"""How fast a pass over images is and what its time is spent on: a bar while it runs, a line at its end."""
from __future__ import annotations

import logging
import time

from tqdm import tqdm

LOGGER = logging.getLogger("passl.inference")
SAID_FROM = 2.0  # seconds; a shorter pass needs no account


class Pace:
    """The account of one pass. Silent unless the log shows INFO, as the commands have it; the bar wants a terminal.

    images: about how many the pass has. bar: whether to draw one, when nobody else does.
    """

    def __init__(self, images: int, bar: bool = True):
        self.begin = time.perf_counter()
        self.done, self.waiting, self.network = 0, 0.0, 0.0
        is_shown = bar and LOGGER.isEnabledFor(logging.INFO)
        self.bar = tqdm(total=images, unit="image", unit_scale=True, leave=False, dynamic_ncols=True,
                        disable=None if is_shown else True)  # None: shown on a terminal only

    def note(self, images: int, waiting: float, network: float) -> None:
        """One batch is done: its images, the seconds that the network waited for them and that it took."""
        self.done, self.waiting, self.network = self.done + images, self.waiting + waiting, self.network + network
        self.bar.update(images)

    def close(self, starting: float = 0.0) -> None:
        """The pass is over. starting: seconds within the network's that were spent on building an engine."""
        self.bar.close()
        seconds = time.perf_counter() - self.begin
        if seconds >= SAID_FROM and self.done:
            rest = max(0.0, seconds - self.waiting - self.network)
            LOGGER.info(f"{self.done} images in {seconds:.1f} s, {self.done / seconds:.1f} images/s: network "
                        f"{self.network - starting:.1f} s, start of the engine {starting:.1f} s, waiting for images "
                        f"{self.waiting:.1f} s, the rest {rest:.1f} s")
