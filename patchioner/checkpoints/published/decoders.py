"""The published decoders become ours: DeCap and CapDec (`prefix_gpt2`), ViECap (`viecap`), MeaCap (`meacap`).

What differs from the published code, and why. DeCap: decoding keeps keys and values and stops at the end token instead
of always running 30 steps (the tokens up to there are the same); one token that cannot be written does not void the
batch; files are loaded strictly; a caption's score is the mean log-probability of its own tokens, not the product over
everything written after the end. MeaCap: captions are parsed by our own rules unless the published parser is put in
(`concept_prompter`), so nothing need be downloaded; a caption is parsed once, not once per region; no CLIP is loaded
for a logit scale that cannot change which captions are nearest; `hf_repo_id`, without which the shipped configs cannot
be read at all, may be absent. What the published ViECap does wrong stands in `decoders.viecap`.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder
from decoders.concepts import SentenceSimilarity
from decoders.entities import COCO_ENTITIES, EntityPrompter, embed_entities
from decoders.gpt2 import PrefixGPT2, PrefixGPT2Config
from decoders.language_model import (
    build_language_model,
    fit_stored,
)
from decoders.meacap import ConceptPrompter, MeacapDecoder
from decoders.scene_graph import T5Parser
from decoders.tokenizers import ClipTokenizer, LanguageTokenizer
from decoders.viecap import Prompts, ViecapDecoder, ViecapNetwork
from decoders.viecap import ViecapConfig as Shape
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.optional import require
from patchioner.base.weights import fit_weights, load_weights
from patchioner.checkpoints.files import as_float, check_names, read_object, read_tensors
from patchioner.checkpoints.published.config import (
    MeacapConfig,
    PublishedFiles,
    ViecapConfig,
    as_pattern,
    base_name,
)
from patchioner.text import TextTower

HEADS = 4  # of DeCap; not in the tensors; the same in all published decoders
USUAL_TOKENS = 64  # of ViECap
_BODY = "decoder.transformer."
_HEAD = "decoder.lm_head.weight"
_PROJECTION = "clip_project.model.0."
# Old files hold buffers of causal masks.
_MASKS = re.compile(r"(decoder|gpt)\.transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def read_decap(
    path: Path,
    *,
    prefix_size: int | None = None,
    heads: int = HEADS,
    tokenizer: ClipTokenizer | None = None,
) -> PrefixGPT2Decoder:
    """Read a published DeCap file (`.pt`, `.pth` or safetensors).

    Args:
        path: the state dict. Prefixes of distributed training, old files' buffers of causal masks and half precision
            are understood.
        prefix_size: width that its embeddings must have; None takes any.
        heads: attention heads, which the tensors do not tell.
        tokenizer: CLIP's; None reads it out of an installed open_clip.

    Returns:
        A decoder that generates the token ids that the published greedy loop generates up to the end token: the start
        token first, embeddings as they come (not normalised), nothing banned.

    Raises:
        CheckpointError: not exactly the tensors of a DeCap decoder, of one shape throughout; an output layer that is
            not the embedding itself; a pickle that would execute something.
    """
    state = {
        name: tensor for name, tensor in read_tensors(path).items() if not _MASKS.fullmatch(name)
    }
    config = _config(state, heads, str(path))
    if path.suffix == ".safetensors" and _HEAD not in state:  # the format stores tied tensors once
        state[_HEAD] = state.get(f"{_BODY}wte.weight", torch.empty(0))
    check_names(state, _shapes(config), str(path), "a DeCap decoder")
    if not torch.equal(state[_HEAD], state[f"{_BODY}wte.weight"]):
        raise CheckpointError(
            f"{path}: {_HEAD} differs from {_BODY}wte.weight; in a DeCap decoder they are one tensor"
        )
    if prefix_size not in (None, config.embedding_dim):
        raise CheckpointError(
            f"{path}: takes embeddings of width {config.embedding_dim}, the config says prefix_size {prefix_size}"
        )
    network = PrefixGPT2(config)
    fit_weights(network, _renamed(state), source=str(path))
    try:
        return PrefixGPT2Decoder(network, tokenizer or ClipTokenizer.from_open_clip())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _config(state: Mapping[str, Tensor], heads: int, source: str) -> PrefixGPT2Config:
    """The shape that the two embeddings, the projection and the number of layers tell."""
    corners = (f"{_BODY}wte.weight", f"{_BODY}wpe.weight", f"{_PROJECTION}weight")
    absent = [name for name in corners if name not in state or state[name].dim() != 2]
    if absent:
        raise CheckpointError(
            f"{source}: not the tensors of a DeCap decoder: missing {', '.join(absent)}"
        )
    words, positions, projection = (state[name] for name in corners)
    layers = {
        int(found[1])
        for name in state
        if (found := re.match(r"decoder\.transformer\.h\.(\d+)\.", name))
    }
    try:
        return PrefixGPT2Config(
            embedding_dim=projection.shape[1],
            vocab_size=words.shape[0],
            layers=len(layers),
            width=words.shape[1],
            heads=heads,
            positions=positions.shape[0],
            normalize_input=False,
            emit_start=True,
        )
    except OptionError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _shapes(config: PrefixGPT2Config) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of a decoder of this form."""
    with torch.device("meta"):
        ours = PrefixGPT2(config).state_dict()
    shapes = {
        _published_name(name): _published_shape(name, tensor) for name, tensor in ours.items()
    }
    return {**shapes, _HEAD: (config.vocab_size, config.width)}


