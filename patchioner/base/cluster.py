"""Ray: rows in, answers out, by workers of a cluster."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from patchioner.base.errors import OptionError, PatchionerError, first_line
from patchioner.base.optional import require

_TRIES = 3  # more of a row of which the worker died: a photo may be what kills it


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

    Raises:
        MissingExtraError: Ray is not installed.
        PatchionerError: one failed, or Ray.
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
        max_task_retries=_TRIES,
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
