"""The published decoders: token ids of a plain twin, strict files, nothing executed."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from decoders import DecodeOptions, load_decoder
from decoders.tokenizers import ClipTokenizer
from decoders.viecap import COCO_ENTITIES, EntityPrompter, ViecapDecoder
from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError, MemoryBankError
from patchioner.checkpoints.published.decoders import (
    decode_options,
    prompts_of,
    read_decap,
    read_meacap,
    read_tensor,
    read_viecap,
)
from patchioner.checkpoints.published.files import (
    PublishedConfig,
    PublishedFiles,
    ViecapConfig,
    read_config,
    read_memory,
)
from tests.support.published import (
    DIM,
    MEMORY_CAPTIONS,
    VOCABULARY,
    decap_state,
    old_style,
    randoms,
    write_meacap,
    write_viecap,
)
from tests.support.tiny import Trap

STEPS, END = 30, 49407


def affine(x: Tensor, state: Mapping[str, Tensor], name: str, transposed: bool = False) -> Tensor:
    weight = state[f"{name}.weight"]
    return x @ (weight.T if transposed else weight) + state.get(f"{name}.bias", torch.zeros(()))


def layer_norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    shape = (x.shape[-1],)
    return F.layer_norm(x, shape, state[f"{name}.weight"], state[f"{name}.bias"])


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """One head after the other, the softmax written out."""
    outs = []
    for cut in torch.arange(q.shape[1]).chunk(heads):
        scores = q[:, cut] @ k[:, cut].T / math.sqrt(len(cut))
        scores = scores if mask is None else scores.masked_fill(mask, -torch.inf)
        outs.append(scores.softmax(-1) @ v[:, cut])
    return torch.cat(outs, 1)


def gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def naive_logits(state: Mapping[str, Tensor], inputs: Tensor, heads: int = 4) -> Tensor:
    """GPT-2 over (t, width) inputs without any cache: every position anew; logits of the last one."""
    length = len(inputs)
    x = inputs + state["decoder.transformer.wpe.weight"][:length]
    mask = torch.ones(length, length).tril() == 0
    for layer in range(sum(name.endswith("ln_1.weight") for name in state)):
        name = f"decoder.transformer.h.{layer}."
        parts = affine(layer_norm(x, state, name + "ln_1"), state, name + "attn.c_attn").chunk(3, 1)
        x = x + affine(attend(*parts, heads, mask), state, name + "attn.c_proj")
        inner = gelu_new(affine(layer_norm(x, state, name + "ln_2"), state, name + "mlp.c_fc"))
        x = x + affine(inner, state, name + "mlp.c_proj")
    return layer_norm(x, state, "decoder.transformer.ln_f")[-1] @ state["decoder.lm_head.weight"].T


def naive_greedy(state: Mapping[str, Tensor], embedding: Tensor, steps: int = STEPS) -> list[int]:
    """Spec 1.7: the projected vector first, softmax before the argmax, always all the steps."""
    weight, bias = state["clip_project.model.0.weight"], state["clip_project.model.0.bias"]
    inputs = (embedding @ weight.T + bias)[None]
    ids: list[int] = []
    for _ in range(steps):
        ids.append(int(naive_logits(state, inputs).softmax(-1).argmax()))
        inputs = torch.cat([inputs, state["decoder.transformer.wte.weight"][ids[-1]][None]])
    return ids


def until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(END) + 1] if END in ids else ids


@pytest.fixture
def state() -> OrderedDict[str, Tensor]:
    return decap_state()


def decap(state: Mapping[str, Tensor], folder: Path, name: str = "decap-009.pt") -> Any:
    """Written and read."""
    torch.save(OrderedDict(state), folder / name)
    return read_decap(folder / name, prefix_size=DIM)


def embeddings(count: int = 6, seed: int = 9) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def ending_sometimes(state: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Let the end token win now and then: its vector is the mean of some that win anyhow."""
    words = state["decoder.transformer.wte.weight"]
    chosen = naive_greedy(state, embeddings()[0], 12)[8]
    words[END] = words[chosen] * 1.05
    return state


