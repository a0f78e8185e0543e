"""A desk with a photo and a tiny model, and the command as a person types it there."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from patchioner.cli import main
from tests.support import Capture, MonkeyPatch
from tests.support.tiny import noise_photo


class Done(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: MonkeyPatch, checkpoint: Path) -> Path:
    """The working directory: photo.png, 80 x 60, and the model `tiny`."""
    monkeypatch.chdir(tmp_path)
    noise_photo(80, 60).save("photo.png")
    Path("tiny").symlink_to(checkpoint, target_is_directory=True)
    return tmp_path


@pytest.fixture
def command(capsys: Capture) -> Command:
    """`command("caption photo.png", *more)`: its exit status, and what it writes."""

    def run(line: str, *more: object) -> Done:
        capsys.readouterr()
        return Done(main([*shlex.split(line), *map(str, more)]), *capsys.readouterr())

    return run