def _published_name(name: str) -> str:
    if name.startswith("prefix."):
        return _PROJECTION + name.removeprefix("prefix.")
    return "decoder." + name


def _published_shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    return shape[::-1] if name.endswith(_TRANSPOSED) else shape


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        if name == _HEAD:
            continue
        own = name.removeprefix("decoder.").replace(_PROJECTION, "prefix.")
        renamed[own] = tensor.T if own.endswith(_TRANSPOSED) else tensor
    return renamed


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
    prompter: EntityPrompter | None = None
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
    fit_stored(network, state, source=str(path))
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
    """
    captions = config.memory_caption_num
    if not published_parser:
        return ConceptPrompter(captions=captions)
    parser = T5Parser(config.parser_checkpoint) if config.parser_checkpoint else T5Parser()
    encoder = config.wte_model_path
    similarity = SentenceSimilarity(model=encoder) if encoder else SentenceSimilarity()
    return ConceptPrompter(parser=parser, similarity=similarity, captions=captions)


def read_entities(
    files: PublishedFiles, config: ViecapConfig, tower: TextTower | None, dim: int
) -> tuple[tuple[str, ...], Tensor]:
    """Names and embeddings of a ViECap model's vocabulary.

    The embeddings come from a file beside the config (`*embeddings*.safetensors`, or the published `.pickle`, of which
    nothing but a tensor is read), else from the text tower. Those are close to the published ones and not equal:
    which sentences were averaged there is not known.

    Returns:
        m names, and (m, dim) float32.

    Raises:
        CheckpointError: neither file nor text tower; a file of another width or number of rows; a pickle that would
            execute something; names that are not COCO's and not in a file.
    """
    names = _names(files, config)
    found = files.any_of(_patterns(config))
    if found is None:
        if tower is None:
            raise CheckpointError(
                f"{files.config}: the entities' embeddings are not there ({', '.join(_patterns(config))}), and there "
                "is no text tower to make them with. Put either beside it"
            )
        return names, embed_entities(names, lambda texts: tower.encode(texts))
    embeddings = read_tensor(found)
    if tuple(embeddings.shape) != (len(names), dim):
        raise CheckpointError(
            f"{found}: embeddings of shape {tuple(embeddings.shape)}, expected {(len(names), dim)}: one row for each "
            f"of the names of {config.name_of_entities_text!r}, as wide as the region embeddings"
        )
    return names, embeddings


def read_tensor(path: Path) -> Tensor:
    """The one tensor of a file, in float32: safetensors, torch's format, or a plain pickle of a tensor.

    Raises:
        CheckpointError: damaged, more than a tensor, or a pickle that would execute something; nothing is executed.
    """
    if path.suffix == ".safetensors":
        held: Any = list(load_weights(path).values())
        held = held[0] if len(held) == 1 else held
    else:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        held = read_object(path) if zipped else _unpickled(path)
    if not isinstance(held, Tensor) or not held.is_floating_point():
        raise CheckpointError(f"{path}: expected one tensor of floats, found {type(held).__name__}")
    return as_float(held, str(path))


def _patterns(config: ViecapConfig) -> tuple[str, ...]:
    """From the published name with its suffix to anything that looks like it."""
    source = as_pattern(config.name_of_entities_text.removesuffix("_entities"))
    ensemble = "_with_ensemble" if config.prompt_ensemble else ""
    exact = [f"{source}_embeddings_{as_pattern(config.suffix)}{ensemble}"] if config.suffix else []
    stems = [*exact, f"{source}_embeddings*", "*entities*embeddings*"]
    return tuple(
        f"{folder}{stem}.{kind}"
        for stem in stems
        for kind in ("safetensors", "pickle")
        for folder in ("", "vocabulary/")
    )


def _names(files: PublishedFiles, config: ViecapConfig) -> tuple[str, ...]:
    wanted = base_name(config.name_of_entities_text)
    stem = as_pattern(wanted)
    path = files.any_of(
        f"{folder}{stem}.{kind}" for kind in ("txt", "json") for folder in ("", "vocabulary/")
    )
    if path is None:
        if wanted in ("coco_entities", "coco"):
            return COCO_ENTITIES
        raise CheckpointError(
            f"{files.config}: the names of the vocabulary {wanted!r} are not part of this package, only "
            f"'coco_entities' is: put {wanted}.txt, one name a line, beside it"
        )
    try:
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if path.suffix == ".json" else text.split("\n")
        stripped = [name.strip().lower() for name in names]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a list of names ({error})") from error
    found = tuple(sorted({name for name in stripped if name}))
    if not found:
        raise CheckpointError(f"{path}: it holds no name; give one a line")
    return found


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _TensorUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # damaged pickles fail in any way there is
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path}: truncated or not a pickled tensor ({lines[0]})") from error


def _load_storage(data: bytes) -> Any:
    """What `torch.storage._load_from_bytes` does, for storages alone."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds a tensor and its storage; whatever else a pickle asks for is refused before it is looked up."""

    _allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch.storage", "_load_from_bytes"): _load_storage,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The allowed function of that name."""
        if (module, name) not in self._allowed:
            raise CheckpointError(
                f"the pickle asks for {module}.{name}, which a tensor does not need; nothing was executed. Fetch the "
                "file from where it was published, or convert it to safetensors there"
            )
        return self._allowed[module, name]
