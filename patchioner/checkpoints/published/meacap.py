"""The published MeaCap decoders: ViECap's networks and a folder of captions to find concepts in.

Knows: the memory folder's files. Does not know: how concepts are found (`decoders.meacap`).

What differs from the published code, and why: captions are parsed by our own rules unless the published parser is put
in (`concept_prompter`), so nothing need be downloaded; a caption is parsed once, not once per region; no CLIP is loaded
for a logit scale that cannot change which captions are nearest; `hf_repo_id`, without which the shipped configs cannot
be read at all, may be absent.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from decoders.concepts import ConceptOptions
from decoders.meacap import ConceptPrompter, MeacapDecoder
from decoders.name_similarity import SentenceSimilarity
from decoders.scene_graph import T5Parser
from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError, HubError, MemoryBankError
from patchioner.checkpoints.published.config import MeacapConfig, ViecapConfig
from patchioner.checkpoints.published.files import PublishedFiles, base_name, fetch
from patchioner.checkpoints.published.viecap import read_network
from patchioner.checkpoints.tensor_files import as_float, read_object

_CAPTIONS, _EMBEDDINGS = "memory_captions.json", "memory_clip_embeddings.pt"


def read_meacap(files: PublishedFiles, config: ViecapConfig, *, dim: int) -> MeacapDecoder:
    """Read a published MeaCap decoder; its captions come with the model's memory bank (`read_memory`).

    Raises:
        CheckpointError: see `patchioner.checkpoints.published.viecap.read_viecap`.
    """
    assert config.meacap is not None, "asked for by the caller"
    network, tokenizer, shape = read_network(files, config, dim=dim)
    return MeacapDecoder(network, tokenizer, shape, concept_prompter(config.meacap))


def concept_prompter(config: MeacapConfig, *, published_parser: bool = False) -> ConceptPrompter:
    """How concepts are found.

    Args:
        config: how many captions are asked, and the names of the published parser and sentence encoder.
        published_parser: use those two (downloads), instead of our rules.

    Example:
        >>> decoder.prompter = concept_prompter(config, published_parser=True)  # doctest: +SKIP
    """
    options = ConceptOptions(captions=config.memory_caption_num)
    if not published_parser:
        return ConceptPrompter(options=options)
    parser = T5Parser(config.parser_checkpoint) if config.parser_checkpoint else T5Parser()
    encoder = config.wte_model_path
    similarity = SentenceSimilarity(model=encoder) if encoder else SentenceSimilarity()
    return ConceptPrompter(parser=parser, options=options, similarity=similarity)


def read_memory(files: PublishedFiles, config: MeacapConfig, *, dim: int) -> MemoryBank:
    """The caption memory as a bank of unit rows, searched by cosine as published.

    `memory_captions.json` is a list of captions, `memory_clip_embeddings.pt` their (N, dim) tensor. The third published
    file, embeddings of the captions by a sentence encoder, is not read: nothing depends on it here.

    Raises:
        CheckpointError, MemoryBankError: a file is missing, damaged, of another width, or does not fit the other.
    """
    captions = _file(files, config, _CAPTIONS)
    texts = _texts(captions)
    path = _file(files, config, _EMBEDDINGS)
    held = read_object(path)
    if not isinstance(held, Tensor) or held.dim() != 2 or not held.is_floating_point():
        raise CheckpointError(f"{path}: expected one tensor of rows, found {type(held).__name__}")
    if held.shape != (len(texts), dim):
        raise MemoryBankError(
            f"{path}: embeddings of shape {tuple(held.shape)}, expected {(len(texts), dim)}: one row for each caption "
            f"of {captions.name}, as wide as the config's prefix_size"
        )
    rows = as_float(held, str(path))
    lengths = rows.norm(dim=1, keepdim=True)
    if bool((lengths == 0).any()):
        raise MemoryBankError(f"{path}: row {int((lengths == 0).flatten().nonzero()[0])} is zero")
    return MemoryBank(rows / lengths, texts)


def _file(files: PublishedFiles, config: MeacapConfig, name: str) -> Path:
    """`<base>/<id>/<name>` where it is there, else `memory/<id>/<name>` beside the config or on the hub."""
    own_place = files.root / (config.memory_base_path or "memory") / config.memory_id / name
    beside = files.root / "memory" / base_name(config.memory_id) / name
    for candidate in (own_place, beside):
        if candidate.is_file():
            return candidate
    hub_id = config.hf_repo_id or files.hub_id
    reason = "no hf_repo_id is given"
    if hub_id is not None:
        try:
            return fetch(hub_id, f"memory/{config.memory_id}/{name}")
        except HubError as error:
            reason = str(error)
    raise CheckpointError(f"caption memory: neither {own_place} nor {beside} is there ({reason})")


def _texts(path: Path) -> list[str]:
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable list of captions ({error})") from error
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise CheckpointError(f"{path}: expected a list of captions")
    return texts
