"""The published config.yaml, key by key, and the files around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from patchioner.base.errors import CheckpointError
from patchioner.checkpoints.published.config import (
    PublishedConfig,
    PublishedFiles,
    as_pattern,
    base_name,
    parse_config,
    read_config,
)
from tests.support.published import as_hub_snapshot, write_config

LEAST: dict[str, Any] = {"prefix_size": 768, "support_memory_size": 591753}


def test_defaults_are_the_published_ones() -> None:
    config = parse_config(LEAST, "x")
    assert (config.projection_type, config.normalize, config.resize_dim) == ("coco", True, 518)
    assert (config.use_talk2dino_project, config.attention_type) == (True, "qkv")
    assert config.viecap is None


def test_nested_parts() -> None:
    viecap = {
        "weight_path": "a.pt",
        "top_k": 4,
        "meacap": {"memory_id": "cc3m"},
        "project_length": 10,
    }
    config = parse_config({**LEAST, "viecap": viecap, "kkv_attention": True}, "x")
    assert config.viecap is not None and config.viecap.meacap is not None
    assert (config.viecap.top_k, config.viecap.threshold) == (4, 0.2)
    assert (config.viecap.meacap.memory_id, config.viecap.meacap.memory_caption_num) == ("cc3m", 5)


def test_empty_values_mean_absent() -> None:
    values = {
        **LEAST,
        "viecap": None,
        "alphaclip_config": None,
        "clipcap": None,
        "dino_model": None,
    }
    assert parse_config(values, "x") == PublishedConfig(768, 591753)


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("dinov2_vitb14_reg", False),
        (None, False),
        ("vit_base_patch16_clip_224.openai", True),
        ("dinov3_vitb16", True),
    ],
)
def test_whose_banks_are_normalised(name: str | None, clip: bool) -> None:
    assert PublishedConfig(1, 1, dino_model=name).clip_like is clip


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"decap_weight": "x"}, "unknown key 'decap_weight'; did you mean decap_weights"),
        ({"viecap": {"topk": 3}}, "viecap: unknown key 'topk'; did you mean top_k"),
        ({"viecap": {"meacap": {"memory": "x"}}}, "viecap.meacap: unknown key 'memory'.*memory_id"),
        ({3: 4}, "unknown key 3"),
        ({"alphaclip_config": {"a": 1}}, "'alphaclip_config' is not supported: .*fourth channel"),
        ({"denseclip_config": "x"}, "'denseclip_config' is not supported"),
        ({"invite_config": "x"}, "'invite_config' is not supported"),
        ({"regionclip_config": "x"}, "'regionclip_config' is not supported: .*ResNet"),
        ({"clipcap": {"top_p": 0.8}}, "'clipcap' is not supported: .*samples"),
        ({"talk2dino_weights": "x"}, "'talk2dino_weights' is not supported: .*inversion"),
        ({"attention_type": "kkv"}, "attention_type 'kkv'.*only 'qkv' is"),
        ({"prefix_size": "768"}, "prefix_size is '768'; it must be int"),
        ({"prefix_size": True}, "prefix_size is True; it must be int"),
        ({"prefix_size": 0}, "prefix_size is 0; it must be 1 or more"),
        ({"normalize": "yes"}, "normalize is 'yes'; it must be bool"),
        ({"normalize": None}, "normalize is None; it must be bool"),
        ({"viecap": "gpt2"}, "viecap is 'gpt2'"),
        ({"use_talk2dino_project": 3}, "it must be bool or str"),
    ],
)
def test_what_is_wrong_is_named(values: dict[Any, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=f"^model.yaml: .*{said}|^model.yaml: {said}"):
        parse_config({**LEAST, **values}, "model.yaml")


@pytest.mark.parametrize("values", [None, [1], "text"])
def test_not_a_mapping(values: object) -> None:
    with pytest.raises(CheckpointError, match="expected keys and values"):
        parse_config(values, "x")


def test_required_keys() -> None:
    with pytest.raises(CheckpointError, match="missing support_memory_size"):
        parse_config({"prefix_size": 768}, "x")


@pytest.mark.parametrize(
    "text",
    [
        b"a: [",
        b"\xff\xfe\x00",
        b"!!python/object/apply:os.mkdir ['executed']",
        b"a: b: c",
        b"a: " + b"[" * 3000,
    ],
)
def test_no_plain_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_bytes(text)
    with pytest.raises(CheckpointError, match="config.yaml: not a plain YAML file"):
        read_config(tmp_path / "config.yaml")
    assert not (tmp_path / "executed").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "given", ["/raid/x/decap-009.pt", "..\\x\\decap-009.pt", "decap-009.pt", "x/decap-009.pt"]
)
def test_base_names(given: str) -> None:
    assert base_name(given) == "decap-009.pt"


def test_as_given_then_by_base_name(tmp_path: Path) -> None:
    files = PublishedFiles.of(write_config(tmp_path / "model"))
    (tmp_path / "model" / "a.pt").touch()
    assert files.find("/raid/somebody/a.pt", "decoder") == tmp_path / "model" / "a.pt"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.pt").touch()
    assert files.find("../weights/a.pt", "decoder").resolve() == tmp_path / "weights" / "a.pt"


def test_missing_files_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo: str, name: str) -> str:
        asked.append((repo, name))
        (tmp_path / name).touch()
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    files = PublishedFiles.of(write_config(tmp_path / "model"), "owner/model")
    assert files.find("/raid/b.pt", "decoder") == tmp_path / "b.pt"
    assert asked == [("owner/model", "b.pt")]


def test_a_failing_hub_is_part_of_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> str:
        raise ConnectionError("no route\nand much more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    files = PublishedFiles.of(write_config(tmp_path), "owner/model")
    with pytest.raises(
        CheckpointError, match="decoder 'b.pt' is not beside .*owner/model.*no route"
    ) as caught:
        files.find("b.pt", "decoder")
    assert "\n" not in str(caught.value)


def test_an_empty_name_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="decoder '' is not beside"):
        PublishedFiles.of(write_config(tmp_path)).find("", "decoder")


@pytest.mark.parametrize("given", ["weights[1]", "/raid/x/**", "a?b", "[", "../../up", "C:\\x\\y"])
def test_a_name_out_of_a_config_is_no_pattern(tmp_path: Path, given: str) -> None:
    files = PublishedFiles.of(write_config(tmp_path))
    (tmp_path / "other.pth").touch()
    assert files.any_of([f"{as_pattern(given)}.pth"]) is None
    wanted = tmp_path / f"{base_name(given)}.pth"
    wanted.touch()
    assert files.any_of([f"{as_pattern(given)}.pth"]) == wanted


def test_names(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "mine")
    assert PublishedFiles.of(folder).name == "mine"
    write_config(tmp_path / "mine", "mlp.k.yaml")
    assert PublishedFiles.of(folder / "mlp.k.yaml").name == "mlp.k"
    snapshot = as_hub_snapshot(folder, tmp_path / "cache", "owner/mine")
    assert PublishedFiles.of(snapshot).name == "owner/mine"
