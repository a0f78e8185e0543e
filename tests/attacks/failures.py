"""The n-th open, write, fsync, rename or allocation fails, or kills, while something is written.

Afterwards the old state is there or the new one, the error is one of ours, and the work done again ends as undisturbed:
python -m tests.attacks.failures [--step N] [--kill]
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from benchmarks.run import Run, execute
from benchmarks.settings import RunSettings
from memory_bank.build import build_bank_folder
from patchioner import Patchioner, PatchionerError
from patchioner.adaptation import NewDecoder, adapt, usual_training
from patchioner.base.weights import tensors_sha256
from patchioner.checkpoints.folder import Parts, read_checkpoint, write_checkpoint
from patchioner.detail import DetailCaptioner
from patchioner.detail.batch import describe_many
from tests.support.failing import CALLS, every_failure, every_kill
from tests.support.tiny import TEXTS, noise_photo, tiny_parts

SHAPE = NewDecoder(layers=1, width=32, heads=2, vocab_size=270, positions=40)
QUICK = usual_training(SHAPE, epochs=3, batch=15)


@cache
def parts(name: str = "old") -> Parts:
    made = tiny_parts()
    return replace(made, settings=replace(made.settings, name=name))


def save(folder: Path) -> Callable[[], str]:
    write_checkpoint(parts("old"), folder / "model")

    def work() -> str:
        write_checkpoint(parts("new"), folder / "model")
        return state()

    def state() -> str:
        return read_checkpoint(folder / "model").settings.name

    work.state = state  # type: ignore[attr-defined]
    return work


def bank(folder: Path) -> Callable[[], str]:
    """Built in a folder, and gone on with."""
    tower = parts().text_tower
    assert tower is not None
    return lambda: build_bank_folder(
        TEXTS, tower.encode, folder / "bank", encoder={}, resume=True
    ).fingerprint()


def train(folder: Path) -> Callable[[], str]:
    """A decoder and its bank, gone on with."""

    def work() -> str:
        made = read_checkpoint(
            adapt(parts(), TEXTS, folder / "model", QUICK, fresh=SHAPE, resume=True)
        )
        return tensors_sha256(made.decoder.module.state_dict())  # type: ignore[attr-defined]

    return work


def detail(folder: Path) -> Callable[[], str]:
    """Lines of three photos, gone on with."""
    for number in range(3):
        noise_photo(seed=number).save(folder / f"{number}.png")
    captioner = DetailCaptioner(Patchioner(parts(), device="cpu"), scorer=None)
    names = sorted(str(path) for path in folder.glob("*.png"))

    def work() -> str:
        found = describe_many(captioner, names, folder / "out.jsonl")
        if found.failed:
            raise found.failed[0][1]
        lines = (folder / "out.jsonl").read_text().replace(str(folder), "")
        return "\n".join(sorted(lines.splitlines()))

    return work


def benchmark(folder: Path) -> Callable[[], str]:
    """Predictions and results about four photos, gone on with."""
    sets = {f"{number}": {f"{TEXTS[number]}\nit": [[1, 2, 50, 40]]} for number in range(4)}
    for name in sets:
        noise_photo(seed=int(name)).save(folder / f"{name}.jpg")
    (folder / "sets.json").write_text(json.dumps(sets))
    settings = RunSettings(
        "region_set", data=str(folder / "sets.json"), images=str(folder), java="no", rounds=2, batch=2,
    )  # fmt: skip

    def work() -> str:
        model = Patchioner(parts(), device="cpu")
        out = folder / "out"
        execute([Run("tiny", settings, out)], resume=True, load=lambda *_: model)
        text = "".join((out / name).read_text() for name in ("predictions.jsonl", "results.json"))
        return text.replace(str(folder), "")

    return work


WORKS = {"save": save, "bank": bank, "train": train, "detail": detail, "benchmark": benchmark}


def campaign(name: str, kind: str, step: int = 1, *, kill: bool = False) -> int:
    """Fail, or kill at, every `step`-th call; AssertionError where a state is mixed, an error foreign, the end another.

    Returns how many failures or kills were made.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wanted = WORKS[name](_fresh(Path(scratch) / "undisturbed"))()
        folder = Path(scratch) / "run"
        works = [WORKS[name](_fresh(folder))]

        def check(error: BaseException | None) -> None:
            assert error is None or isinstance(error, (PatchionerError, OSError, MemoryError)), (
                f"{name}, {kind}: {error!r}"
            )
            state = getattr(works[0], "state", None)
            assert state is None or state() in ("old", "new")
            assert works[0]() == wanted, f"{name}, {kind}: done again, it ends otherwise"
            works[:] = [WORKS[name](_fresh(folder))]

        return (every_kill if kill else every_failure)(kind, lambda: works[0](), check, step)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("works", nargs="*", default=list(WORKS), help="some of them")
    parser.add_argument("--kinds", nargs="+", default=list(CALLS), help="calls to fail")
    parser.add_argument("--step", type=int, default=1, help="only every so manyth call")
    parser.add_argument("--kill", action="store_true", help="kill -9 there, instead of failing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    total, what = 0, "kills" if options.kill else "failures"
    for name, kind in itertools.product(options.works, options.kinds):
        made = campaign(name, kind, options.step, kill=options.kill)
        total += made
        sys.stdout.write(f"{name}, {kind}: {made} {what}, nothing lost, doubled or mixed\n")
        sys.stdout.flush()
    sys.stdout.write(f"{total} {what}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
