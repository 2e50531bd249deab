"""What happens to the tangent kernel while a network learns (George 2023, chapter 6)."""

from __future__ import annotations

from pullback.studies.alignment import (  # noqa: F401  (each registers)
    disk,
    features,
    hierarchy,
    singular_vectors,
    spectrum,
)