def test_greedy_ids_equal_the_plain_twin(state: OrderedDict[str, Tensor], tmp_path: Path) -> None:
    state = ending_sometimes(state)
    rows = torch.cat([embeddings(), 20 * embeddings(2, seed=10)])  # they are not normalised
    found = decap(state, tmp_path).generate(rows, DecodeOptions(max_tokens=STEPS))
    expected = [until_end(naive_greedy(state, row)) for row in rows]
    assert [list(one.token_ids) for one in found] == expected
    assert len({len(ids) for ids in expected}) > 1  # some end, some do not
    assert len({tuple(ids) for ids in expected}) > 3


@pytest.mark.parametrize("half", [False, True])
def test_old_files_with_prefixes_and_mask_buffers(
    state: OrderedDict[str, Tensor], tmp_path: Path, half: bool
) -> None:
    plain = {name: tensor.half() if half else tensor for name, tensor in state.items()}
    first, second = decap(plain, tmp_path), decap(old_style(state, half=half), tmp_path)
    assert first.generate(embeddings()) == second.generate(embeddings())
    assert first.network.prefix.weight.dtype == torch.float32


def test_safetensors_without_the_second_name_of_the_tied_matrix(
    state: OrderedDict[str, Tensor], tmp_path: Path
) -> None:
    expected = decap(state, tmp_path).generate(embeddings())
    del state["decoder.lm_head.weight"]
    save_file(state, tmp_path / "decap.safetensors")
    assert read_decap(tmp_path / "decap.safetensors").generate(embeddings()) == expected


