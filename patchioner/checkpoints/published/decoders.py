"""The published decoders become ours: DeCap and CapDec (`prefix_gpt2`), ViECap (`viecap`), MeaCap (`meacap`)."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decoders import DecodeOptions, PrefixGPT2Decoder
from decoders.base import reading
from decoders.gpt2 import GPT2, PrefixGPT2, PrefixGPT2Config
from decoders.language_model import build_language_model, fit_stored
from decoders.retrieval import ConceptPrompter, MeacapDecoder
from decoders.tokenizers import ClipTokenizer, LanguageTokenizer
from decoders.viecap import COCO_ENTITIES, EntityPrompter, Prompts, ViecapDecoder, embed_entities
from decoders.viecap import ViecapConfig as Shape
from patchioner.base.errors import CheckpointError, first_line
from patchioner.base.files import read_json
from patchioner.base.optional import require
from patchioner.base.weights import TORCH_FILES, as_float, kind_of_file, load_weights
from patchioner.checkpoints import read_object, read_tensors
from patchioner.checkpoints.published.files import PublishedFiles, ViecapConfig, as_pattern, base_name
from patchioner.text import TextTower

USUAL_TOKENS = 64  # of ViECap
# Old files hold buffers of causal masks.
_MASKS = re.compile(r"(decoder|gpt)\.transformer\.h\.\d+\.attn\.(bias|masked_bias)")


def read_decap(path: Path, *, prefix_size: int | None = None) -> PrefixGPT2Decoder:
    """Read a published DeCap file (`.pt`, `.pth` or safetensors) of embeddings of width `prefix_size`.

    It generates the token ids of the published greedy loop up to the end token: the start token first, embeddings as
    they come, nothing banned. CheckpointError where it is not exactly the tensors of a DeCap decoder.
    """
    state = _without_masks(path)
    with reading(path):
        network = PrefixGPT2(_config(state, str(path)))
    # The same network under the published names, which are those of a language model and a projection.
    language = GPT2({"vocab_size": 1, "n_positions": 1, "n_embd": 1, "n_layer": 1, "n_head": 1})
    language.transformer = network.transformer
    project = nn.ModuleDict({"model": nn.Sequential(network.prefix)})
    theirs = nn.ModuleDict({"decoder": language, "clip_project": project})
    fit_stored(theirs, state, source=str(path))
    if prefix_size not in (None, width := network.shape.embedding_dim):
        raise CheckpointError(f"{path}: width {width}, the config says prefix_size {prefix_size}")
    try:
        return PrefixGPT2Decoder(network, ClipTokenizer.from_open_clip())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _without_masks(path: Path) -> dict[str, Tensor]:
    return {k: t for k, t in read_tensors(path).items() if not _MASKS.fullmatch(k)}


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({k.removeprefix(prefix).split(".")[0] for k in state if k.startswith(prefix)})


def _config(state: Mapping[str, Tensor], source: str) -> PrefixGPT2Config:
    """The shape that the two embeddings, the projection and the number of layers tell."""
    corners = ("decoder.transformer.wte.weight", "decoder.transformer.wpe.weight", "clip_project.model.0.weight")
    if absent := [name for name in corners if name not in state or state[name].dim() != 2]:
        raise CheckpointError(f"{source}: no DeCap decoder: missing {', '.join(absent)}")
    words, positions, projection = (state[name] for name in corners)
    return PrefixGPT2Config(
        embedding_dim=projection.shape[1],
        vocab_size=words.shape[0],
        layers=_layers(state, "decoder.transformer.h."),
        width=words.shape[1],
        heads=4,  # which the tensors do not tell; the same in all published decoders
        positions=positions.shape[0],
        normalize_input=False,
    )


def read_viecap(
    files: PublishedFiles, config: ViecapConfig, tower: Callable[[], TextTower | None], *, dim: int
) -> ViecapDecoder:
    """Read a published ViECap or MeaCap decoder for embeddings of width `dim`, with the `viecap` part of a config.

    Beside the config are the decoder's file and a folder of the language model's configuration and tokenizer, else
    fetched from the hub. ViECap has a vocabulary there; what `tower` reads embeds the entities where no file has their
    embeddings. MeaCap's captions are the model's memory bank (`read_memory`).

    CheckpointError, MissingExtraError: a file is missing, damaged, or does not fit; transformers is not installed.
    """
    if config.weight_path is None:
        raise CheckpointError(f"{files.config}: viecap.weight_path, the decoder's file, is missing")
    path = files.find(config.weight_path, "ViECap decoder")
    state = _without_masks(path)
    shape = _shape(state, config, dim, str(path))
    language, tokenizer = _language_model(files, config.language_model)
    with reading(path):
        kind = ViecapDecoder if config.meacap is None else MeacapDecoder
        decoder = kind(build_language_model(language), tokenizer, shape)
    decoder.fit(state, str(path))
    if config.meacap is not None:
        decoder.prompter = ConceptPrompter(captions=config.meacap.memory_caption_num)
    elif "hard" in shape.prompts:
        names, rows = read_entities(files, config, tower, dim)
        how: dict[str, Any] = {k: getattr(config, k) for k in ("temperature", "top_k", "threshold")}
        decoder.prompter = EntityPrompter(names, rows, **how)
    return decoder


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
    names = ("mapping_network.prefix_const", "mapping_network.linear.weight")
    if any(name not in state or state[name].dim() != 2 for name in names):
        raise CheckpointError(f"{source}: no ViECap decoder: missing {' or '.join(names)}")
    constants, linear = (state[name] for name in names)
    projected, width = len(linear) // constants.shape[1], linear.shape[1]
    told = {
        "continuous_prompt_length": (len(constants), config.continuous_prompt_length),
        "clip_project_length": (projected, config.clip_project_length),
        "clip_hidden_size": (width, config.clip_hidden_size or dim),
        "prefix_size": (width, dim),
    }
    for key, (held, expected) in told.items():
        if held != expected:
            raise CheckpointError(f"{source}: the tensors say {key} {held}, the config {expected}")
    return Shape(
        embedding_dim=dim,
        prompt_tokens=len(constants),
        project_tokens=projected,
        mapping_layers=_layers(state, "mapping_network.transformer.layers."),
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
    except (OSError, ValueError, AttributeError, TypeError) as error:  # of no language model
        raise CheckpointError(
            f"config.json and tokenizer of the language model {name!r} are neither in {beside} nor to be had from the "
            f"hub ({first_line(error)}): put them there, or connect"
        ) from error
    if not (stops := own.full_stops()):
        raise CheckpointError(f'the tokenizer of {name!r} has no "." to end a caption')
    return json.loads(config.to_json_string(use_diff=False)), own.ending_with(stops)


def read_entities(
    files: PublishedFiles, config: ViecapConfig, read_tower: Callable[[], TextTower | None], dim: int
) -> tuple[tuple[str, ...], Tensor]:
    """m names, and their (m, dim) float32 embeddings, of a ViECap model's vocabulary.

    The embeddings come from a file beside the config (`*embeddings*.safetensors`, or the published `.pickle`, of which
    nothing but a tensor is read), else from the text tower: close to the published ones and not equal. CheckpointError:
    neither; a file that does not fit; names that are not COCO's and not in a file.
    """
    names, patterns = _names(files, config), _patterns(config)
    found = files.any_of(patterns)
    if found is None:
        if (tower := read_tower()) is not None:
            return names, embed_entities(names, tower.encode)
        raise CheckpointError(f"no embeddings of the entities ({patterns[0]}), and no text tower")
    embeddings = read_tensor(found)
    if tuple(embeddings.shape) != (len(names), dim):
        raise CheckpointError(f"{found}: shape {tuple(embeddings.shape)}, not {(len(names), dim)}")
    return names, embeddings


def read_tensor(path: Path) -> Tensor:
    """The one tensor of a file, in float32: safetensors, torch's format, or a plain pickle; CheckpointError if none."""
    if path.suffix == ".safetensors":
        held: Any = list(load_weights(path).values())
        held = held[0] if len(held) == 1 else held
    else:
        held = read_object(path) if kind_of_file(path) == TORCH_FILES[0] else _unpickled(path)
    if not isinstance(held, Tensor) or not held.is_floating_point():
        raise CheckpointError(f"{path}: expected one tensor of floats, found {type(held).__name__}")
    return as_float(held, str(path))


