"""The one error that a user of the library can cause."""

from __future__ import annotations


class InputError(ValueError):
    """Input that the library cannot work with.

    The message names the argument, says what is wrong with it and what to do instead.

    Example:
        >>> from pullback.errors import InputError
        >>> raise InputError("split='dev' is unknown; choose 'train' or 'test'")
        Traceback (most recent call last):
        pullback.errors.InputError: split='dev' is unknown; choose 'train' or 'test'
    """
