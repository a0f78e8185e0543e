"""Libraries: imported when asked for, optional or by name; Ray; our own packages, which others may hide; bounds."""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
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
    PatchionerError,
    UnknownNameError,
    first_line,
)

T = TypeVar("T")
_ROOT = Path(__file__).resolve().parents[2]


def require(module: str, extra: str) -> ModuleType:
    """Import and return `module`, which the optional `extra` of this distribution installs.

    MissingExtraError: it is not installed. An ImportError from inside an installed module passes through.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingExtraError(f"{module!r} is not installed: {install_line(extra)}", name=module) from error


def read_pretrained(source: str, *kinds: str, dtype: object, offline: bool = False) -> list[Any]:
    """What classes of `transformers` read of a hub id or folder; the network is the last, of safetensors.

    HubError: it cannot be had; MissingExtraError: a package is missing; OptionError: no such model.
    """
    transformers = require("transformers", "language-models")
    how: dict[str, Any] = {"trust_remote_code": False, "local_files_only": offline}
    try:
        *others, network = (getattr(transformers, kind) for kind in kinds)
        found = [one.from_pretrained(source, **how) for one in others]
        return [*found, network.from_pretrained(source, **how, dtype=dtype, use_safetensors=True)]
    except OSError as error:
        remedy = "give the id or the folder of a model with safetensors weights"
        raise HubError(f"the model {source!r} cannot be read: {first_line(error)}; {remedy}") from error
    except ImportError as error:
        raise MissingExtraError(f"{source!r} needs a package that is not installed: {first_line(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"{source!r} is no model transformers reads as {kinds[-1]} ({first_line(error)})"
        raise OptionError(f"{said}; code that comes with a model is never run") from error


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
        ctypes.CDLL("libc.so.6").mallopt(-8, 1)  # M_ARENA_MAX


def refuse_shadows() -> None:
    """Refuse, by an ImportError, a module of the user's that is found in place of a package of ours."""
    for name in ("decoders", "memory_bank"):
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is not None and origin != _ROOT / name / "__init__.py":
            raise ImportError(f"{origin} hides Patchioner's own package {name!r}: rename it or run from another folder")


class Registry(Generic[T]):
    """Parts of one `kind` ("backbone") by their names; each has a home, "module:attribute", imported when asked for.

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


def asked_workers(engine: str) -> int | None:
    """How many workers of Ray "ray:8" asks for: 0, as many as fit, of "ray"; None of "local"; else OptionError."""
    found = re.fullmatch(r"local|ray(?::([1-9]\d{0,5}))?", engine)
    if found is None:
        raise OptionError(f"engine {engine!r} is unknown: use local, ray, or ray:8 for 8 workers")
    return None if engine == "local" else int(found[1] or 0)


def on_ray(
    kind: type, given: Sequence[Any], rows: Sequence[Any], workers: int, cpus: int, device: str | None
) -> Iterator[dict[str, Any]]:
    """What objects of a kind, made with `given`, answer to rows: columns of a few at a time, in any order.

    Each takes a GPU, if there are any and `device` is not the CPU, and `cpus` processors; of what is too little for all
    `workers` a share. 0 are as many as there are GPUs or, without, fit. One that dies is made again.
    MissingExtraError: Ray is not installed; PatchionerError: one failed, or Ray.
    """
    ray = require("ray", "ray")
    require("ray.data", "ray")
    if not rows:
        return
    try:
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
    except Exception as error:  # of any class
        raise PatchionerError(f"Ray cannot start ({first_line(error)}): try `ray start`") from error
    there = {name: int(number) for name, number in ray.cluster_resources().items()}
    gpus = 0 if (device or "").startswith("cpu") else there.get("GPU", 0)
    count = min(len(rows), workers or gpus or max(1, there["CPU"] // cpus))
    done = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
        kind,
        fn_constructor_args=given,
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=share(there["CPU"], count, cpus),
        num_gpus=share(gpus, count),
        max_task_retries=3,  # of a row of which the worker died: a photo may be what kills it
    )
    try:
        yield from done.iter_batches(batch_size=None, prefetch_batches=0)
    except ray.exceptions.RayError as error:
        ours = re.search(r"^[\w.]*Error: .*", str(error), re.MULTILINE)  # of a traceback of several
        reason = ours[0] if ours else first_line(error)
        raise PatchionerError(f"Ray stopped ({reason:.300}); start again") from error


def share(there: int, workers: int, most: int = 1) -> float:
    """What each of so many workers takes of these: whole ones up to `most`, or a fraction of one that several share."""
    if workers <= there or not there:
        return min(most, there // workers)
    return math.floor(10_000 / math.ceil(workers / there)) / 10_000  # which Ray does not round up
