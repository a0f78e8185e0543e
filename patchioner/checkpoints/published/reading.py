"""`read_published`: a folder of the hub's layout, or one of the authors' YAML files, becomes parts.

Knows: which parts a config asks for, and with which settings they gave the published numbers. Does not know: how any
file is read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from decoders import DecodeOptions, Decoder
from memory_bank import MemoryBank
from patchioner.aggregate import Weighting
from patchioner.backbones import Backbone
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.published.backbone import Fit, read_backbone
from patchioner.checkpoints.published.bank import find_bank, read_bank
from patchioner.checkpoints.published.config import PublishedConfig, read_config
from patchioner.checkpoints.published.decap import read_decap
from patchioner.checkpoints.published.files import PublishedFiles
from patchioner.checkpoints.published.talk2dino import read_text_tower
from patchioner.checkpoints.settings import ModelSettings
from patchioner.text import TextTower

STEPS = 30  # of the published greedy loop


def read_published(
    path: Path,
    *,
    mode: Fit = "stretch",
    backbone: Backbone | None = None,
    talk2dino: str | Path | None = None,
) -> Parts:
    """Read a published Patch-ioner model.

    Args:
        path: a folder with a config.yaml (as in the hub repositories), or a YAML file of the authors; the other files
            are looked up beside it by their base names, then in the repository that `hf_repo_id` names.
        mode: how photos are fitted: "stretch", as for all published numbers, or "crop".
        backbone: use this one instead of the one that the config names, of the same width.
        talk2dino: the projection for the text tower, a file or ``owner/name/file.pth`` on the hub; None looks beside
            the config. It must be the one that the model was made with, or texts and regions do not share a space.

    Returns:
        Parts whose settings repeat the published ones: patches weighed by the published integer arithmetic
        (`rounding="reference"`), uniformly, or for backbones of the CLIP family by their CLS token; greedy decoding of
        30 tokens. The projection is

        * "memory" for DeCap (`support_memory_size` > 0), unit vectors after it as `normalize` says;
        * "raw" for CapDec (`support_memory_size: 0`): the published code gives its decoder region embeddings of any
          length, though training used unit vectors. Set it to "none" for what the training means;
        * "none", which means unit vectors, for ViECap, MeaCap and retrieval.

    Raises:
        CheckpointError, MemoryBankError: a file is missing, damaged, foreign or does not fit; a config key is unknown,
            or not supported. Nothing is executed and nothing half loaded.
        MissingExtraError: pyyaml, h5py or open_clip is not installed.

    Example:
        >>> parts = read_published(Path("Patch-ioner_talk2dino_decap_COCO_Captions"))  # doctest: +SKIP
    """
    files = PublishedFiles.of(path)
    config = read_config(files.config)
    if talk2dino is not None:
        config = replace(config, use_talk2dino_project=str(talk2dino))
    files = replace(files, hub_id=config.hf_repo_id)
    try:
        return _read(files, config, mode, backbone)
    except OptionError as error:  # a number in the config that makes no sense
        raise CheckpointError(f"{files.config}: {error}") from error


def _read(
    files: PublishedFiles, config: PublishedConfig, mode: Fit, backbone: Backbone | None
) -> Parts:
    # The cheap parts first: a fault in them should not wait for a download of the backbone.
    if config.viecap is not None:
        return _with_language_model(files, config, mode, backbone)
    bank = _bank(files, config)
    decoder: Decoder
    if config.calculate_argmax_text:
        if bank is None:
            raise CheckpointError(
                f"{files.config}: calculate_argmax_text needs a bank; set support_memory_size"
            )
        from decoders.retrieval import RetrievalDecoder

        decoder = RetrievalDecoder(config.prefix_size)
    else:
        decoder = _decap(files, config)
    backbone = backbone or read_backbone(files, config, mode=mode)
    tower = read_text_tower(files, config, backbone.dim)
    return Parts(backbone, decoder, bank, tower, _settings(files, config, bank))


def _decap(files: PublishedFiles, config: PublishedConfig) -> Decoder:
    if config.decap_weights is None:
        raise CheckpointError(
            f"{files.config}: no decoder: give decap_weights, viecap, or calculate_argmax_text with a bank"
        )
    return read_decap(files.find(config.decap_weights, "decoder"), prefix_size=config.prefix_size)


def _bank(files: PublishedFiles, config: PublishedConfig) -> MemoryBank | None:
    if config.support_memory_size == 0:
        return None
    return read_bank(find_bank(files, config), unit_rows=config.clip_like, dim=config.prefix_size)


def _settings(
    files: PublishedFiles, config: PublishedConfig, bank: MemoryBank | None
) -> ModelSettings:
    projection = "raw" if bank is None else "none" if config.calculate_argmax_text else "memory"
    return ModelSettings(
        name=files.name,
        weighting=_weighting(config),
        projection=projection,
        normalize=config.normalize,
        # Retrieval counts words and passes longer sentences over, which the published code does not.
        decode=DecodeOptions(max_tokens=1000 if config.calculate_argmax_text else STEPS),
    )


def _weighting(config: PublishedConfig) -> Weighting:
    """Section 3.3 of the facts: patches, uniformly; backbones trained on images alone were read at their CLS token."""
    dino = config.dino_model is not None and "dino" in config.dino_model
    return Weighting("uniform" if dino else "cls", rounding="reference")


def _with_language_model(
    files: PublishedFiles, config: PublishedConfig, mode: Fit, backbone: Backbone | None
) -> Parts:
    from patchioner.checkpoints.published.viecap import decode_options, read_viecap

    viecap = config.viecap
    assert viecap is not None, "asked for by the caller"
    bank: MemoryBank | None = None
    decoder: Decoder
    tower: TextTower | None
    if viecap.meacap is not None:
        from patchioner.checkpoints.published.meacap import read_meacap, read_memory

        bank = read_memory(files, viecap.meacap, dim=config.prefix_size)
        decoder = read_meacap(files, viecap, dim=config.prefix_size)
        backbone = backbone or read_backbone(files, config, mode=mode)
        tower = read_text_tower(files, config, backbone.dim)
    else:
        backbone = backbone or read_backbone(files, config, mode=mode)
        tower = read_text_tower(files, config, backbone.dim)
        decoder = read_viecap(files, viecap, tower, dim=config.prefix_size)
    settings = ModelSettings(
        name=files.name,
        weighting=_weighting(config),
        projection="none",
        decode=decode_options(viecap),
    )
    return Parts(backbone, decoder, bank, tower, settings)
