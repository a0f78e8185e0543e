from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastapi
import httpx

SCHEMA = Path(__file__).parents[3] / "docs" / "openapi.json"


def fields(schema: dict[str, Any]) -> dict[str, set[str]]:
    kinds = schema["components"]["schemas"].items()
    return {name: set(one.get("properties", ())) for name, one in kinds if "Validation" not in name}


def test_the_schema_in_the_documents_is_the_live_one(client: httpx.Client) -> None:
    """Made anew by `python -m patchioner.serve.app > docs/openapi.json`."""
    stored, live = json.loads(SCHEMA.read_text("utf-8")), client.get("/openapi.json").json()
    assert {path: set(one) for path, one in stored["paths"].items()} == {
        path: set(one) for path, one in live["paths"].items()
    }
    assert fields(stored) == fields(live)
    if stored["x-fastapi"] == fastapi.__version__:  # other releases word the same schema otherwise
        assert stored["paths"] == live["paths"] and stored["components"] == live["components"]


def test_the_page_is_served(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404


def test_the_server_s_libraries_are_imported_there_alone() -> None:
    code = (
        "import sys, patchioner.cli.main, patchioner.client, patchioner.serve.settings, patchioner.model; "
        "sys.exit('fastapi' in sys.modules or 'uvicorn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
