"""Reading a YAML file of plain values, with one kind of error for all that can be wrong with it.

Knows: the YAML format, by way of pyyaml's safe loader. Does not know: which keys a file should have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from patchioner.base.errors import CheckpointError
from patchioner.base.optional import require


def read_yaml(path: Path) -> Any:
    """The values of a YAML file; tags that would make anything but plain values are refused.

    Raises:
        CheckpointError: it cannot be read, is not UTF-8, or is no plain YAML.
        MissingExtraError: pyyaml is not installed.

    Example:
        >>> read_yaml(Path("configs/dinov2-vitb14.yaml"))["name"]  # doctest: +SKIP
        'dinov2-vitb14'
    """
    yaml = require("yaml", "published")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): check the path"
        ) from error
    # ValueError: no UTF-8, or a number of thousands of digits; RecursionError: brackets nested as deeply.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: not a plain YAML file ({reason})") from error
