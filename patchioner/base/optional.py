"""Optional dependencies: import them where they are used, or say how to install them.

Knows module names and the names of this distribution's extras. Does not know what the modules do.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from patchioner.base.errors import MissingExtraError


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
            f"this needs {module!r}, which is not installed: pip install 'patchioner[{extra}]'",
            name=module,
        ) from error
