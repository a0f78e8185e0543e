"""Registries: parts by name, filled at import by decorators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Generic, TypeVar

from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named parts of one kind, e.g. all backbones.

    Args:
        kind: what the parts are, in the singular, for messages ("backbone").
        homes: names -> modules that register them, imported when the name is first asked for. So a part with heavy
            or optional needs costs nothing to those who do not use it.

    Example:
        >>> shapes: Registry[type] = Registry("shape")
        >>> @shapes.register("square")
        ... class Square: ...
        >>> shapes.get("square") is Square
        True
    """

    def __init__(self, kind: str, homes: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._homes = dict(homes or {})
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files a part under `name`; taken twice, it is an OptionError."""

        def file_under_name(part: T) -> T:
            if name in self._parts:
                raise OptionError(f"{self.kind} {name!r} is registered twice; choose another name")
            self._parts[name] = part
            return part

        return file_under_name

    def get(self, name: str) -> T:
        """Return the part called `name`, or raise UnknownNameError offering the close names."""
        if name not in self._parts and name in self._homes:
            import_module(self._homes[name])
        try:
            return self._parts[name]
        except KeyError:
            raise UnknownNameError.among(self.kind, name, self.names()) from None

    def of_config(self, config: object, source: str) -> T:
        """Return the part that a config names by its "type"; CheckpointError, with `source`, where it does not."""
        kind = config.get("type") if isinstance(config, Mapping) else None
        if not isinstance(kind, str) or kind not in self:
            known = ", ".join(map(repr, self.names()))
            unknown = UnknownNameError.among(f"type of {self.kind}", str(kind), self.names())
            raise CheckpointError(f'{source} must name its "type", one of {known}: {unknown}')
        return self.get(kind)

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted({*self._parts, *self._homes}))

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self._homes
