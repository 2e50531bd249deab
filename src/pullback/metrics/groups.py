"""Which parameters share a block, where the caller says so instead of the layers.

    groups={"first": "blocks.0.*", "last": ["norm.*", "head.*"]}     # patterns on names
    groups={"convolutions": nn.Conv2d}                               # types of modules
    groups=lambda name: name                                         # a block for each tensor

A function returns a group's name, or None for parameters that stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn

from pullback.errors import InputError
from pullback.metrics.origin import Members
from pullback.network import Kinds, is_kinds, owned_by
from pullback.parameters import matching

Groups = Mapping[str, str | Sequence[str] | Kinds] | Callable[[str], str | None]


def groups_of(
    groups: Groups, names: Sequence[str], module: nn.Module | None = None
) -> dict[str, Members]:
    """The members of each group, in the order of the parameters.

    Args:
        groups: what the caller said.
        names: the parameters there are.
        module: what they belong to; types of modules can be found with it alone.

    Raises:
        InputError: a group has no member, or a parameter has two groups.
    """
    if callable(groups):
        of_name = {name: groups(name) for name in names}
        chosen = {
            title: {name for name in names if of_name[name] == title}
            for title in of_name.values()
            if title is not None
        }
    elif not isinstance(groups, Mapping):
        raise InputError(
            f"groups: a {type(groups).__name__}; give a mapping from names of groups to patterns, "
            "or a function from a parameter's name to that of its group"
        )
    else:
        chosen = {title: _chosen(title, how, names, module) for title, how in groups.items()}
    _check_apart(chosen)
    return {title: tuple(n for n in names if n in inside) for title, inside in chosen.items()}


def check_titles(groups: Iterable[str], others: Iterable[str]) -> None:
    """Raise InputError where a group has the name of a block of parameters in no group.

    Raises:
        InputError: as said.
    """
    both = set(groups) & set(others)
    if both:
        raise InputError(
            f"groups: {min(both)!r} is also the name of a block of parameters in no group; choose "
            "another name"
        )


def _chosen(
    title: str,
    how: str | Sequence[str] | Kinds,
    names: Sequence[str],
    module: nn.Module | None,
) -> set[str]:
    argument = f"groups[{title!r}]"
    if not is_kinds(how):
        found = matching(how, names, argument)  # type: ignore[arg-type]
        if not found:
            raise InputError(f"{argument}: no patterns; give one at least")
        return found
    if module is None:
        raise InputError(
            f"{argument}: a metric does not keep its module, so types of modules cannot be found; "
            "give patterns on names"
        )
    found = owned_by(how, module, argument) & set(names)
    if not found:
        raise InputError(f"{argument}: none of the parameters of such modules is selected")
    return found


def _check_apart(chosen: Mapping[str, set[str]]) -> None:
    owner: dict[str, str] = {}
    for title, inside in chosen.items():
        for name in sorted(inside):
            if name in owner:
                raise InputError(
                    f"groups: {name!r} is in both {owner[name]!r} and {title!r}; a parameter can "
                    "be in one group"
                )
            owner[name] = title
