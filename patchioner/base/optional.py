"""Optional dependencies, imported where they are used; and our own packages, which others may shadow."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from patchioner.base.errors import MissingExtraError

_ROOT = Path(__file__).resolve().parents[2]


def require(module: str, extra: str) -> ModuleType:
    """Import and return `module`, which the optional `extra` of this distribution installs.

    Raises:
        MissingExtraError: `module` is not installed. An ImportError from inside an installed
            module passes through unchanged: it is not cured by installing the extra.

    Example:
        >>> require("json", "stdlib").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingExtraError(
            f"this needs {module!r}, which is not installed: {install_line(extra)}", name=module
        ) from error


def install_line(extra: str) -> str:
    """The command that installs an extra from where the user is: a checkout, or an installed wheel."""
    if (_ROOT / "setup.cfg").is_file():
        return f"pip install -e '.[{extra}]' (in {_ROOT})"
    return f"pip install 'openpatchioner[{extra}]'"


def refuse_shadows(names: Iterable[str] = ("decoders", "memory_bank")) -> None:
    """Refuse to work with top-level packages that are not the ones beside this one.

    Raises:
        ImportError: a module of the user's is found in place of one of ours; the message names its file.
    """
    for name in names:
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is not None and origin != _ROOT / name / "__init__.py":
            raise ImportError(
                f"{origin} hides Patchioner's own package {name!r}: rename it, or run from another folder",
                name=name,
                path=str(origin),
            )
