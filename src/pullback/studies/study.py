"""What a study is: a claim of a document turned into a program that resumes and draws itself.

To add one, write a file in one of the folders here with a subclass of `Study`, `register` an
object of it, and import that file in the folder's `__init__.py`. `parts` has what members share.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pullback.errors import InputError
from pullback.report.figures.style import Figure
from pullback.studies.claims import Claim

Result = dict[str, Any]
"""What was measured for one seed, as plain data (JSON)."""
SIZES = ("quick", "full", "paper")


@dataclass(frozen=True)
class Row:
    """One line of the table beside the document's figures.

    Attributes:
        quantity: what it is.
        here: what was measured.
        document: what the document says, as it does.
    """

    quantity: str
    here: str
    document: str


class Study(ABC):
    """Experiments of a document, and what it claims about them.

    Attributes:
        name: what the command calls it.
        title: a few words.
        source: document, section, figures.
        about: what is done, and how it differs from the document, in a few sentences.
        claims: what is judged.
        sizes: the settings of each size, as plain dataclasses; "quick" takes minutes on two cores,
            "full" hours, "paper" has the document's own numbers.
    """

    name: str
    title: str
    source: str
    about: str
    claims: tuple[Claim, ...]
    sizes: Mapping[str, Any]

    @abstractmethod
    def units(self, settings: Any) -> int:
        """How many pieces the work has; each is kept when it is finished."""

    @abstractmethod
    def steps(self, settings: Any) -> int:
        """How often a unit says that it advances."""

    @abstractmethod
    def measure(self, settings: Any, unit: int, advance: Callable[[int], None]) -> Sequence[Result]:
        """The results of the seeds of one unit; the same unit gives the same results."""

    @abstractmethod
    def statistics(self, result: Result) -> Mapping[str, float | None]:
        """For one seed the statistic of each claim by its name; None where it has none."""

    @abstractmethod
    def figures(self, results: Sequence[Result]) -> list[Figure]:
        """Drawings of all results, from these alone."""

    @abstractmethod
    def table(self, results: Sequence[Result]) -> list[Row]:
        """Numbers beside those of the document."""


_STUDIES: dict[str, Study] = {}


def register(study: Study) -> None:
    """Make a study known by its name.

    Raises:
        InputError: another one has that name, or a size is missing.
    """
    if study.name in _STUDIES:
        raise InputError(f"study: one named {study.name!r} is registered already")
    if set(study.sizes) != set(SIZES):
        raise InputError(f"study {study.name!r}: sizes {sorted(study.sizes)}; give {SIZES}")
    _STUDIES[study.name] = study


def registered() -> tuple[Study, ...]:
    """All studies, in the order of their registration."""
    return tuple(_STUDIES.values())


def topics() -> dict[str, tuple[Study, ...]]:
    """All studies by what their folder says it is about; those from elsewhere under "Others"."""
    found: dict[str, tuple[Study, ...]] = {}
    for study in registered():
        folder = sys.modules.get(type(study).__module__.rpartition(".")[0])
        topic = ((folder and folder.__doc__) or "Others").strip().splitlines()[0]
        found[topic] = (*found.get(topic, ()), study)
    return found


def find(name: str) -> Study:
    """The study of that name.

    Raises:
        InputError: there is none.
    """
    if name not in _STUDIES:
        raise InputError(f"name: {name!r} is no study; choose one of {', '.join(_STUDIES)}")
    return _STUDIES[name]
