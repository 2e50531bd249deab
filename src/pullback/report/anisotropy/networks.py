"""The architecture of a look at directions: one by name, or the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from pullback.anisotropy.models import ARCHITECTURES
from pullback.anisotropy.population import MakeModel
from pullback.errors import InputError
from pullback.report import user_code
from pullback.report.anisotropy.settings import AnisotropySettings


def factory(settings: AnisotropySettings) -> MakeModel:
    """What draws a network: a built-in architecture, or FILE.py:function.

    A built-in one has as many outputs as the settings name.

    Raises:
        InputError: an unknown name, a file without that function, or a width for a file.
    """
    name, read_out = settings.model, settings.read_out
    if user_code.names_a_function(name):
        if settings.width != 1:
            raise InputError(f"width: {settings.width}, for {name}; it is that of named ones alone")
        function = user_code.load_function("model", name)
        arguments = (settings.sizes,) if _needs_one(function) else ()
        return partial(user_code.call, "model", function, *arguments)
    if name not in ARCHITECTURES:
        raise InputError(
            f"model: {name!r} is unknown; choose one of {sorted(ARCHITECTURES)} or write "
            "FILE.py:function"
        )
    highest = max(read_out) if isinstance(read_out, tuple) else read_out or 0
    return partial(ARCHITECTURES[name], settings.sizes, highest + 1, width=settings.width)


def _needs_one(function: Callable[..., object]) -> bool:
    """Whether a function cannot be called without an argument."""
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) == 1
