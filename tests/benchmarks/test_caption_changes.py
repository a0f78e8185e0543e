"""The command that counts changed captions: what it counts, what it leaves untouched, how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import caption_changes
from benchmarks.caption_changes import Variant, compare, find_variant, main
from benchmarks.readers import DevSets
from patchioner import Patchioner
from patchioner.base.errors import OptionError, UnknownNameError
from tests.support.tiny import tiny_parts


class Shifted:
    """A model that says something else about the photos named, and encodes by itself."""

    def __init__(self, model: Any, word: str) -> None:
        self.model, self.word = model, word

    def encode(self, images: Any) -> Any:
        return self.model.encode(images)

    def embed_regions(self, features: Any, regions: Any, weighting: Any = None) -> torch.Tensor:
        raise NotImplementedError

    def embed_text(self, texts: Any) -> torch.Tensor:
        raise NotImplementedError

    def caption_many(self, items: Any, **settings: Any) -> Any:
        said = self.model.caption_many(items, **settings)
        return [[type(one)(one.text.replace("red", self.word)) for one in row] for row in said]


def test_it_counts_changed_captions_by_task(data: Path, colour_model: Any) -> None:
    variants = {
        "same": Variant(lambda m: Shifted(m, "red")),
        "pink": Variant(lambda m: Shifted(m, "pink")),
    }
    rows = compare(colour_model, variants, DevSets(data))
    found = {(row.variant, row.task): row for row in rows}
    assert len(found) == 6
    for task, samples in {"whole photos": 3, "region sets": 6, "boxes": 2}.items():
        same = found["same", task]
        assert (same.samples, same.changed) == (samples, 0)
        assert same.difference.value == 0
        assert same.reference == same.score
    plain = found["same", "region sets"]
    pink = found["pink", "region sets"]
    assert pink.changed == 1  # one red half
    assert pink.score < plain.score
    assert pink.difference.value == pytest.approx(pink.score - pink.reference)
    assert pink.difference.value < 0


def test_a_photo_is_encoded_once_for_variants_of_the_same_backbone(
    data: Path, colour_model: Any
) -> None:
    compare(colour_model, {"pink": Variant(lambda m: Shifted(m, "pink"))}, DevSets(data))
    assert len(colour_model.encoded) == 3
    colour_model.encoded.clear()
    own = Variant(lambda m: Shifted(m, "pink"), encodes=True)
    compare(colour_model, {"pink": own}, DevSets(data), limit=2)
    assert len(colour_model.encoded) == 4


@pytest.mark.parametrize("name", list(caption_changes.VARIANTS))
def test_every_variant_captions_and_leaves_the_model_as_it_was(data: Path, name: str) -> None:
    model = Patchioner(tiny_parts(), device="cpu")
    decoder: Any = model.parts.decoder
    before = {key: tensor.clone() for key, tensor in decoder.network.state_dict().items()}
    variant = caption_changes.VARIANTS[name]
    changed: Any = variant.change(model)
    assert changed.parts.decoder.network.state_dict().keys()
    kinds = {tensor.dtype for tensor in changed.parts.decoder.network.state_dict().values()}
    assert (torch.int8 if "int8" in name else torch.bfloat16) in kinds
    rows = compare(model, {name: variant}, DevSets(data), limit=1)
    assert sum(row.samples for row in rows) > 0
    for key, tensor in decoder.network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[key])


def test_command_prints_and_writes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "changes.json"
    arguments = [
        "--variants",
        "decoder-int8",
        "model:other",
        "--data",
        str(data),
        "--json",
        str(out),
    ]
    asked: list[str] = []

    def load(name: str, device: str) -> Any:
        asked.append(name)
        return Patchioner(tiny_parts(), device=device)

    assert main(arguments, load_model=load) == 0
    assert asked == ["patchioner-mini", "other"]
    printed = capsys.readouterr().out
    assert printed.startswith("| variant |")
    assert "| model:other | whole photos | 3 (3) | 0.0% |" in printed
    report = json.loads(out.read_text())
    assert [row["variant"] for row in report["rows"]] == ["decoder-int8"] * 3 + ["model:other"] * 3
    assert report["settings"]["variants"] == ["decoder-int8", "model:other"]


def test_refusals(data: Path, colour_model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def load(name: str, device: str) -> Any:
        return colour_model

    with pytest.raises(UnknownNameError, match="decoder-int8"):
        find_variant("decoder-int9", load, "cpu")
    with pytest.raises(OptionError, match="no parts"):
        caption_changes.VARIANTS["decoder-int8"].change(colour_model)
    assert main(["--variants", "decoder", "--data", str(data)], load_model=load) == 1
    assert "unknown variant" in capsys.readouterr().err
