"""The n-th open, write, fsync, rename or allocation fails, or kills, while something is written.

Afterwards the old state is there or the new one, the error is one of ours, and the work done again ends as undisturbed:
python -m tests.attacks.failures [--step N] [--kill]
"""

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
from patchioner.batch import read_rows, run
from patchioner.batch.rows import FORMATS
from patchioner.checkpoints.folder import Parts, read_checkpoint, write_checkpoint
from patchioner.detail import DetailCaptioner
from patchioner.detail.batch import describe_many
from tests.support.failing import CALLS, every_failure, every_kill
from tests.support.tiny import TEXTS, noise_photo, tiny_parts

SHAPE = NewDecoder(layers=1, width=32, heads=2, vocab_size=270, positions=40)
QUICK = usual_training(SHAPE, epochs=2, batch=15)


@cache
def parts(name: str = "old") -> Parts:
    made = tiny_parts()
    return replace(made, settings=replace(made.settings, name=name))


def saved(folder: Path) -> str:
    """The name of the checkpoint that is there."""
    return read_checkpoint(folder / "model").settings.name


def save(folder: Path) -> str:
    """A checkpoint over an older one."""
    write_checkpoint(parts("new"), folder / "model")
    return saved(folder)


def bank(folder: Path) -> str:
    """Built in a folder, and gone on with."""
    tower = parts().text_tower
    assert tower is not None
    how = {"encoder": {}, "resume": True}
    return build_bank_folder(TEXTS, tower.encode, folder / "bank", **how).fingerprint()  # type: ignore[arg-type]


def train(folder: Path) -> str:
    """A decoder and its bank, gone on with."""
    made = adapt(parts(), TEXTS, folder / "model", QUICK, fresh=SHAPE, resume=True)
    decoder = read_checkpoint(made).decoder
    return tensors_sha256(decoder.module.state_dict())  # type: ignore[attr-defined]


@cache
def model() -> Patchioner:
    return Patchioner(parts(), device="cpu")


@cache
def captioner() -> DetailCaptioner:
    return DetailCaptioner(model(), scorer=None)


def detail(folder: Path) -> str:
    """Lines of three photos, gone on with."""
    names = [str(folder / f"{number}.jpg") for number in range(3)]
    found = describe_many(captioner(), names, folder / "out.jsonl")
    if found.failed:
        raise found.failed[0][1]
    lines = (folder / "out.jsonl").read_text().replace(str(folder), "")
    return "\n".join(sorted(lines.splitlines()))


def benchmark(folder: Path) -> str:
    """Predictions and results about four photos, gone on with."""
    out = folder / "out"
    how = {"java": "no", "rounds": 2, "batch": 2, "images": str(folder)}
    settings = RunSettings("region_set", data=str(folder / "sets.json"), **how)  # type: ignore[arg-type]
    execute([Run("tiny", settings, out)], resume=True, load=lambda *_: model())
    text = "".join((out / name).read_text() for name in ("predictions.jsonl", "results.json"))
    return text.replace(str(folder), "")


def batch(folder: Path) -> str:
    """Rows of two photos in three forms, gone on with; a single file is whole or absent."""
    for out in (folder / "out.jsonl", folder / "out.parquet", folder / "out"):
        assert not out.is_file() or len(list(read_rows(out))) == 2
        run(folder / "photos", out, model=model(), shards=2, retry=True)
    files = (path for path in folder.rglob("*") if path.suffix in FORMATS and path.is_file())
    return repr(sorted((str(path.relative_to(folder)), path.read_bytes()) for path in files))


WORKS = {work.__name__: work for work in (save, bank, train, detail, benchmark, batch)}


def prepared(name: str, folder: Path) -> Callable[[], str]:
    """The work, and a fresh folder with what it begins with."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    sets = {f"{number}": {f"{TEXTS[number]}\nit": [[1, 2, 50, 40]]} for number in range(4)}
    if name == "save":
        write_checkpoint(parts("old"), folder / "model")
    elif name == "batch":
        (folder / "photos").mkdir()
        for number in range(2):
            noise_photo(9, 8, number).save(folder / "photos" / f"{number}.png")
    elif name in ("detail", "benchmark"):
        (folder / "sets.json").write_text(json.dumps(sets))
        for key in sets:
            noise_photo(seed=int(key)).save(folder / f"{key}.jpg")
    return lambda: WORKS[name](folder)


def campaign(name: str, kind: str, step: int = 1, *, kill: bool = False) -> int:
    """Fail, or kill at, every `step`-th call; AssertionError where a state is mixed, an error foreign, the end another.

    Returns how many failures or kills were made.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wanted = prepared(name, Path(scratch) / "undisturbed")()
        folder = Path(scratch) / "run"
        work = prepared(name, folder)

        def check(error: BaseException | None) -> None:
            ours = error is None or isinstance(error, (PatchionerError, OSError, MemoryError))
            assert ours, f"{name}, {kind}: {error!r}"
            assert name != "save" or saved(folder) in ("old", "new")
            again = work()  # a photo that could not be read stands in a benchmark's results as such
            named = name == "benchmark" and "made by a test" in again
            assert again == wanted or named, f"{name}, {kind}: done again, it ends otherwise"
            prepared(name, folder)

        return (every_kill if kill else every_failure)(kind, work, check, step)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("works", nargs="*", default=list(WORKS), help="some of them")
    parser.add_argument("--kinds", nargs="+", default=list(CALLS), help="calls to fail")
    parser.add_argument("--step", type=int, default=1, help="only every so manyth call")
    parser.add_argument("--kill", action="store_true", help="kill -9 there, instead of failing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, kind in itertools.product(options.works, options.kinds):
        made = campaign(name, kind, options.step, kill=options.kill)
        sys.stdout.write(f"{name}, {kind}: {made} failures, nothing lost, doubled or mixed\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
