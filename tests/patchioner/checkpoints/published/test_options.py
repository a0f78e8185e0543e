"""Options of the authors' interface, number by number; the captions that come of them, by library and command."""

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memory_bank import MemoryBank
from patchioner import Box, Patchioner, Point, RegionSet, Trace, Weighting, WholeImage
from patchioner.backbones import PatchFeatures, TimmViT, preprocess
from patchioner.backbones.vit import published_heads
from patchioner.base.errors import OptionError, RegionError
from patchioner.checkpoints import published as options
from patchioner.checkpoints.folder import ModelSettings, Parts
from patchioner.checkpoints.published import PublishedCaptioner, PublishedOption
from patchioner.cli import main
from patchioner.geometry import Preprocessing
from patchioner.regions import pool_regions
from tests.support import Capture, randn
from tests.support.tiny import noise_photo, small_vit, tiny_backbone, tiny_decoder

close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
backbone = partial(small_vit, "vit_small_patch14_reg4_dinov2", mode="stretch")


@pytest.fixture(scope="module")
def features() -> Any:
    return backbone().encode([noise_photo()])[0]


def through_memory(rows: Tensor) -> Tensor:
    return MemoryBank(randn(30, 48, seed=5)).project(rows)


@pytest.mark.parametrize(("width", "slices"), [(48, 16), (384, 6), (768, 16)])
def test_published_heads_are_slices_of_the_full_width(width: int, slices: int) -> None:
    query, keys = randn(1, 12, 1, width // 12), randn(1, 12, 9, width // 12, seed=1)
    found = published_heads(query, keys)
    assert found is not None
    flat_query, flat_keys = query[0, :, 0].flatten(), keys[0].transpose(0, 1).flatten(1)
    for head, maps in enumerate(found[0]):
        own = slice(head * width // slices, (head + 1) * width // slices)
        close(maps, (flat_keys[:, own] @ flat_query[own] * 0.125).softmax(0))


def test_registers_heads_and_attention(features: PatchFeatures) -> None:
    """Registers are the tokens between CLS and patches, the others means over patches."""
    model, (heads, attention) = backbone(), (features.reference_heads, features.reference_attention)
    pixels, _ = preprocess(noise_photo(), model.preprocessing)
    with torch.no_grad():
        tokens = model.vit.forward_features(pixels[None])[0]
    close(options.register_embeddings(features), tokens[1:5])
    assert heads is not None and attention is not None
    found = [*options.head_embeddings(features), options.attention_embedding(features)]
    for weights, vector in zip([*heads, attention], found, strict=True):
        close(vector, (weights[..., None] * features.tokens).mean(dim=(0, 1)))
    for head in (0, 15):  # and weigh a whole image
        weighting = Weighting("attention", rounding="reference", head=head)
        close(pool_regions(features, [WholeImage()], weighting)[0], found[head])


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("context", ["cls", "attention"])
@pytest.mark.parametrize("alpha", [1.0, 0.5, None])
def test_cleaning_is_the_formula_token_by_token(
    features: PatchFeatures, alpha: float | None, context: str, after: bool
) -> None:
    """An orthogonal projection, or without alpha a contrastive mask."""
    how: dict[str, Any] = {"context": context, "alpha": alpha or 1.0, "after_projection": after}
    option = PublishedOption("orthogonal_projection" if alpha else "contrastive_mask", **how)
    cleaned = options.clean_features(features, through_memory, option)
    own = features.cls if context == "cls" else options.attention_embedding(features)
    assert own is not None
    own = through_memory(own[None])[0] if after else own / own.norm()
    for row, column in ((0, 0), (1, 3), (3, 2)):
        token = features.tokens[row, column]
        token = through_memory(token[None])[0] if after else token / token.norm()
        if alpha:
            token = token - alpha * float(token @ own) / float(own @ own) * own
        else:
            token = token * (1 - own / (float(own @ own) ** 0.5 + 1e-6))
        close(cleaned.tokens[row, column], token if after else through_memory(token[None])[0])
    assert cleaned.geometry == features.geometry


def test_what_a_backbone_does_not_have_is_refused() -> None:
    bare = TimmViT("test_vit2", Preprocessing("stretch", 64, 16)).encode([noise_photo()])[0]
    for missing in ("register_embeddings", "attention_embedding", "head_embeddings"):
        with pytest.raises(OptionError):
            getattr(options, missing)(bare)
    with pytest.raises(OptionError, match="CLS"):
        options.clean_features(bare, through_memory, PublishedOption("contrastive_mask"))


# Boxes in pixels of a photo of 56 x 56, which the backbone sees as it is: 4 x 4 patches of 14.
SQUARE = noise_photo(56, 56)
REFERENCE = Weighting("gaussian", 0.5, "reference")


def through_the_last_block(features: PatchFeatures, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs at CLS and at patches (n, dim) of timm's own block behind CLS and registers."""
    assert features.cls is not None and features.registers is not None
    with torch.no_grad():
        given = torch.cat([features.cls[None], features.registers, patches])
        found = backbone().vit.blocks[-1](given[None])[0]
    return found[0], found[5:]


@pytest.mark.parametrize("reading", ["avg", "cls", "gaussian_avg"])
def test_a_double_pass_reads_width_and_height_as_a_corner(reading: Any) -> None:
    features = backbone().encode([SQUARE])[0]
    # x 15, y 1, width 30, height 40: columns 15 // 14 .. 30 // 14, rows 1 // 14 .. 40 // 14.
    (found,) = options.double_pass(backbone(), features, [Box(15, 1, 45, 41)], reading, REFERENCE)
    patches = features.tokens[0:3, 1:3].flatten(0, 1)
    if reading == "gaussian_avg":
        v, u = torch.meshgrid(torch.linspace(-1, 1, 3), torch.linspace(-1, 1, 2), indexing="ij")
        gaussian = torch.exp(-(u**2 + v**2) / 0.5)
        patches = patches * (gaussian / gaussian.sum()).flatten()[:, None]
    whole, outputs = through_the_last_block(features, patches)
    close(found, whole if reading == "cls" else outputs.mean(dim=0))


def test_a_double_pass_of_exact_coverage_takes_the_patches_of_the_region() -> None:
    features = backbone().encode([SQUARE])[0]
    found = options.double_pass(backbone(), features, [Box(15, 1, 41, 27), Point(30, 30)])
    inside = (features.tokens[0:2, 1:3], features.tokens[2:3, 2:3])
    for row, patches in zip(found, inside, strict=True):
        close(row, through_the_last_block(features, patches.flatten(0, 1))[1].mean(dim=0))
    with pytest.raises(RegionError, match="empty corners"):
        options.double_pass(backbone(), features, [Box(30, 30, 50, 50)], weighting=REFERENCE)
    with pytest.raises(OptionError, match="visual head"):
        options.double_pass(tiny_backbone(), features, [Point(1, 1)])


@pytest.fixture(scope="module")
def parts() -> Parts:
    settings = ModelSettings("published", Weighting(rounding="reference"))
    bank = MemoryBank(randn(30, 48, seed=5))
    return Parts(backbone(), tiny_decoder(dim=48), bank, None, settings)


def model(parts: Parts, option: str) -> PublishedCaptioner:
    return PublishedCaptioner(parts, PublishedOption.of(option), device="cpu")


def said(model: Patchioner, embeddings: Tensor) -> list[str]:
    decoder, decode = model.parts.decoder, model.settings.decode
    return [one.text for one in decoder.generate(embeddings, decode, model.parts.bank)]


def test_registers_heads_cleaned_boxes_and_sets(parts: Parts, features: PatchFeatures) -> None:
    registers, heads = options.register_embeddings(features), options.head_embeddings(features)
    for option, rows, count in (("registers", registers, 4), ("heads", heads, 16)):
        captioner = model(parts, option)
        found = captioner.caption(noise_photo())
        assert [one.text for one in found] == said(captioner, through_memory(rows))
        assert [one.region for one in found] == [WholeImage()] * count
    captioner = model(parts, "orthogonal_projection,alpha=0.5,context=attention")
    cleaned = options.clean_features(features, through_memory, captioner.option)
    box = Box(5, 5, 60, 40)
    once, twice = [box, Point(9, 9)], [RegionSet([box]), Trace([(9, 9)]), WholeImage()]
    weighting = parts.settings.weighting
    first, second = (pool_regions(cleaned, regions, weighting) for regions in (once, twice))
    expected = torch.cat([first, through_memory(second)])
    close(captioner.embed_regions(features, [*once, *twice]), expected)
    again = pickle.loads(pickle.dumps(captioner.to("cpu")))
    for one in (captioner, again):
        texts = [caption.text for caption in one.caption(features, [*once, *twice])]
        assert texts == said(captioner, expected)


def test_the_command_captions_by_an_option(parts: Parts, tmp_path: Path, capsys: Capture) -> None:
    folder, photo = tmp_path / "model", tmp_path / "p.png"
    Patchioner(parts, device="cpu").save_pretrained(folder, storage="fp32")
    SQUARE.save(photo)
    command = f"caption {photo} --model {folder} --json --device=cpu --weighting".split()
    assert main([*command, "registers"]) == 0
    assert len(json.loads(capsys.readouterr().out)["captions"]) == 4
    command[1:1] = ["--box", "15,1,45,41"]
    assert main([*command, "double_pass,reading=cls"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["captions"]
    expected = model(parts, "double_pass,reading=cls").caption(SQUARE, [Box(15, 1, 45, 41)])[0]
    assert found["text"] == expected.text and found["region"] == {"box": [15, 1, 45, 41]}
    for wrong in ("soap", "heads", "heads,alpha=x", "heads,who=me", "double_pass,reading=x"):
        assert main([*command, wrong]) == 2
