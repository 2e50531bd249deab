"""A file with what an unfinished computation has so far, so that the same call goes on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pullback.errors import InputError


class Unfinished:
    """Tensors in one file, which at any time is either the old one or the whole new one.

    Args:
        path: the file (.safetensors); None keeps nothing.
        identity: what is computed, in plain values.
        argument: what the caller's argument is called, for messages.
    """

    def __init__(
        self, path: str | Path | None, identity: Mapping[str, Any], argument: str = "checkpoint"
    ) -> None:
        self.path = None if path is None else Path(path)
        self.identity = json.loads(json.dumps(identity))
        self.argument = argument

    def begin(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the file has; where there is none, it is made with these tensors.

        Raises:
            InputError: it cannot be read or written, or is of another computation.
        """
        if self.path is not None and self.path.exists():
            return self._read(self.path)
        self.write(tensors)
        return dict(tensors)

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the file.

        Raises:
            InputError: it cannot be written.
        """
        if self.path is None:
            return
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            save_file(dict(tensors), partial, {"identity": json.dumps(self.identity)})
            os.replace(partial, self.path)
        except (OSError, SafetensorError) as problem:
            raise InputError(f"{self.argument}: cannot write {self.path}: {problem}") from None

    def _read(self, path: Path) -> dict[str, Tensor]:
        try:
            with safe_open(path, framework="pt") as file:
                identity = json.loads(file.metadata()["identity"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as problem:
            raise InputError(
                f"{self.argument}: cannot read {path}: {problem!r}; delete it"
            ) from None
        other = [key for key, value in self.identity.items() if identity.get(key) != value]
        if other:
            raise InputError(
                f"{self.argument}: {path} was begun with another {', '.join(other)}; give the same "
                "arguments as then, or another file"
            )
        return found
