"""The device to work on. Knows torch devices; nothing of models."""

from __future__ import annotations

import torch

from patchioner.base.errors import OptionError


def usable_device(wanted: str | torch.device | None) -> torch.device:
    """The device that was asked for, or a GPU if there is one, else the CPU.

    It is tried out, since torch names a bad one only when it is used.

    Raises:
        OptionError: the device is unknown or absent.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    chosen = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(
            f"device {str(chosen)!r} cannot be used here ({reason}): try 'cpu'"
        ) from error
