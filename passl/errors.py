"""What a user can cause: one base of errors that say what is wrong and what to do, and one category of warnings.

Commands catch `UserError` and OSError and print the message; everything else is a fault of this library and keeps its
traceback. A room that needs to tell its errors apart has a subclass here.
"""
from __future__ import annotations

from typing import Sequence, Union


class UserError(ValueError):
    """Something that the user can put right.

    problem: what is wrong and where (file and line, key, or value). remedy: what to do, when it does not stand in
    `problem` already; whoever calls from another place may raise the same problem again with a remedy of its own.
    """

    def __init__(self, problem: str, remedy: str = ""):
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}; {remedy}" if remedy else problem)

    def __reduce__(self):
        return type(self), (self.problem, self.remedy)


class ConfigError(UserError):
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


class DataError(UserError):
    """Data that cannot be used; the message says which file or folder, why, and what to do."""


class CheckpointError(UserError):
    """A weight file that is damaged, truncated, of unknown format, or that does not fit the model."""


class UnsafeCheckpoint(CheckpointError):
    """A weight file that asks for more than plain values and arrays; nothing of it was executed."""


class UnknownComponent(UserError, KeyError):
    """A name that no component of this kind is registered under; the message names the nearest one."""

    def __str__(self) -> str:
        return self.args[0]


class NotFinite(UserError, FloatingPointError):
    """NaN or infinity where every number has to be one."""
