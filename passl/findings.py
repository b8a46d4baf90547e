"""What a look at a run has found: one value for advice before the start, for the watch during it, and for refusals."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Literal, Tuple

from passl.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One thing that whoever starts a run should know.

    level: "note" (worth knowing), "warning" (probably not what is meant) or "refusal" (the run must not start).
    problem: what is so, and where. why: what follows from it, or what to do, when the problem does not say it.
    overrides: settings that help, as KEY=VALUE, the first to try first. `str` makes one sentence of all.
    """

    level: Literal["note", "warning", "refusal"]
    problem: str
    why: str = ""
    overrides: Tuple[str, ...] = ()

    def __str__(self) -> str:
        remedies = ", ".join(f"-o {override}" for override in self.overrides)
        return "; ".join(filter(None, [self.problem, ": ".join(filter(None, [self.why, remedies]))]))


def warning(problem: str, why: str = "", *overrides: str) -> Finding:
    return Finding("warning", problem, why, overrides)


def refuse(findings: Iterable[Finding]) -> None:
    """Raise one UserError with all refusals among `findings`, one on each line; nothing when there are none."""
    refusals = [str(finding) for finding in findings if finding.level == "refusal"]
    if refusals:
        raise UserError(refusals[0] if len(refusals) == 1 else
                        f"{len(refusals)} reasons not to start:\n  " + "\n  ".join(refusals))
