"""Names and where they lead; what is known by name, and how much memory parts take."""

from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest

from patchioner import Patchioner
from patchioner.base.errors import HubError, UnknownNameError
from patchioner.checkpoints import folder_bytes, known_models, part_sizes, upload
from patchioner.checkpoints.folder import SHIPPED, find_model, shipped_models
from tests.support import MonkeyPatch
from tests.support.published import as_hub_snapshot, write_capdec


def test_a_folder_comes_first(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    shipped = tmp_path / "package" / SHIPPED
    shipped.mkdir(parents=True)
    (shipped / "config.json").write_text("{}")
    monkeypatch.setattr("patchioner.checkpoints.folder._PACKAGE", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    assert find_model(SHIPPED) == shipped
    assert shipped_models() == (SHIPPED,)
    (tmp_path / SHIPPED).mkdir()
    assert find_model(SHIPPED) == Path(SHIPPED)
    assert find_model(str(tmp_path)) == tmp_path
    (tmp_path / "mlp.k.yaml").write_text("prefix_size: 4")
    assert find_model("mlp.k.yaml") == Path("mlp.k.yaml")


def test_a_name_that_leads_nowhere(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").touch()
    for names, message in (
        (("patchioner-minni", ""), "model '{}'.*'patchioner-mini'"),
        (("./none", "~/none", "~no/x"), "no checkpoint folder at '{}'"),
        (("none.yaml", "configs/none.yml"), "no model file at '{}'"),
        (("model.pt",), "'{}' is a file that is no checkpoint"),
    ):
        for name in names:
            with pytest.raises(UnknownNameError, match=message.format(name)):
                find_model(name)


def test_a_hub_that_fails(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for setting, value, reason in (("ENDPOINT", "http://127.0.0.1:9", "refused"), ("HF_HUB_OFFLINE", True, "disabled")):
        monkeypatch.setattr(f"huggingface_hub.constants.{setting}", value)
        with pytest.raises(HubError, match=f"'owner/model'.*{reason}.*'patchioner-mini'") as seen:
            find_model("owner/model")
        assert "\n" not in str(seen.value)
    download = Mock(return_value=str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_model("owner/model", revision="v2") == tmp_path
    download.assert_called_once_with("owner/model", revision="v2")
    # What the client's HTTP library raises is no OSError, and another in each release.
    fail = Mock(side_effect=type("TransportError", (Exception,), {})("not known\nand more"))
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(HubError, match=r"push to 'owner/mine' \(not known\): hf auth login"):
        upload(tmp_path, "owner/mine")


def test_pushing_uploads_the_whole_checkpoint(model: Patchioner, checkpoint: Path, monkeypatch: MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}

    def keep(*, repo_id: str, folder_path: Path) -> None:
        paths = (path for path in folder_path.rglob("*") if path.is_file() and path.stat().st_size)
        seen[repo_id] = {str(path.relative_to(folder_path)) for path in paths}

    api = Mock(upload_folder=keep)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    model.push_to_hub("owner/mine")
    api.create_repo.assert_called_once_with("owner/mine", exist_ok=True)
    keep(repo_id="whole", folder_path=checkpoint)
    assert seen["owner/mine"] == seen["whole"] > {"config.json", "memory_bank/bank.json"}


def test_models_are_known(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    first, *published = known_models()
    assert (first.name, first.here, first.source) == ("patchioner-mini", True, "this package")
    assert first.disk is not None and 10e6 < first.disk < 200e6
    assert first.licence == "Apache-2.0"
    assert "vit_small" in first.about and "projection: memory" in first.about
    sizes = part_sizes(Patchioner.from_pretrained(first.name).parts)
    assert first.memory == pytest.approx(sum(size for _, size in sizes.values()), rel=0.02)
    for model, kind in zip(published, ("decap", "capdec", "viecap", "meacap"), strict=True):
        assert model.name == f"Ruggero1912/Patch-ioner_talk2dino_{kind}_COCO_Captions"
        assert (model.disk, model.here, model.licence) == (None, False, "none stated")
    assert 2.2 < published[0].memory / 2**30 < 2.4 and 0.5 < published[1].memory / 2**30 < 0.7
    theirs = write_capdec(tmp_path / "theirs")
    snapshot = as_hub_snapshot(theirs, tmp_path / "cache", published[1].name)
    found = known_models()[2]
    assert found.here and found.disk == folder_bytes(snapshot)
