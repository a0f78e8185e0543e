from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from patchioner import Patchioner
from patchioner.batch import Captioner, run
from tests.patchioner.batch.conftest import lines

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("cluster")]  # Ray's own

HERE = {"PYTHONPATH": str(Path(__file__).parents[3])}
DRIVER = """
import sys
import ray
from patchioner.batch import Reading, run
photos, out, regions, model, address, here = sys.argv[1:]
ray.init(address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": here}})
run(photos, out, engine="ray", reading=Reading(regions), shards=6, model=model)
"""


@pytest.fixture
def given(given: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    return given | {"shards": 6, "model": str(checkpoint)}


def workers() -> list[int]:
    """Processes of Ray that run our actor."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_ours = b"ray::MapWorker(Map(Worker))" in path.read_bytes()
        except OSError:  # it is gone
            continue
        if is_ours:
            found.append(int(path.parent.name))
    return found


def test_begun_by_a_driver_that_is_killed_it_is_finished_though_a_worker_is_killed(
    photos: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    """Begun locally, gone on with by the driver's workers, finished by ours: the rows are those of one local run."""
    out, address = tmp_path / "ray", ray.get_runtime_context().gcs_address
    run(photos, out, **given)
    wanted = lines(out)
    for number in (0, 4, 5):
        (out / f"{number:06d}.parquet").unlink()
    words = (photos, out, tmp_path / "coco.json", given["model"], address, HERE["PYTHONPATH"])
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-c", DRIVER, *map(str, words)]
    with FileLock(out / ".locks" / "000005"):  # so that the driver cannot end before it is killed
        with subprocess.Popen(command, env=os.environ | HERE, **quiet) as driver:
            while driver.poll() is None and len(list(out.glob("*.parquet"))) == 3:
                time.sleep(0.1)
            driver.kill()
        assert driver.returncode == -signal.SIGKILL
    theirs, killed, finished = set(workers()), list[int](), threading.Event()

    def kill() -> None:
        while not killed and not finished.wait(0.05):
            for pid in set(workers()) - theirs:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        report = run(photos, out, engine="ray", **given)
    finally:
        finished.set()
        killer.join()
    assert report.status == 0 and lines(out) == wanted
    assert killed


def test_captioners_map_batches(photos: Path, checkpoint: Path) -> None:
    rows = ray.data.from_items([{"image": str(photos / name)} for name in ("a.png", "none.png")])
    model = str(checkpoint)
    how: Any = {"fn_constructor_kwargs": {"model": model}, "concurrency": 1, "batch_size": 2}
    good, bad = rows.map_batches(Captioner, **how).take_all()
    (caption,) = Patchioner.from_pretrained(model).caption(photos / "a.png")
    assert good["caption"] == caption.text and good["error"] is None
    assert bad["caption"] is None and bad["error"].startswith("ImageError")
