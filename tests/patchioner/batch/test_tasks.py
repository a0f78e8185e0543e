from pathlib import Path

import numpy as np
import pytest

from patchioner import Box, Patchioner
from patchioner.base.errors import OptionError
from patchioner.batch import Captioner
from tests.patchioner.batch.conftest import BOX


def test_columns_are_added_to_a_batch(photos: Path, model: Patchioner) -> None:
    batch = {"image": np.array([str(photos / "a.png"), str(photos / "notes.txt")]), "id": [1, 2]}
    found = Captioner(model)(batch)
    assert found["caption"] == [model.caption(photos / "a.png")[0].text, None]
    assert found["id"] == [1, 2] and found["error"][0] is None
    assert found["error"][1].startswith("ImageError")


def test_boxes_have_a_caption_each(photos: Path, model: Patchioner) -> None:
    boxes = [[BOX, [200, 0, 210, 5]], [], np.array([BOX])]
    data = (photos / "a.png").read_bytes()
    batch = {"jpg": [{"bytes": data, "path": None}] * 3, "boxes": boxes}
    found = Captioner(model, image="jpg", boxes="boxes")(batch)
    (caption,) = model.caption(photos / "a.png", [Box(*BOX)])
    assert found["caption"] == [[caption.text, None], [], [caption.text]]
    assert [len(one) for one in found["score"]] == [2, 0, 1]
    wrong = {"jpg": [photos / "a.png"] * 2, "boxes": [[[1, 2, 3]], np.array([BOX])]}
    found = Captioner(model, image="jpg", boxes="boxes")(wrong)
    assert found["caption"] == [[None], [caption.text]] and "3 numbers" in found["error"][0][0]
    with pytest.raises(OptionError, match="boxes"):
        Captioner(model, boxes="boxes")({"image": []})


def test_it_maps_a_dataset(photos: Path, model: Patchioner) -> None:
    rows = pytest.importorskip("datasets").Dataset.from_dict({"image": [str(photos / "a.png")]})
    how = {"batched": True, "load_from_cache_file": False, "new_fingerprint": "x"}
    (row,) = rows.map(Captioner(model), **how)
    assert row["caption"] == model.caption(photos / "a.png")[0].text
