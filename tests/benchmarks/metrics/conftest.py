"""Real captions where the development data lies beside the checkout, a METEOR for all tests, and make-believe Javas."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.metrics import Meteor, java_available

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "annotations"

FakeJava = Callable[..., Path]


@pytest.fixture(scope="session")
def annotations() -> Path:
    """The folder of the development annotations."""
    if not (DATA / "image_captions_dev.json").is_file():
        pytest.skip("the development data is not beside this checkout")
    return DATA


@pytest.fixture(scope="session")
def dev_captions(annotations: Path) -> list[list[str]]:
    """The reference captions of the development photos, one list per photo."""
    path = annotations / "image_captions_dev.json"
    groups: dict[int, list[str]] = {}
    for row in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
        groups.setdefault(row["image_id"], []).append(row["caption"])
    return list(groups.values())


@pytest.fixture(scope="session")
def meteor() -> Iterator[Meteor]:
    """One official METEOR for the whole session."""
    pytest.importorskip("pycocoevalcap")
    if not java_available():
        pytest.skip("METEOR needs Java")
    with Meteor() as running:
        yield running


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeJava:
    """Put a `java` on the PATH that answers -version as Java 17 does and then runs some Python."""

    def install(body: str, version: str = 'openjdk version "17.0.1"') -> Path:
        script = tmp_path / "java"
        lines = [
            f"#!{sys.executable}",
            "import sys",
            "if sys.argv[1:] == ['-version']:",
            f"    sys.stderr.write({version!r} + '\\n'); sys.exit(0)",
            body,
        ]
        script.write_text("\n".join(lines), encoding="utf-8")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return script

    return install
