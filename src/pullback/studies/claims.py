"""What a document claims, as a statistic with a threshold, and what the seeds say to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from pullback.errors import InputError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Claim:
    """One statement of a document that a number can bear out.

    Attributes:
        name: a short identifier, unique in its study.
        statement: what is claimed, in words.
        statistic: what is computed for each seed.
        threshold: where the statistic has to be beyond.
        above: whether beyond is above.
    """

    name: str
    statement: str
    statistic: str
    threshold: float
    above: bool


@dataclass(frozen=True)
class Verdict:
    """A claim, judged over seeds.

    Attributes:
        claim: the claim.
        values: the statistic of each seed that has one.
        missing: how many seeds have none.
        mean: over seeds.
        low, high: the interval that holds the expected value with 95 % confidence (Student's t).
        verdict: "holds" where the whole interval is beyond the threshold, "fails" where none of it
            is, "open" where the threshold is inside, or there are fewer than two values.
    """

    claim: Claim
    values: tuple[float, ...]
    missing: int
    mean: float | None
    low: float | None
    high: float | None
    verdict: str


def judged(claim: Claim, values: Sequence[float | None]) -> Verdict:
    """The verdict over the statistics of all seeds; None is a seed that has none.

    Raises:
        InputError: a value is not finite.

    Example:
        >>> from pullback.studies import Claim, judged
        >>> claim = Claim("rises", "It rises.", "end minus start", 0.0, above=True)
        >>> found = judged(claim, [0.9, 1.0, 1.1])
        >>> found.verdict, round(found.low, 3), round(found.high, 3)
        ('holds', 0.752, 1.248)
    """
    known = tuple(float(value) for value in values if value is not None)
    if not all(map(math.isfinite, known)):
        raise InputError(f"claim {claim.name!r}: a statistic is not finite: {known}")
    missing = len(values) - len(known)
    mean = sum(known) / len(known) if known else None
    if mean is None or len(known) < 2:
        return Verdict(claim, known, missing, mean, None, None, "open")
    error = float(stats.sem(known))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1)) * error
    low, high = mean - reach, mean + reach
    if claim.above:
        beyond, within = low > claim.threshold, high <= claim.threshold
    else:
        beyond, within = high < claim.threshold, low >= claim.threshold
    verdict = "holds" if beyond else "fails" if within else "open"
    return Verdict(claim, known, missing, mean, low, high, verdict)