def test_saved_in_our_format_it_needs_no_open_clip(
    state: OrderedDict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decap({name: tensor.half() for name, tensor in state.items()}, tmp_path)
    decoder.save(tmp_path / "ours", storage="fp16")
    monkeypatch.setattr(ClipTokenizer, "from_open_clip", None)
    again = load_decoder(tmp_path / "ours")
    assert again.generate(embeddings()) == decoder.generate(embeddings())


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"decoder.transformer.h.0.attn.surprise": torch.zeros(2)}, "unexpected.*attn.surprise"),
        ({"decoder.transformer.h.7.ln_1.weight": torch.zeros(16)}, "missing.*h.2"),
        (
            {"decoder.transformer.h.1.mlp.c_fc.weight": torch.zeros(64, 16)},
            r"mlp.c_fc.weight is \(16, 64\), .*has \(64, 16\)",
        ),
        ({"decoder.lm_head.weight": torch.zeros(VOCABULARY, 16)}, "differs"),
        ({"clip_project.model.0.bias": torch.full((16,), torch.nan)}, "model.0.bias.*not finite"),
    ],
)
def test_what_is_too_much_or_wrong_is_named(
    state: OrderedDict[str, Tensor], tmp_path: Path, extra: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        decap({**state, **extra}, tmp_path)


ROWS = F.normalize(randoms(12)(5, DIM), dim=1)


def files_of(folder: Path) -> tuple[PublishedFiles, ViecapConfig]:
    config: PublishedConfig = read_config(folder / "config.yaml")
    assert config.viecap is not None
    return PublishedFiles.of(folder), config.viecap


def read(folder: Path) -> ViecapDecoder:
    files, config = files_of(folder)
    return read_viecap(files, config, lambda: None, dim=DIM)


def naive_soft_prompt(state: Mapping[str, Tensor], row: Tensor, heads: int = 8) -> Tensor:
    """Spec 1.7: Linear, constants appended, pre-norm layers without bias in queries, keys and values."""
    constants = state["mapping_network.prefix_const"]
    mapped = affine(row, state, "mapping_network.linear", True).view(-1, constants.shape[1])
    x = torch.cat([mapped, constants])
    for layer in range(sum(key.endswith("norm1.weight") for key in state)):
        name = f"mapping_network.transformer.layers.{layer}."
        normed = layer_norm(x, state, name + "norm1")
        queries = affine(normed, state, name + "attn.to_queries", True)
        keys, values = affine(normed, state, name + "attn.to_keys_values", True).chunk(2, 1)
        x = x + affine(attend(queries, keys, values, heads), state, name + "attn.project", True)
        normed = layer_norm(x, state, name + "norm2")
        inner = affine(normed, state, name + "mlp.fc1", True).relu()
        x = x + affine(inner, state, name + "mlp.fc2", True)
    return x[len(mapped) :]


def naive_caption(
    state: Mapping[str, Tensor], decoder: ViecapDecoder, row: Tensor, prompt: str
) -> list[int]:
    """Soft prompt, hard prompt, then GPT-2 without a cache until a full stop, at most 64 tokens."""
    gpt = {k.replace("gpt.", "decoder.", 1): t for k, t in state.items() if k.startswith("gpt.")}
    words = gpt["decoder.transformer.wte.weight"]
    hard = words[decoder.tokenizer.encode([prompt], lead=False)[0]]
    inputs, ids = torch.cat([naive_soft_prompt(state, row), hard]), list[int]()
    while len(ids) < 64 and not (ids and ids[-1] in decoder.tokenizer.end_ids):
        ids.append(int(naive_logits(gpt, inputs).argmax()))
        inputs = torch.cat([inputs, words[ids[-1]][None]])
    return ids


def test_greedy_ids_equal_the_plain_twin_viecap(tmp_path: Path) -> None:
    decoder = read(write_viecap(tmp_path))
    state = torch.load(tmp_path / "coco_prefix-0014.pt", weights_only=True)
    prompter = decoder.prompter
    assert isinstance(prompter, EntityPrompter)
    assert prompter.names == COCO_ENTITIES and len(prompter.names) == 80
    assert prompter.settings == {"temperature": 0.01, "top_k": 3, "threshold": 0.05}
    torch.testing.assert_close(prompter.embeddings, F.normalize(randoms(8)(80, DIM), dim=1))
    prompts = prompter.prompts(ROWS)
    assert len(set(prompts)) > 1  # of different lengths, so that padding would show
    found = decoder.generate(3 * ROWS, DecodeOptions(max_tokens=64))
    assert [list(one.token_ids) for one in found] == [
        naive_caption(state, decoder, row, prompt)
        for row, prompt in zip(ROWS, prompts, strict=True)
    ]


@pytest.mark.parametrize(
    ("values", "prompts", "strategy"),
    [
        ({"using_hard_prompt": True, "soft_prompt_first": True}, "soft_hard", "beam"),
        ({"using_hard_prompt": True, "using_greedy_search": True}, "hard_soft", "greedy"),
        ({"using_hard_prompt": True, "only_hard_prompt": True}, "hard", "beam"),
        ({"beam_width": 3}, "soft", "beam"),
    ],
)
def test_prompts_and_decoding(values: dict[str, Any], prompts: str, strategy: str) -> None:
    config = ViecapConfig(**values)
    options = decode_options(config)
    assert (prompts_of(config), options.strategy, options.max_tokens) == (prompts, strategy, 64)
    if strategy == "beam":
        assert options.beam_width == values.get("beam_width", 5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"continuous_prompt_length": 10}, "say continuous_prompt_length 3, the config 10"),
        ({"language_model": "somewhere/no-such-gpt"}, "'somewhere/no-such-gpt' are neither in"),
        ({"name_of_entities_text": "vinvl_vgoi_entities"}, "put vinvl_vgoi_entities.txt, one name"),
        ({"suffix": "x"}, "entities' embeddings are not there.*no text tower"),
    ],
)
def test_what_the_config_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    folder = write_viecap(tmp_path, changes=changes)
    if "suffix" in changes:
        next(folder.glob("*.pickle")).unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=said):
        read(folder)


def test_names_that_are_not_cocos(tmp_path: Path) -> None:
    folder = write_viecap(tmp_path, changes={"name_of_entities_text": "vinvl_vgoi_entities"})
    (folder / "vinvl_vgoi_entities.txt").write_text("Zebra\ncat\n\ncat\n")
    torch.save(torch.eye(2, DIM), folder / "vinvl_vgoi_embeddings_x.pickle")
    prompter = read(folder).prompter
    assert isinstance(prompter, EntityPrompter) and prompter.names == ("cat", "zebra")


