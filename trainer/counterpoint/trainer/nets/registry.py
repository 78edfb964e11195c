"""Finding a network by name, or by the dotted path of any `nn.Module`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import nn

from counterpoint.streams.errors import UsageError

Factory: TypeAlias = Callable[..., nn.Module]


def make(
    what: str,
    name: str,
    options: Mapping[str, Any],
    known: Mapping[str, Factory],
    given: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network ``name`` made with ``options``.

    Args:
        what: the key in the configuration, for messages (``video.encoder``).
        name: one of ``known``, or the dotted path of a class or function that gives a module.
        given: further keyword arguments that do not come from the configuration.

    Raises:
        UsageError: no such name or path, or it does not take these options.
    """
    factory = known.get(name) or _load(what, name, known)
    try:
        module = factory(**{**(given or {}), **options})
    except TypeError as error:
        raise UsageError(f"{what} = {name!r} with options {dict(options)}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{what} = {name!r} gives a {type(module).__name__}, not an nn.Module")
    return module


def _load(what: str, name: str, known: Mapping[str, Factory]) -> Factory:
    package, _, attribute = name.rpartition(".")
    if not package:
        raise UsageError(
            f"{what}: there is no {name!r}; there are {', '.join(known)}, and any nn.Module by "
            "its dotted path"
        )
    try:
        factory: Factory = getattr(importlib.import_module(package), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{what} = {name!r}: {error}") from error
    return factory
