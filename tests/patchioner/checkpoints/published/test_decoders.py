"""The published decoders: token ids of a plain twin, strict files, nothing executed."""

import itertools
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from decoders import DecodeOptions, load_decoder
from decoders.tokenizers import ClipTokenizer
from decoders.viecap import COCO_ENTITIES
from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError, MemoryBankError
from patchioner.checkpoints.published import decoders as reading
from patchioner.checkpoints.published import files as layout
from patchioner.checkpoints.published.decoders import read_decap, read_tensor
from patchioner.checkpoints.published.files import PublishedFiles, ViecapConfig
from tests.support import MonkeyPatch, published, randn
from tests.support.published import DIM, decap_state, randoms, write_meacap, write_viecap
from tests.support.tiny import Trap

STEPS, END = 30, 49407
State = OrderedDict[str, Tensor]


def affine(x: Tensor, state: State, name: str) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[1:], state[f"{name}.weight"], state[f"{name}.bias"])


def next_ids(state: State, inputs: Tensor, steps: int, ends: Sequence[int] = ()) -> list[int]:
    """Greedy ids behind (t, width) inputs by the network of `transformers`: no cache, every position anew."""
    words = state["decoder.transformer.wte.weight"]
    positions, width = state["decoder.transformer.wpe.weight"].shape
    sizes: Any = {"n_positions": positions, "n_embd": width, "n_layer": 2, "n_head": 4}
    network: Any = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **sizes))
    own = {n.removeprefix("decoder."): t for n, t in state.items() if n.startswith("decoder.")}
    network.eval().load_state_dict(own)
    ids: list[int] = []
    while len(ids) < steps and not (ids and ids[-1] in ends):
        with torch.no_grad():
            ids.append(int(network(inputs_embeds=inputs[None]).logits[0, -1].argmax()))
        inputs = torch.cat([inputs, words[ids[-1]][None]])
    return ids


def naive_greedy(state: State, embedding: Tensor, steps: int = STEPS) -> list[int]:
    """Spec 1.7: the projected vector first, always all the steps."""
    return next_ids(state, affine(embedding, state, "clip_project.model.0")[None], steps)


def until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(END) + 1] if END in ids else ids


def decap(state: Mapping[str, Tensor], folder: Path, name: str = "decap-009.pt") -> Any:
    """Written and read."""
    torch.save(OrderedDict(state), folder / name)
    return read_decap(folder / name, prefix_size=DIM)


def test_greedy_ids_equal_the_plain_twin(tmp_path: Path) -> None:
    state = decap_state()
    words = state["decoder.transformer.wte.weight"]  # the end token is to win now and then
    rows = torch.cat([randn(4, DIM, seed=9), 20 * randn(1, DIM, seed=10)])  # not normalised
    words[END] = words[naive_greedy(state, rows[0], 9)[8]] * 1.05
    found = decap(state, tmp_path).generate(rows, DecodeOptions(max_tokens=12))
    expected = [until_end(naive_greedy(state, row, 12)) for row in rows]
    assert [list(one.token_ids) for one in found] == expected
    assert len({len(ids) for ids in expected}) > 1  # some end, some do not
    assert len({tuple(ids) for ids in expected}) > 3


