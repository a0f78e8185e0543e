"""Whatever people give from Python: it works and means the same, or an error of ours says what to give."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from patchioner import Box, Mask, Patchioner, PatchionerError, Polygon
from tests.support.tiny import noise_photo

PHOTO = noise_photo()  # 96 x 64
MASKS = np.zeros((2, 64, 96), dtype=bool)
MASKS[0, :20, :20] = MASKS[1, 20:, 30:] = True
BOX = [1.0, 1.0, 30.0, 30.0]


def test_regions_come_in_any_iterable(model: Patchioner) -> None:
    features, box = model.encode(PHOTO), Box(*BOX)
    plain = model.embed_regions(features, [box])
    iterables: list[Any] = [(box,), (one for one in [box]), np.array([box], dtype=object)]
    for given in iterables:
        assert torch.equal(model.embed_regions(features, given), plain)
    texts: Any = ["a cat", "a dog"]
    assert model.label(PHOTO, [box], iter(texts)) == model.label(PHOTO, [box], texts)


NO_REGIONS: list[Any] = [
    MASKS, torch.tensor(MASKS), np.array([BOX]), MASKS[0], [BOX], BOX, Box(*BOX), "box", {"box": BOX}, [None],
    np.array(3),
]  # fmt: skip


WRONG: dict[str, Callable[[Any], object]] = {
    "no mask": lambda m: Mask(None), "mask of objects": lambda m: Mask(MASKS[0].astype(object)),
    "polygon of tensors without axis": lambda m: Polygon(torch.tensor([1, 1, 30, 1])),
    "no region": lambda m: m.embed_regions(m.encode(PHOTO), []), "photo of another folder": lambda m: m.encode("\0"),
    "photos alone": lambda m: m.caption_many(["photo.jpg"]),
    "sparse tensor": lambda m: m.encode(torch.zeros(3, 8, 8).to_sparse()),
    "items None": lambda m: m.caption_many(None),
    "a list where one photo is meant": lambda m: m.caption([PHOTO, PHOTO]),
    "options as a dictionary": lambda m: m.caption(PHOTO, options={"max_tokens": 3}),
    "weighting as text": lambda m: m.caption(PHOTO, [Box(*BOX)], weighting="gaussian"),
    "texts as one": lambda m: m.label(PHOTO, [Box(*BOX)], "a;b"), "texts None": lambda m: m.embed_text(None),
    "unknown dtype": lambda m: m.to(dtype="float7"), "whole dtype": lambda m: m.to(dtype=torch.int32),
}  # fmt: skip
for _given in NO_REGIONS:
    WRONG[f"{_given!r:.20}"] = partial(Patchioner.caption, image=PHOTO, regions=_given)


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_is_an_error_of_ours(name: str, model: Patchioner) -> None:
    with pytest.raises(PatchionerError):
        WRONG[name](model)


def test_a_copied_model_says_the_same(model: Patchioner) -> None:
    """Whatever torch's default type is."""
    said = model.caption(PHOTO)[0].text
    ways = pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model.to(dtype="float32")
    assert [one.caption(PHOTO)[0].text for one in ways] == [said] * 3
    torch.set_default_dtype(torch.float64)
    try:
        assert said == model.caption(PHOTO)[0].text
        assert Patchioner.from_pretrained().caption(PHOTO, [Box(*BOX)])
    finally:
        torch.set_default_dtype(torch.float32)
