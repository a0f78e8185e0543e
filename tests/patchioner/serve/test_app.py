import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastapi
import httpx
import pytest

from patchioner.base.errors import OptionError
from patchioner.cli import main
from patchioner.serve import ServeSettings

SCHEMA = Path(__file__).parents[3] / "docs" / "openapi.json"


def fields(schema: dict[str, Any]) -> dict[str, set[str]]:
    kinds = schema["components"]["schemas"].items()
    return {name: set(one.get("properties", ())) for name, one in kinds if "Validation" not in name}


def test_the_schema_in_the_documents_is_the_live_one(client: httpx.Client) -> None:
    """Made anew by `python -m patchioner.serve.app > docs/openapi.json`."""
    stored, live = json.loads(SCHEMA.read_text("utf-8")), client.get("/openapi.json").json()
    verbs = [{path: set(one) for path, one in schema["paths"].items()} for schema in (stored, live)]
    assert verbs[0] == verbs[1] and fields(stored) == fields(live)
    if stored["x-fastapi"] == fastapi.__version__:  # other releases word the same schema otherwise
        assert stored["paths"] == live["paths"] and stored["components"] == live["components"]


def test_the_page_is_served(client: httpx.Client) -> None:
    for path in ("/", "/health", "/v1/models"):
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert client.get("/static/%2e%2e/app.py").status_code == 404


def test_the_server_s_libraries_are_imported_there_alone() -> None:
    code = (
        "import sys, patchioner.cli, patchioner.client, patchioner.serve; "
        "sys.exit('fastapi' in sys.modules or 'uvicorn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_that_make_no_sense_are_refused() -> None:
    others: dict[str, Any] = {"host": "0.0.0.0"}
    for wrong in (
        others, others | {"token": "short"}, {"host": "example.org"}, {"token": "non-ascii-é"},
        {"port": 70_000}, {"queue": 0}, {"deadline": float("nan")}, {"cache_bytes": -1},
        {"root": Path("/no/such/folder")},
    ):  # fmt: skip
        with pytest.raises(OptionError):
            ServeSettings(**wrong)
    assert "secret" not in repr(ServeSettings(**others, token="a-long-secret"))
    for right in ({"host": "::1"}, {"host": "localhost"}, {"port": 0}, {"cache_bytes": 0}):
        ServeSettings(**right)
    ServeSettings(**others, insecure=True)


def test_the_command_fills_the_settings(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["serve", "--model", str(checkpoint), "--device", "cpu"]
    seen: list[ServeSettings] = []
    monkeypatch.setattr("patchioner.serve.app.run_server", lambda model, one: seen.append(one))
    assert main(["serve", "--host", "0.0.0.0"]) == 1
    assert "token" in capsys.readouterr().err
    assert main(plain) == 0
    monkeypatch.setenv("PATCHIONER_TOKEN", "from-the-environment")
    words = ["--host", "0.0.0.0", "--queue", "7", "--deadline", "1.5", "--review", str(checkpoint)]
    assert main([*plain, *words]) == 0
    token = "from-the-environment"
    told = ServeSettings("0.0.0.0", token=token, queue=7, deadline=1.5, root=checkpoint)
    assert seen == [ServeSettings(), told]