def test_every_form_of_a_file(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Old prefixes and mask buffers, halves, no second name of the tied matrix; ours needs no open_clip."""
    state, rows = decap_state(), randn(2, DIM, seed=9)
    expected = decap(state, tmp_path).generate(rows)
    assert decap(published.old_style(state), tmp_path).generate(rows) == expected
    halves = {name: tensor.half() for name, tensor in state.items()}
    half, old_half = decap(halves, tmp_path), decap(published.old_style(halves), tmp_path)
    assert half.network.prefix.weight.dtype == torch.float32
    assert old_half.generate(rows) == half.generate(rows)
    del state["decoder.lm_head.weight"]
    save_file(state, tmp_path / "decap.safetensors")
    assert read_decap(tmp_path / "decap.safetensors").generate(rows) == expected
    half.save(tmp_path / "ours", storage="fp16")
    monkeypatch.setattr(ClipTokenizer, "from_open_clip", None)
    assert load_decoder(tmp_path / "ours").generate(rows) == half.generate(rows)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"decoder.transformer.h.0.attn.surprise": torch.zeros(2)}, "unexpected.*attn.surprise"),
        ({"decoder.transformer.h.7.ln_1.weight": torch.zeros(16)}, "missing.*h.2"),
        ({"decoder.transformer.h.1.mlp.c_fc.weight": torch.zeros(64, 16)}, r"\(16, 64\).*\(64, 16\)"),
        ({"decoder.lm_head.weight": torch.zeros(published.VOCABULARY, 16)}, "differ, but"),
        ({"clip_project.model.0.bias": torch.full((16,), torch.nan)}, "model.0.bias.*not finite"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, extra: dict[str, Tensor], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        decap({**decap_state(), **extra}, tmp_path)


def memory_of(folder: Path) -> MemoryBank:
    config: Any = layout.read_config(folder / "config.yaml").viecap
    return layout.read_memory(PublishedFiles.of(folder), config.meacap, dim=DIM)


def read(folder: Path) -> Any:
    config: Any = layout.read_config(folder / "config.yaml").viecap
    return reading.read_viecap(PublishedFiles.of(folder), config, lambda: None, dim=DIM)


def naive_soft_prompt(state: State, row: Tensor, heads: int = 8) -> Tensor:
    """Spec 1.7: Linear, constants appended, pre-norm layers without bias in queries, keys and values."""
    constants = state["mapping_network.prefix_const"]
    mapped = affine(row, state, "mapping_network.linear").view(-1, constants.shape[1])
    x = torch.cat([mapped, constants])
    for layer in range(2):
        name = f"mapping_network.transformer.layers.{layer}."
        normed = layer_norm(x, state, name + "norm1")
        keys, values = affine(normed, state, name + "attn.to_keys_values").chunk(2, 1)
        queries = affine(normed, state, name + "attn.to_queries")
        parts = [one.unflatten(1, (heads, -1)).transpose(0, 1) for one in (queries, keys, values)]
        outs = F.scaled_dot_product_attention(*parts).transpose(0, 1).flatten(1)
        x = x + affine(outs, state, name + "attn.project")
        normed = layer_norm(x, state, name + "norm2")
        x = x + affine(affine(normed, state, name + "mlp.fc1").relu(), state, name + "mlp.fc2")
    return x[len(mapped) :]


def test_greedy_ids_equal_the_plain_twin_viecap(tmp_path: Path) -> None:
    """Soft prompt, hard prompt, then GPT-2 until a full stop, at most 64 tokens."""
    decoder = read(write_viecap(tmp_path))
    state = torch.load(tmp_path / "coco_prefix-0014.pt", weights_only=True)
    prompter = decoder.prompter
    assert prompter.names == COCO_ENTITIES and len(prompter.names) == 80
    assert prompter.settings == {"temperature": 0.01, "top_k": 3, "threshold": 0.05}
    torch.testing.assert_close(prompter.embeddings, F.normalize(randoms(8)(80, DIM), dim=1))
    rows = F.normalize(randoms(12)(5, DIM), dim=1)
    prompts = prompter.prompts(rows)
    assert len(set(prompts)) > 1  # of different lengths, so that padding would show
    found = decoder.generate(3 * rows, DecodeOptions(max_tokens=64))
    gpt = State({n.replace("gpt.", "decoder.", 1): t for n, t in state.items() if "gpt." in n})
    hard = decoder.tokenizer.encode(prompts, lead=False)
    for one, row, ids in zip(found, rows, hard, strict=True):
        words, soft = gpt["decoder.transformer.wte.weight"][ids], naive_soft_prompt(state, row)
        torch.testing.assert_close(decoder.network.mapping_network(row[None])[0].detach(), soft)
        inputs = torch.cat([soft, words])
        assert list(one.token_ids) == next_ids(gpt, inputs, 64, decoder.tokenizer.end_ids)


def test_prompts_and_decoding() -> None:
    hard = {"using_hard_prompt": True}
    for values, prompts, decode in (
        ({**hard, "soft_prompt_first": True}, "soft_hard", DecodeOptions("beam", beam_width=5)),
        ({**hard, "using_greedy_search": True}, "hard_soft", DecodeOptions()),
        ({**hard, "only_hard_prompt": True}, "hard", DecodeOptions("beam", beam_width=5)),
        ({"beam_width": 3}, "soft", DecodeOptions("beam", beam_width=3)),
    ):
        config = ViecapConfig(**values)
        assert reading.decode_options(config) == replace(decode, max_tokens=64)
        assert reading.prompts_of(config) == prompts


def test_other_names_than_cocos_and_none(tmp_path: Path) -> None:
    folder = write_viecap(tmp_path, changes={"name_of_entities_text": "vinvl_vgoi_entities"})
    names = folder / "vinvl_vgoi_entities.txt"
    names.write_text("Zebra\ncat\r\n\ncat\n", "utf-8-sig")
    torch.save(torch.eye(2, DIM), folder / "vinvl_vgoi_embeddings_x.pickle")
    assert read(folder).prompter.names == ("cat", "zebra")
    for kind, held, said in (
        ("txt", b"\n  \n", "holds no name"), ("txt", b"cat\xff", "not a list of names"),
        ("json", b"[]", "holds no name"), ("json", b"[[1]]", "not a list of names"),
        ("json", b"[" * 100_000, "not a list of names"),
    ):  # fmt: skip
        names = names.rename(names.with_suffix(f".{kind}"))
        names.write_bytes(held)
        with pytest.raises(CheckpointError, match=f"vgoi_entities.{kind}: .*{said}"):
            read(folder)


EVIL = Trap(Path("executed"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        *((data, "truncated or not") for data in (b"", b"\x80\x04", b"nonsense")),
        (pickle.dumps([1, 2]), "expected one tensor"),
        (pickle.dumps(EVIL), f"{os.mkdir.__module__}.mkdir.*nothing was executed"),
        (pickle.dumps([torch.ones(2), EVIL]), "nothing was executed"),
    ],
)
def test_a_tensor_in_a_pickle_or_none(tmp_path: Path, monkeypatch: MonkeyPatch, data: bytes, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    path, rows = Path("rows.pickle"), randoms(1)(3, 4).half()
    for kind, write in itertools.product((torch.float32, torch.float16), (pickle.dump, torch.save)):
        with path.open("wb") as file:
            write(rows.to(kind), file)
        assert torch.equal(read_tensor(path), rows.float())
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"rows.pickle: .*{said}"):
        read_tensor(path)
    assert not Path("executed").exists()


def test_meacap_prompts_come_from_the_captions_that_agree(tmp_path: Path) -> None:
    write_meacap(tmp_path)
    decoder, bank = read(tmp_path), memory_of(tmp_path)
    assert list(bank.texts or ()) == list(published.MEMORY_CAPTIONS)
    torch.testing.assert_close(bank.norms, torch.ones(len(bank)))
    assert decoder.needs_memory and decoder.prompter.captions == 5
    rows = bank.embeddings()[:4].sum(0, keepdim=True)  # four captions of a bus are nearest
    assert "bus" in decoder.prompter.prompts(rows, bank)[0]
    assert decoder.generate(rows, memory=bank)[0].text


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
    for name in ("memory_clip_embeddings.pt", "memory_captions.json"):
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=f"caption memory: .*{name}.*no hf_repo_id"):
            memory_of(tmp_path)
