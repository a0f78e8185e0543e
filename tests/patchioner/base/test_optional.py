"""Optional imports: present, missing, and broken inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchioner.base import MissingExtraError, require


def test_present_module_is_returned() -> None:
    assert require("json.decoder", "anything").JSONDecoder is not None


@pytest.mark.parametrize("module", ["no_such_module_here", "no_such_module_here.inner"])
def test_missing_module_tells_the_pip_line(module: str) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'patchioner\[faiss\]'") as caught:
        require(module, "faiss")
    assert module in str(caught.value)
    assert caught.value.name == module
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_failure_inside_an_installed_module_passes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_inside_module.py").write_text("import another_missing_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="another_missing_module") as caught:
        require("broken_inside_module", "faiss")
    assert not isinstance(caught.value, MissingExtraError)
