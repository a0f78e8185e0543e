"""The published ViECap decoders (mapping network, entity prompt, GPT-2) become our `viecap`.

Knows: the published names, which values of the config say what, and where GPT-2's tokenizer may lie. Does not know:
the network inside, nor what the published code does wrong there (see `decoders.viecap`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from decoders import DecodeOptions
from decoders.hard_prompts import EntityPrompter, HardPrompter
from decoders.language_models import build_language_model
from decoders.language_tokenizer import LanguageTokenizer
from decoders.viecap import Prompts, ViecapDecoder, ViecapNetwork
from decoders.viecap import ViecapConfig as Shape
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.optional import require
from patchioner.checkpoints.published.config import ViecapConfig
from patchioner.checkpoints.published.entities import read_entities
from patchioner.checkpoints.published.files import PublishedFiles, base_name
from patchioner.checkpoints.tensor_files import read_tensors
from patchioner.text import TextTower

USUAL_TOKENS = 64
_MASKS = re.compile(r"gpt\.transformer\.h\.\d+\.attn\.(bias|masked_bias)")


def read_viecap(
    files: PublishedFiles, config: ViecapConfig, tower: TextTower | None, *, dim: int
) -> ViecapDecoder:
    """Read a published ViECap decoder.

    Args:
        files: around the config: the decoder's file, a vocabulary, and a folder of the language model's configuration
            and tokenizer (named like `language_model`), which are else fetched from the hub.
        config: the `viecap` part of the config.
        tower: embeds the entities where no file has their embeddings.
        dim: width of the region embeddings.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the others.
        MissingExtraError: transformers is not installed.
    """
    network, tokenizer, shape = read_network(files, config, dim=dim)
    prompter: HardPrompter | None = None
    if "hard" in shape.prompts:
        names, embeddings = read_entities(files, config, tower, dim)
        prompter = EntityPrompter(
            names,
            embeddings,
            temperature=config.temperature,
            top_k=config.top_k,
            threshold=config.threshold,
        )
    return ViecapDecoder(network, tokenizer, shape, prompter)


def read_network(
    files: PublishedFiles, config: ViecapConfig, *, dim: int
) -> tuple[ViecapNetwork, LanguageTokenizer, Shape]:
    """Mapping network and GPT-2 with their weights, the tokenizer, and the shape that the tensors tell."""
    if config.weight_path is None:
        raise CheckpointError(
            f"{files.config}: viecap.weight_path is missing; it names the decoder's file"
        )
    path = files.find(config.weight_path, "ViECap decoder")
    state = {
        name: tensor for name, tensor in read_tensors(path).items() if not _MASKS.fullmatch(name)
    }
    shape = _shape(state, config, dim, str(path))
    language, tokenizer = _language_model(files, config.language_model)
    try:
        network = ViecapNetwork(shape, build_language_model(language))
    except (OptionError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    network.fit(state, source=str(path))
    return network, tokenizer, shape


def decode_options(config: ViecapConfig) -> DecodeOptions:
    """Greedy, or the published beam, up to 64 tokens."""
    if config.using_greedy_search:
        return DecodeOptions(max_tokens=USUAL_TOKENS)
    return DecodeOptions("beam", beam_width=config.beam_width, max_tokens=USUAL_TOKENS)


def prompts_of(config: ViecapConfig) -> Prompts:
    """Which prompts stand before a caption, in which order."""
    if config.only_hard_prompt:
        return "hard"
    if not config.using_hard_prompt:
        return "soft"
    return "soft_hard" if config.soft_prompt_first else "hard_soft"


def _shape(state: Mapping[str, Tensor], config: ViecapConfig, dim: int, source: str) -> Shape:
    constants, linear = (
        state.get(f"mapping_network.{name}") for name in ("prefix_const", "linear.weight")
    )
    if constants is None or linear is None or constants.dim() != 2 or linear.dim() != 2:
        raise CheckpointError(
            f"{source}: not the tensors of a ViECap decoder: missing mapping_network.prefix_const or "
            "mapping_network.linear.weight"
        )
    width = constants.shape[1]
    layers = {
        found[1]
        for name in state
        if (found := re.match(r"mapping_network\.transformer\.layers\.(\d+)\.", name))
    }
    told = {
        "continuous_prompt_length": (len(constants), config.continuous_prompt_length),
        "clip_project_length": (len(linear) // width, config.clip_project_length),
        "clip_hidden_size": (linear.shape[1], config.clip_hidden_size or dim),
        "prefix_size": (linear.shape[1], dim),
    }
    for key, (held, expected) in told.items():
        if held != expected:
            raise CheckpointError(f"{source}: the tensors say {key} {held}, the config {expected}")
    return Shape(
        embedding_dim=dim,
        prompt_tokens=len(constants),
        project_tokens=len(linear) // width,
        mapping_layers=len(layers),
        prompts=prompts_of(config),
    )


def _language_model(files: PublishedFiles, name: str) -> tuple[dict[str, Any], LanguageTokenizer]:
    """Configuration and tokenizer of the language model, from a folder beside the config or the hub; no weights."""
    transformers = require("transformers", "language-models")
    beside = files.root / base_name(name)
    source = str(beside) if (beside / "config.json").is_file() else name
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        own = LanguageTokenizer.of_transformers(tokenizer, vocab_size=int(config.vocab_size))
    except (OSError, ValueError, OptionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"configuration and tokenizer of the language model {name!r} are neither in {beside} nor to be had from "
            f"the hub ({lines[0]}). Put its config.json and tokenizer files there, or connect"
        ) from error
    stops = own.full_stops()
    if not stops:
        raise CheckpointError(
            f'the tokenizer of {name!r} has no token for ".", at which a caption ends'
        )
    return json.loads(config.to_json_string(use_diff=False)), own.ending_with(stops)
