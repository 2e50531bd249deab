"""The experiments of the source documents, as programs with claims that a machine can check."""

from __future__ import annotations

from pullback.studies import (  # noqa: F401  (members register)
    alignment,
    anisotropy,
    linearized,
    regimes,
)
from pullback.studies.claims import Claim, Verdict, judged
from pullback.studies.run import run_study, show_study, stored, verdicts
from pullback.studies.study import Result, Row, Study, find, register, registered, topics

__all__ = [
    "Claim",
    "Result",
    "Row",
    "Study",
    "Verdict",
    "find",
    "judged",
    "register",
    "registered",
    "run_study",
    "show_study",
    "stored",
    "topics",
    "verdicts",
]
