from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from patchioner import Patchioner
from patchioner.batch import Captioner, Reading, read_rows, run

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray's own


HERE = str(Path(__file__).parents[3])
QUIET: Any = {"log_to_driver": False, "logging_level": "ERROR"}
QUIET |= {"runtime_env": {"env_vars": {"PYTHONPATH": HERE}}}
DRIVER = """
import json, sys
import ray
from patchioner.batch import Reading, run
photos, out, regions, model, address, quiet = sys.argv[1:]
ray.init(address, **json.loads(quiet))
run(photos, out, engine="ray", reading=Reading(regions), shards=6, model=model)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Room for two workers, which find this checkout; its address."""
    ray.init(num_cpus=4, include_dashboard=False, **QUIET)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def lines(out: Path) -> list[str]:
    return sorted(json.dumps(row.to_dict()) for row in read_rows(out))


def workers() -> list[int]:
    """Processes of Ray that run our actor."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_ours = b"ray::MapWorker(Map(_Actor))" in path.read_bytes()
        except OSError:  # it is gone
            continue
        if is_ours:
            found.append(int(path.parent.name))
    return found


def test_shards_on_ray_are_those_of_a_local_run_though_a_worker_is_killed(
    cluster: str, photos: Path, checkpoint: str, tmp_path: Path
) -> None:
    given: Any = {"reading": Reading(str(tmp_path / "coco.json")), "shards": 6, "model": checkpoint}
    run(photos, tmp_path / "local", **given)
    run(photos, tmp_path / "ray", **given)
    for number in (0, 2, 3, 4, 5):  # begun locally, finished on Ray
        (tmp_path / "ray" / f"{number:06d}.parquet").unlink()
    killed: list[int] = []
    finished = threading.Event()

    def kill() -> None:
        while not killed and not finished.wait(0.05):
            for pid in workers()[:1]:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        report = run(photos, tmp_path / "ray", engine="ray", **given)
    finally:
        finished.set()
        killer.join()
    assert report.status == 0 and lines(tmp_path / "ray") == lines(tmp_path / "local")
    assert killed
    assert run(photos, tmp_path / "ray", **given).photos == 0


def test_what_a_killed_driver_began_is_finished_here(
    cluster: str, photos: Path, checkpoint: str, tmp_path: Path
) -> None:
    regions, out = str(tmp_path / "coco.json"), tmp_path / "ray"
    given: Any = {"reading": Reading(regions), "shards": 6, "model": checkpoint}
    run(photos, tmp_path / "local", **given)
    (out / ".locks").mkdir(parents=True)
    words = [DRIVER, str(photos), str(out), regions, checkpoint, cluster, json.dumps(QUIET)]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with FileLock(out / ".locks" / "000005"):  # so that the driver cannot end before it is killed
        with subprocess.Popen(
            [sys.executable, "-c", *words], env=os.environ | {"PYTHONPATH": HERE}, **quiet
        ) as driver:
            while driver.poll() is None and not list(out.glob("*.parquet")):
                time.sleep(0.1)
            driver.kill()
        assert driver.returncode == -signal.SIGKILL
    report = run(photos, out, **given)
    assert report.status == 0 and lines(out) == lines(tmp_path / "local")


def test_captioners_map_batches(cluster: str, photos: Path, checkpoint: str) -> None:
    rows = ray.data.from_items([{"image": str(photos / name)} for name in ("a.png", "none.png")])
    how: Any = {"fn_constructor_kwargs": {"model": checkpoint}, "concurrency": 1, "batch_size": 2}
    good, bad = rows.map_batches(Captioner, **how).take_all()
    (caption,) = Patchioner.from_pretrained(checkpoint).caption(photos / "a.png")
    assert good["caption"] == caption.text and good["error"] is None
    assert bad["caption"] is None and bad["error"].startswith("ImageError")
