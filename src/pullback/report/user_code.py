"""Functions that a user names on the command line, as FILE.py:function."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pullback.errors import InputError


def names_a_function(text: str) -> bool:
    """Whether `text` looks like FILE.py:function rather than like a built-in name."""
    return ":" in text or text.endswith(".py")


def load_function(argument: str, text: str) -> Callable[..., Any]:
    """The function that FILE.py:function names.

    Args:
        argument: what to call it in messages, for example "model".
        text: FILE.py:function.

    Raises:
        InputError: no such file, the file does not import, or it has no such function.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not file or not name:
        raise InputError(f"{argument}: {text!r}; write FILE.py:function")
    if not path.is_file():
        raise InputError(f"{argument}: there is no file {file!r}")
    module = _import(argument, path)
    function = getattr(module, name, None)
    if not callable(function):
        known = sorted(k for k, v in vars(module).items() if inspect.isfunction(v))
        raise InputError(f"{argument}: {file} has no function {name!r}; it has {known}")
    return function


def _import(argument: str, path: Path) -> object:
    # A name of its own, so that a user's torch.py or data.py hides no other module.
    name = f"pullback_user_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise InputError(f"{argument}: {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(specification)
    # Data loaders with workers look their functions' module up by name.
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{argument}: {path} does not import: {one_line(error)}") from error
    finally:
        sys.path.pop(0)
    return module


def call(argument: str, function: Callable[..., Any], *arguments: object) -> Any:
    """The function's result; its own failure becomes an InputError.

    Raises:
        InputError: the function raised.
    """
    try:
        return function(*arguments)
    except InputError:
        raise
    except Exception as error:
        name = getattr(function, "__name__", "the function")
        raise InputError(f"{argument}: {name} failed: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An exception as one line of text."""
    return " ".join(f"{type(error).__name__}: {error}".split())
