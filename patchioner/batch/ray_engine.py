"""The shards of a job on Ray: an actor pool holds the model, the manifest and the locks are those of a local run."""

from __future__ import annotations

import time
from typing import Any

from patchioner.base.errors import PatchionerError
from patchioner.base.optional import require
from patchioner.batch.job import Job, Report, TooManyFailuresError, Worker

_CPUS = 2  # of each worker: one encodes while the other decodes


class _Actor:
    """One process of the pool: a worker, which loads its own model."""

    def __init__(self, job: Job) -> None:
        self._worker = Worker(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        before, stopped = (self._worker.photos, self._worker.rows), None
        try:
            self._worker.write(int(row["shard"]), wait=True)
        except TooManyFailuresError as error:
            stopped = str(error)
        photos, rows = self._worker.photos - before[0], self._worker.rows - before[1]
        return {"photos": photos, "regions": rows, "stopped": stopped}


def work_on_ray(job: Job, *, workers: int | None = None, gpus: float = 0.0) -> Report:
    """Do what is left of a job on the cluster that Ray is connected to, or on a local one.

    Every machine must reach the source and the output folder under the same paths. A worker that dies is started
    again, and its shard begun anew; a driver that dies is started again by hand, as a local run.

    Args:
        workers: processes; None is one for each GPU, or for each two processors.
        gpus: of each worker, fractions too; 0 takes one where the cluster has any.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    ray, data = require("ray", "ray"), require("ray.data", "ray")
    if not ray.is_initialized():
        ray.init()
    found = ray.cluster_resources()
    gpus = gpus or float(found.get("GPU", 0) > 0)
    count = workers or int(
        found.get("GPU", 0) / gpus if gpus else max(1, found.get("CPU", 1) // _CPUS)
    )
    started = time.perf_counter()
    first = Worker(job)  # begins the run, and finds what is left
    left = first.pending()
    photos, regions, stopped = 0, 0, None
    if left:
        shards = data.from_items(
            [{"shard": number} for number in left], override_num_blocks=len(left)
        )
        done = shards.map(
            _Actor,
            fn_constructor_args=(job,),
            compute=data.ActorPoolStrategy(size=min(count, len(left))),
            num_cpus=_CPUS,
            num_gpus=gpus,
        )
        try:
            for row in done.iter_rows():
                photos, regions = photos + row["photos"], regions + row["regions"]
                stopped = stopped or row["stopped"]
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1:]
            raise PatchionerError(f"Ray stopped ({' '.join(reason):.300}); start again") from error
    seconds = time.perf_counter() - started
    return Report(0, {}, photos, regions, seconds, stopped, first.source.left_out)
