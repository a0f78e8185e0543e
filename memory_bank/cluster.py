"""Shards of a bank embedded by a pool of Ray actors, on this machine or a cluster's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memory_bank.build import SHARD, Embed, shard_path, write_shard
from patchioner.base.errors import MemoryBankError
from patchioner.base.optional import require
from patchioner.base.progress import progress


def embed_on_ray(
    make_embed: Callable[[], Embed],
    texts: Sequence[str],
    folder: Path,
    *,
    unit: bool = True,
    shard: int = SHARD,
    workers: int | None = None,
    gpus: float = 0.0,
) -> None:
    """Write the shards that `embed_texts` would, where they are missing; a worker that dies is replaced.

    Args:
        make_embed: gives each worker its encoder; pickled.
        folder: on a disk that all machines see.
        unit, shard: as of `embed_texts`.
        workers: None: one for each processor of the cluster, or for each share of a GPU.
        gpus: of each worker; a fraction shares one.

    Raises:
        MissingExtraError: Ray is not installed.
        MemoryBankError: a worker failed.
    """
    ray, pools = require("ray", "ray"), require("ray.util.actor_pool", "ray")
    starts = range(0, len(texts), shard)
    missing = [start for start in starts if not shard_path(folder, start).exists()]
    if not missing:
        return
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    there = ray.cluster_resources()
    count = workers or int(there.get("GPU", 0) / gpus if gpus else there.get("CPU", 1))
    kind = ray.remote(max_restarts=3, max_task_retries=3, num_cpus=1, num_gpus=gpus)(_Worker)
    actors = [kind.remote(make_embed, folder, unit) for _ in range(min(count, len(missing)))]
    pool = pools.ActorPool(actors)

    def submit(actor: Any, start: int) -> Any:
        return actor.write.remote(start, list(texts[start : start + shard]))

    try:
        done = pool.map_unordered(submit, missing)
        list(progress(done, description="embedding on Ray", total=len(missing), unit="shard"))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise MemoryBankError(f"a worker of Ray failed: {cause}") from error
    finally:
        for actor in actors:
            ray.kill(actor)


class _Worker:
    """Holds an encoder."""

    def __init__(self, make_embed: Callable[[], Embed], folder: Path, unit: bool) -> None:
        self._embed, self._folder, self._unit = make_embed(), folder, unit

    def write(self, start: int, texts: Sequence[str]) -> None:
        path = shard_path(self._folder, start)
        write_shard(self._embed, texts, path, unit=self._unit)
