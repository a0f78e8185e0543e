"""The model inside the package, on real photos: true captions, offline, small, ours."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from memory_bank import MemoryBank
from patchioner import Box, Patchioner, Region, WholeImage
from patchioner.checkpoints.folder import SHIPPED, ModelSettings, find_model
from patchioner.cli.calibrate import adapting
from tests import golden
from tests.support.tiny import noise_photo

data = pytest.importorskip("skimage.data", reason="the photos come with scikit-image")
MEGABYTES = 64
CUP = Box(165, 10, 415, 310)


@pytest.mark.parametrize(
    ("photo", "region", "words"),
    [
        ("chelsea", WholeImage(), {"cat"}),
        ("coffee", WholeImage(), {"cup", "coffee", "mug"}),
        ("coffee", CUP, {"cup", "coffee", "mug", "bowl"}),
        ("astronaut", WholeImage(), {"woman", "man", "person"}),
    ],
)
def test_true_captions(shipped: Patchioner, photo: str, region: Region, words: set[str]) -> None:
    (caption,) = shipped.caption(getattr(data, photo)(), [region])
    assert words & set((caption.text or "").split()), caption.text
    assert math.isfinite(caption.score)


def test_words_find_their_photo(shipped: Patchioner) -> None:
    photos = ["chelsea", "coffee", "rocket"]
    texts = ["a close up of a cat", "a cup of coffee on a table", "a rocket at night"]
    encoded = [shipped.encode(getattr(data, name)()) for name in photos]
    images = torch.cat([shipped.embed_regions(one, [WholeImage()]) for one in encoded])
    similar = F.normalize(shipped.embed_text(texts), dim=1) @ F.normalize(images, dim=1).T
    assert similar.argmax(dim=1).tolist() == [0, 1, 2]


def test_a_label_may_be_none_of_those_given(shipped: Patchioner) -> None:
    features = shipped.encode(data.coffee())
    (right,) = shipped.label(features, [CUP], ["a cup of coffee", "a dog", "a bus"])
    others = ["a giraffe", "a dog", "a bus"]
    (wrong,), (forced,) = (shipped.label(features, [CUP], others, threshold=t) for t in (None, 0))
    assert right.text == "a cup of coffee" and right.probability > 0.5
    assert wrong.text is None and wrong.probability < 0.3
    assert forced.text is not None and forced.cosines == wrong.cosines


def test_captions_do_not_depend_on_what_makes_them_fast(shipped: Patchioner, tmp_path: Path) -> None:
    """Off: weights unpacked, every token's logit computed, the bank read whole, regions one by one."""
    photo, parts = noise_photo(320, 240), shipped.parts
    sets = int(os.environ.get("REGIONS", "16")) // 8
    regions = [one for seed in range(sets) for one in golden.regions_of(photo.size, seed)]
    plain: Any = Patchioner(parts, device="cpu")
    plain._placed = parts.to("cpu", torch.float32, optimize=False)
    plain._placed.decoder.network.candidates = plain._placed.decoder.network.tables = None
    features = plain.encode(photo)
    expected = [plain.caption(features, [one])[0].text for one in regions]
    assert parts.bank is not None
    parts.bank.save(tmp_path / "bank", dtype=parts.bank.dtype)
    mapped = replace(parts, bank=MemoryBank.load(tmp_path / "bank", memory_map=True))
    for model in (plain, shipped, Patchioner(mapped, device="cpu")):
        assert [one.text for one in model.caption(photo, regions)] == expected


def test_it_fits_into_the_package() -> None:
    files = [path for path in Path(find_model(SHIPPED)).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MEGABYTES * 2**20
    assert not [path for path in files if path.suffix in {".pt", ".pth", ".pkl", ".pickle", ".bin"}]


def test_the_recipe_writes_the_settings_that_are_shipped(shipped: Patchioner) -> None:
    yaml = pytest.importorskip("yaml")
    path = Path(__file__).parent.parent / "configs" / "patchioner-mini.yaml"
    recipe = yaml.safe_load(path.read_bytes())
    # Calibrations, and what keeps captions to their regions, come with the last steps of the recipe.
    assert set(shipped.settings.calibration) == {"detail", "label", "captions"}
    made = ModelSettings.from_json(recipe["assemble"]["settings"] | recipe["with_nouns"], "recipe")
    made = replace(made, kinds=adapting(made.kinds, guided=True))
    assert made == replace(shipped.settings, calibration={})
