"""Two things measured in turn, so that a slow minute of a shared machine slows both sides of the ratio."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

B = TypeVar("B")
S = TypeVar("S")


@dataclass(frozen=True)
class Comparison:
    """What each round measured, in the same unit on both sides."""

    baseline: Sequence[float]
    subject: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        return [ours / theirs for ours, theirs in zip(self.subject, self.baseline, strict=True)]

    @property
    def ratio(self) -> float:
        """Subject over baseline: the median of the rounds' own ratios."""
        return median(self.ratios)


def alternate(rounds: int, *, baseline: Callable[[], B], subject: Callable[[], S]) -> tuple[list[B], list[S]]:
    """What `rounds` pairs gave, baseline first; the one that is measured first changes from pair to pair."""
    theirs: list[B] = []
    ours: list[S] = []
    for number in range(rounds):
        if number % 2:
            ours.append(subject())
            theirs.append(baseline())
        else:
            theirs.append(baseline())
            ours.append(subject())
    return theirs, ours
