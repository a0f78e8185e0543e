"""Libraries: what is imported when asked for, optional or by name; our own packages, which others may hide; bounds."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar
from urllib.parse import unquote, urlsplit

from patchioner.base.errors import (
    CheckpointError,
    HubError,
    MissingExtraError,
    OptionError,
    UnknownNameError,
    first_line,
)

T = TypeVar("T")
_ROOT = Path(__file__).resolve().parents[2]
_ARENA_MAX = -8  # glibc's M_ARENA_MAX


def require(module: str, extra: str) -> ModuleType:
    """Import and return `module`, which the optional `extra` of this distribution installs.

    MissingExtraError: it is not installed. An ImportError from inside an installed module passes through.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingExtraError(
            f"this needs {module!r}, which is not installed: {install_line(extra)}", name=module
        ) from error


def read_pretrained(source: str, *kinds: str, dtype: object, offline: bool = False) -> list[Any]:
    """What classes of `transformers` read of a hub id or folder; the network is the last, of safetensors.

    HubError: it cannot be had; MissingExtraError: a package is missing; OptionError: no such model.
    """
    transformers = require("transformers", "language-models")
    how: dict[str, Any] = {"trust_remote_code": False, "local_files_only": offline}
    found = []
    try:
        for kind in kinds:
            if kind == kinds[-1]:
                how |= {"dtype": dtype, "use_safetensors": True}
            found.append(getattr(transformers, kind).from_pretrained(source, **how))
    except OSError as error:
        remedy = "give the id of a model with safetensors weights, or a folder that holds one"
        said = f"the model {source!r} cannot be read: {first_line(error)}; {remedy}"
        raise HubError(said) from error
    except ImportError as error:
        said = f"{source!r} needs a package that is not installed: {first_line(error)}"
        raise MissingExtraError(said) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"{source!r} is no model transformers reads as {kinds[-1]} ({first_line(error)})"
        raise OptionError(f"{said}; code that comes with a model is never run") from error
    return found


def install_line(extra: str) -> str:
    """The command that installs an extra from where the user is: a checkout, what came from one, or a wheel."""
    if (_ROOT / "setup.cfg").is_file():
        return f"pip install -e '.[{extra}]' (in {_ROOT})"
    with suppress(PackageNotFoundError, ValueError, KeyError):
        origin = json.loads(distribution("openpatchioner").read_text("direct_url.json") or "{}")
        folder = unquote(urlsplit(origin["url"]).path)
        if "dir_info" in origin and Path(folder).is_dir():
            return f"pip install '{folder}[{extra}]'"
    return f"pip install 'openpatchioner[{extra}]'"


def bound_memory(kernels: int = 128) -> None:
    """Bound what libraries keep in a process that runs for long; to be called before a model is loaded.

    `kernels` are oneDNN's, one for each shape of batch (its own limit, 1,024, takes 340 MB); threads share a heap.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(kernels))
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(_ARENA_MAX, 1)


def refuse_shadows(names: Iterable[str] = ("decoders", "memory_bank")) -> None:
    """Refuse, by an ImportError, a module of the user's that is found in place of a package of ours."""
    for name in names:
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is not None and origin != _ROOT / name / "__init__.py":
            raise ImportError(
                f"{origin} hides Patchioner's own package {name!r}: rename it, or run from another folder",
                name=name,
                path=str(origin),
            )


class Registry(Generic[T]):
    """A table of named parts of one kind, e.g. all backbones.

    Args:
        kind: what the parts are, in the singular, for messages ("backbone").
        homes: names -> where each is, "module:attribute", imported when it is asked for.

    Example:
        >>> paths: Registry[type] = Registry("path", {"pure": "pathlib:PurePath"})
        >>> paths.get("pure").__name__
        'PurePath'
    """

    def __init__(self, kind: str, homes: Mapping[str, str]) -> None:
        self.kind, self._homes = kind, dict(homes)

    def get(self, name: str) -> T:
        """Return the part called `name`, or raise UnknownNameError offering the close names."""
        if name not in self._homes:
            raise UnknownNameError.among(self.kind, name, self._homes)
        module, _, attribute = self._homes[name].partition(":")
        part: T = getattr(importlib.import_module(module), attribute)
        return part

    def of_config(self, config: object, source: str) -> T:
        """Return the part that a config names by its "type"; CheckpointError, with `source`, where it does not."""
        kind = config.get("type") if isinstance(config, Mapping) else None
        if not isinstance(kind, str) or kind not in self._homes:
            unknown = UnknownNameError.among(f"type of {self.kind}", str(kind), self._homes)
            raise CheckpointError(f'{source} must name its "type": {unknown}')
        return self.get(kind)

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted(self._homes))
