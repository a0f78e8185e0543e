"""Whatever people give from Python: it works and means the same, or an error of ours says what to give."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from patchioner import Box, Mask, Patchioner, PatchionerError, Polygon, Trace
from tests.support.tiny import noise_photo

PHOTO = noise_photo()  # 96 x 64
MASKS = np.zeros((2, 64, 96), dtype=bool)
MASKS[0, :20, :20] = MASKS[1, 20:, 30:] = True
BOX = [1.0, 1.0, 30.0, 30.0]
RING = np.array([[1, 1], [30, 1], [30, 30]])
SAME: dict[str, Callable[[], tuple[Any, Any]]] = {
    "generator": lambda: ((Box(*BOX) for _ in range(1)), [Box(*BOX)]),
    "tuple": lambda: ((Box(*BOX),), [Box(*BOX)]),
    "box of a tensor": lambda: ([Box(*torch.tensor(BOX))], [Box(*BOX)]),
    "polygon as a tensor": lambda: ([Polygon(torch.tensor(RING))], [Polygon(RING.tolist())]),
    "polygon as a generator": lambda: ([Polygon(iter(RING))], [Polygon(RING.tolist())]),
    "trace as an array": lambda: ([Trace(RING)], [Trace(RING.tolist())]),
    "mask with an axis of one": lambda: ([Mask(MASKS[:1])], [Mask(MASKS[0])]),
    "mask as lists": lambda: ([Mask(MASKS[0].tolist())], [Mask(MASKS[0])]),
    "mask of numbers": lambda: ([Mask(MASKS[0] * 3)], [Mask(MASKS[0])]),
    "object array": lambda: (np.array([Box(*BOX)], dtype=object), [Box(*BOX)]),
    "mask in bfloat16": lambda: ([Mask(torch.tensor(MASKS[0]).bfloat16())], [Mask(MASKS[0])]),
    "mask in uint8": lambda: ([Mask(torch.tensor(MASKS[0]).byte())], [Mask(MASKS[0])]),
}


@pytest.mark.parametrize("name", SAME)
def test_regions_in_another_form_mean_the_same(name: str, model: Patchioner) -> None:
    given, plain = SAME[name]()
    features = model.encode(PHOTO)
    assert torch.equal(model.embed_regions(features, given), model.embed_regions(features, plain))


NO_REGIONS: dict[str, Any] = {
    "masks in one piece": MASKS, "masks in one tensor": torch.tensor(MASKS), "boxes in one piece": np.array([BOX]),
    "one mask": MASKS[0], "lists of numbers": [BOX], "numbers": BOX, "one region": Box(*BOX), "text": "box",
    "dictionary": {"box": BOX}, "None in a list": [None], "array without an axis": np.array(3),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_REGIONS)
def test_what_is_no_region(name: str, model: Patchioner) -> None:
    with pytest.raises(PatchionerError):
        model.caption(PHOTO, NO_REGIONS[name])


WRONG: dict[str, Callable[[Patchioner], object]] = {
    "no mask": lambda m: Mask(None),
    "mask of objects": lambda m: Mask(MASKS[0].astype(object)),
    "polygon of tensors without axis": lambda m: Polygon(torch.tensor([1, 1, 30, 1])),
    "no region": lambda m: m.embed_regions(m.encode(PHOTO), []),
    "photo of another folder": lambda m: m.encode("\0"),
    "photos alone": lambda m: m.caption_many(["photo.jpg"]),  # type: ignore[list-item]
    "sparse tensor": lambda m: m.encode(torch.zeros(3, 8, 8).to_sparse()),
    "items None": lambda m: m.caption_many(None),  # type: ignore[arg-type]
    "a list where one photo is meant": lambda m: m.caption([PHOTO, PHOTO]),
    "options as a dictionary": lambda m: m.caption(PHOTO, options={"max_tokens": 3}),  # type: ignore[arg-type]
    "weighting as text": lambda m: m.caption(PHOTO, [Box(*BOX)], weighting="gaussian"),  # type: ignore[arg-type]
    "texts as one": lambda m: m.label(PHOTO, [Box(*BOX)], "a;b"),
    "texts None": lambda m: m.embed_text(None),  # type: ignore[arg-type]
    "unknown dtype": lambda m: m.to(dtype="float7"),
    "whole dtype": lambda m: m.to(dtype=torch.int32),
}


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
    finally:
        torch.set_default_dtype(torch.float32)


def test_texts_may_be_a_generator(model: Patchioner) -> None:
    label = model.label(PHOTO, [Box(*BOX)], (text for text in ("a cat", "a dog")))  # type: ignore[arg-type]
    assert label == model.label(PHOTO, [Box(*BOX)], ["a cat", "a dog"])
