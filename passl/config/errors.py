"""What goes wrong with a configuration: one error that lists every problem, and one category of warnings."""
from __future__ import annotations

from typing import Sequence, Union


class ConfigError(ValueError):
    """One or several problems of a configuration, each with the place it came from.

    `problems` holds them one by one; the message puts one on each line.
    """

    def __init__(self, problems: Union[str, Sequence[str]]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        text = self.problems[0]
        if len(self.problems) > 1:
            text = f"{len(self.problems)} problems in the configuration:\n  " + "\n  ".join(self.problems)
        super().__init__(text)

    def __reduce__(self):
        return type(self), (self.problems,)


class ConfigWarning(UserWarning):
    """A key that is accepted for the sake of older PASSL files but does not do what its name says."""