@pytest.mark.parametrize(
    ("kind", "held", "said"),
    [
        ("txt", b"\n  \n", "holds no name"),
        ("txt", b"cat\xff", "not a list of names"),
        ("json", b"[]", "holds no name"),
        ("json", b"[[1]]", "not a list of names"),
        ("json", b"[" * 100_000, "not a list of names"),
    ],
)
def test_vocabularies_without_names(tmp_path: Path, kind: str, held: bytes, said: str) -> None:
    folder = write_viecap(tmp_path)
    (folder / f"coco_entities.{kind}").write_bytes(held)
    with pytest.raises(CheckpointError, match=f"coco_entities.{kind}: .*{said}"):
        read(folder)


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_tensor_in_a_pickle(tmp_path: Path, kind: str, form: str) -> None:
    rows = randoms(1)(3, 4).to(getattr(torch, kind))
    with (tmp_path / "rows.pickle").open("wb") as file:
        pickle.dump(rows, file) if form == "pickle" else torch.save(rows, file)
    assert torch.equal(read_tensor(tmp_path / "rows.pickle"), rows.float())


def a_pickle(*held: Any) -> bytes:
    return pickle.dumps(held[0] if len(held) == 1 else list(held))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        *((data, "truncated or not") for data in (b"", b"\x80\x04", b"nonsense")),
        (a_pickle(1, 2), "expected one tensor"),
        (a_pickle(Trap(Path("executed"))), f"{os.mkdir.__module__}.mkdir.*nothing was executed"),
        (a_pickle(torch.ones(2), Trap(Path("executed"))), "nothing was executed"),
    ],
)
def test_a_vocabulary_that_is_no_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.pickle").write_bytes(data)
    with pytest.raises(CheckpointError, match=f"rows.pickle: .*{said}"):
        read_tensor(Path("rows.pickle"))
    assert not Path("executed").exists()


def memory_of(folder: Path) -> MemoryBank:
    files, config = files_of(folder)
    assert config.meacap is not None
    return read_memory(files, config.meacap, dim=DIM)


def test_meacap_prompts_come_from_the_captions_that_agree(tmp_path: Path) -> None:
    files, config = files_of(write_meacap(tmp_path))
    decoder, bank = read_meacap(files, config, dim=DIM), memory_of(tmp_path)
    assert list(bank.texts or ()) == list(MEMORY_CAPTIONS)
    torch.testing.assert_close(bank.norms, torch.ones(len(bank)))
    assert decoder.needs_memory
    assert decoder.prompter.limits["captions"] == 5
    rows = bank.embeddings()[:4].sum(0, keepdim=True)  # four captions of a bus are nearest
    assert "bus" in decoder.prompter.prompts(rows, bank)[0]
    assert decoder.generate(rows, memory=bank)[0].text


@pytest.mark.parametrize("name", ["memory_captions.json", "memory_clip_embeddings.pt"])
def test_a_missing_memory_file(tmp_path: Path, name: str) -> None:
    (write_meacap(tmp_path) / "memory" / "coco" / name).unlink()
    with pytest.raises(CheckpointError, match=f"caption memory: neither .*{name}.*no hf_repo_id"):
        memory_of(tmp_path)


def test_damaged_memories(tmp_path: Path) -> None:
    folder = write_meacap(tmp_path) / "memory" / "coco"
    embeddings = folder / "memory_clip_embeddings.pt"
    good = torch.load(embeddings, weights_only=True)
    for rows, error, said in (
        (good[:, :8], MemoryBankError, "expected"),
        (good[:5], MemoryBankError, "of memory_captions.json"),
        (good * torch.tensor([torch.nan]), CheckpointError, "not finite"),
        (good * (torch.arange(len(good)) != 2)[:, None], MemoryBankError, "zero norm.*: 2"),
        ([good], CheckpointError, "expected one tensor of rows"),
    ):
        torch.save(rows, embeddings)
        with pytest.raises(error, match=f"memory_clip_embeddings.pt.*{said}"):
            memory_of(tmp_path)
    for text in ("{", json.dumps({"a": 1}), json.dumps([1])):
        (folder / "memory_captions.json").write_text(text)
        with pytest.raises(CheckpointError, match="memory_captions.json"):
            memory_of(tmp_path)