def _patterns(config: ViecapConfig) -> list[str]:
    source = as_pattern(config.name_of_entities_text.removesuffix("_entities"))
    ensemble = "_with_ensemble" if config.prompt_ensemble else ""
    exact = [f"{source}_embeddings_{as_pattern(config.suffix)}{ensemble}"] if config.suffix else []
    return _beside([*exact, f"{source}_embeddings*", "*entities*embeddings*"], ("safetensors", "pickle"))


def _names(files: PublishedFiles, config: ViecapConfig) -> tuple[str, ...]:
    wanted = base_name(config.name_of_entities_text)
    path = files.any_of(_beside((as_pattern(wanted),), ("txt", "json")))
    if path is None:
        if wanted in ("coco_entities", "coco"):
            return COCO_ENTITIES
        raise CheckpointError(f"{files.config}: put {wanted}.txt, one name a line, beside it (we have coco_entities)")
    try:
        listed = path.suffix == ".json"
        names = read_json(path) if listed else path.read_text(encoding="utf-8-sig").split("\n")
        found = {name.strip().lower() for name in names} - {""}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: not a list of names ({error})") from error
    if not found:
        raise CheckpointError(f"{path}: it holds no name; give one a line")
    return tuple(sorted(found))


def _beside(stems: Iterable[str], kinds: tuple[str, ...]) -> list[str]:
    return [f"{place}{stem}.{kind}" for stem in stems for kind in kinds for place in ("", "vocabulary/")]


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _TensorUnpickler(file).load()
    except _RefusedError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # damaged pickles fail in any way there is
        raise CheckpointError(f"{path}: truncated or not a pickled tensor ({first_line(error)})") from error


class _RefusedError(pickle.UnpicklingError):
    """What a pickle asks for is no part of a tensor."""


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds a tensor and its storage; whatever else a pickle asks for is refused before it is looked up."""

    _allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        # What torch does there, for storages alone.
        ("torch.storage", "_load_from_bytes"): lambda data: torch.load(
            io.BytesIO(data), map_location="cpu", weights_only=True
        ),
        ("collections", "OrderedDict"): OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The allowed function of that name."""
        if (module, name) not in self._allowed:
            raise _RefusedError(f"it wants {module}.{name}; nothing was executed: convert it to safetensors")
        return self._allowed[module, name]
