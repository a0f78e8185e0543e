"""Published DeCap files: the same tokens as a plain twin written from the facts, and every damage refused by name."""

from __future__ import annotations

import math
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder, load_decoder
from decoders.tokenizers import ClipTokenizer
from patchioner.base.errors import CheckpointError
from patchioner.checkpoints.published.decoders import read_decap
from tests.support.published import DIM, VOCABULARY, decap_state, old_style

STEPS, END = 30, 49407


def layer_norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * state[f"{name}.weight"] + state[
        f"{name}.bias"
    ]


def gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def naive_logits(state: Mapping[str, Tensor], inputs: Tensor, heads: int = 4) -> Tensor:
    """GPT-2 over (t, width) inputs without any cache: every position anew; logits of the last one."""
    length, width = inputs.shape
    x = inputs + state["decoder.transformer.wpe.weight"][:length]
    layers = sum(name.endswith("ln_1.weight") for name in state)
    mask = torch.ones(length, length).tril() == 0
    for layer in range(layers):
        name = f"decoder.transformer.h.{layer}."
        normed = layer_norm(x, state, name + "ln_1")
        qkv = normed @ state[name + "attn.c_attn.weight"] + state[name + "attn.c_attn.bias"]
        outs = []
        for head in range(heads):
            size = width // heads
            q, k, v = (qkv[:, part * width + head * size :][:, :size] for part in range(3))
            scores = (q @ k.T / math.sqrt(size)).masked_fill(mask, -torch.inf)
            outs.append(scores.softmax(-1) @ v)
        mixed = torch.cat(outs, 1)
        x = x + mixed @ state[name + "attn.c_proj.weight"] + state[name + "attn.c_proj.bias"]
        normed = layer_norm(x, state, name + "ln_2")
        inner = gelu_new(normed @ state[name + "mlp.c_fc.weight"] + state[name + "mlp.c_fc.bias"])
        x = x + inner @ state[name + "mlp.c_proj.weight"] + state[name + "mlp.c_proj.bias"]
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


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer.from_open_clip()


@pytest.fixture
def state() -> OrderedDict[str, Tensor]:
    return decap_state()


def saved(state: Mapping[str, Tensor], folder: Path, name: str = "decap-009.pt") -> Path:
    torch.save(OrderedDict(state), folder / name)
    return folder / name


def embeddings(count: int = 6, seed: int = 9) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def ending_sometimes(state: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Let the end token win now and then: its vector is the mean of some that win anyhow."""
    words = state["decoder.transformer.wte.weight"]
    chosen = naive_greedy(state, embeddings()[0], 12)[8]
    words[END] = words[chosen] * 1.05
    return state


def test_greedy_ids_equal_the_plain_twin(
    state: OrderedDict[str, Tensor], tokenizer: ClipTokenizer, tmp_path: Path
) -> None:
    state = ending_sometimes(state)
    decoder = read_decap(saved(state, tmp_path), prefix_size=DIM, tokenizer=tokenizer)
    rows = torch.cat(
        [embeddings(), 20 * embeddings(2, seed=10)]
    )  # of any length: they are not normalised
    found = decoder.generate(rows, DecodeOptions(max_tokens=STEPS))
    expected = [until_end(naive_greedy(state, row)) for row in rows]
    assert [list(one.token_ids) for one in found] == expected
    assert len({len(ids) for ids in expected}) > 1  # some end, some do not
    assert len({tuple(ids) for ids in expected}) > 3


def test_no_token_is_banned_and_those_beyond_the_tokenizer_write_nothing(
    state: OrderedDict[str, Tensor], tokenizer: ClipTokenizer, tmp_path: Path
) -> None:
    words = state["decoder.transformer.wte.weight"]
    words *= 0.01  # so that the few below win
    winners = (0, 49406, 49408, VOCABULARY - 1, 320)
    for token in winners:
        words[token] *= 400
    decoder = read_decap(saved(state, tmp_path), tokenizer=tokenizer)
    found = decoder.generate(embeddings(), DecodeOptions(max_tokens=STEPS))
    assert {token for one in found for token in one.token_ids} & {0, 49406, 49408, VOCABULARY - 1}
    assert [list(one.token_ids) for one in found] == [
        until_end(naive_greedy(state, row)) for row in embeddings()
    ]
    for one in found:
        assert set(one.text) <= set("!a ")
    assert len(decoder.token_texts()) == VOCABULARY
    assert decoder.token_texts()[49406:] == [""] * (VOCABULARY - 49406)


@pytest.mark.parametrize("half", [False, True])
def test_old_files_with_prefixes_and_mask_buffers(
    state: OrderedDict[str, Tensor], tokenizer: ClipTokenizer, tmp_path: Path, half: bool
) -> None:
    plain = {name: tensor.half() if half else tensor for name, tensor in state.items()}
    first = read_decap(saved(plain, tmp_path, "plain.pt"), tokenizer=tokenizer)
    second = read_decap(saved(old_style(state, half=half), tmp_path, "old.pt"), tokenizer=tokenizer)
    rows = embeddings()
    assert first.generate(rows) == second.generate(rows)
    assert first.network.prefix.weight.dtype == torch.float32


def test_safetensors_without_the_second_name_of_the_tied_matrix(
    state: OrderedDict[str, Tensor], tokenizer: ClipTokenizer, tmp_path: Path
) -> None:
    first = read_decap(saved(state, tmp_path), tokenizer=tokenizer)
    del state["decoder.lm_head.weight"]
    save_file(state, tmp_path / "decap.safetensors")
    second = read_decap(tmp_path / "decap.safetensors", tokenizer=tokenizer)
    assert first.generate(embeddings()) == second.generate(embeddings())


def test_saved_in_our_format_it_needs_no_open_clip(
    state: OrderedDict[str, Tensor],
    tokenizer: ClipTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = {name: tensor.half() for name, tensor in state.items()}
    decoder = read_decap(saved(half, tmp_path), tokenizer=tokenizer)
    decoder.save(tmp_path / "ours", storage="fp16")
    monkeypatch.setattr(ClipTokenizer, "from_open_clip", None)
    again = load_decoder(tmp_path / "ours")
    assert isinstance(again, PrefixGPT2Decoder)
    assert again.generate(embeddings()) == decoder.generate(embeddings())


def test_banned_words_work_with_the_foreign_tokenizer(
    state: OrderedDict[str, Tensor], tokenizer: ClipTokenizer, tmp_path: Path
) -> None:
    decoder = read_decap(saved(state, tmp_path), tokenizer=tokenizer)
    free = decoder.generate(embeddings(1), DecodeOptions(max_tokens=8))[0]
    words = [word for word in free.text.split() if word.isalpha() and len(word) > 2]
    assert words
    tame = decoder.generate(embeddings(1), DecodeOptions(max_tokens=8, banned_words=(words[0],)))[0]
    assert words[0] not in tame.text.split()


def test_each_missing_tensor_is_named(
    state: OrderedDict[str, Tensor], tokenizer: ClipTokenizer, tmp_path: Path
) -> None:
    small = {
        name: tensor[:64] if len(tensor) == VOCABULARY else tensor for name, tensor in state.items()
    }
    for name in small:
        rest = {other: tensor for other, tensor in small.items() if other != name}
        with pytest.raises(CheckpointError, match=f"(?s)missing.*{name}"):
            read_decap(saved(rest, tmp_path), tokenizer=tokenizer)


def test_each_wrong_shape_is_named(
    state: OrderedDict[str, Tensor], tokenizer: ClipTokenizer, tmp_path: Path
) -> None:
    small = {
        name: tensor[:64] if len(tensor) == VOCABULARY else tensor for name, tensor in state.items()
    }
    for name, tensor in small.items():
        wrong = {**small, name: torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 4)}
        with pytest.raises(CheckpointError, match="decap-009.pt: .*(expected|prefix_size)"):
            read_decap(saved(wrong, tmp_path), prefix_size=DIM, tokenizer=tokenizer)


def test_a_vocabulary_smaller_than_the_tokenizer_names_the_file(
    state: OrderedDict[str, Tensor], tokenizer: ClipTokenizer, tmp_path: Path
) -> None:
    small = {
        name: tensor[:64] if len(tensor) == VOCABULARY else tensor for name, tensor in state.items()
    }
    with pytest.raises(CheckpointError, match="decap-009.pt: the network has 64 tokens"):
        read_decap(saved(small, tmp_path), tokenizer=tokenizer)


def test_a_transposed_weight_does_not_pass(
    state: OrderedDict[str, Tensor], tokenizer: ClipTokenizer, tmp_path: Path
) -> None:
    name = "decoder.transformer.h.1.mlp.c_fc.weight"
    state[name] = state[name].T.contiguous()
    with pytest.raises(
        CheckpointError, match=r"mlp.c_fc.weight is \(64, 16\), expected \(16, 64\)"
    ):
        read_decap(saved(state, tmp_path), tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"decoder.transformer.h.0.attn.surprise": torch.zeros(2)}, "unexpected.*attn.surprise"),
        ({"decoder.transformer.h.7.ln_1.weight": torch.zeros(16)}, "missing.*h.2"),
        ({"decoder.lm_head.weight": torch.zeros(VOCABULARY, 16)}, "differs"),
        ({"clip_project.model.0.bias": torch.full((16,), torch.nan)}, "model.0.bias.*not finite"),
        ({"module.clip_project.model.0.bias": torch.zeros(16)}, "some names begin"),
        ({"epoch": 9}, "'epoch' is no tensor"),
    ],
)
def test_what_is_too_much_or_wrong_is_named(
    state: OrderedDict[str, Tensor],
    tokenizer: ClipTokenizer,
    tmp_path: Path,
    extra: dict[str, Tensor],
    said: str,
) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_decap(saved({**state, **extra}, tmp_path), tokenizer=tokenizer)


def test_another_prefix_size_is_refused(
    state: OrderedDict[str, Tensor], tokenizer: ClipTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="width 64, the config says prefix_size 768"):
        read_decap(saved(state, tmp_path), prefix_size=768, tokenizer=tokenizer)


class Attack:
    """A pickle that would make a folder when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("form", ["torch", "pickle", "inside"])
def test_a_pickle_that_would_execute_does_not(tmp_path: Path, form: str) -> None:
    path, trace = tmp_path / "decap-009.pt", tmp_path / "executed"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Attack(trace)))
    else:
        held = (
            Attack(trace) if form == "torch" else {**decap_state(vocabulary=64), "x": Attack(trace)}
        )
        torch.save(held, path)
    with pytest.raises(CheckpointError, match="decap-009.pt: .*nothing was executed"):
        read_decap(path)
    assert not trace.exists()


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_file_cut_short(state: OrderedDict[str, Tensor], tmp_path: Path, kept: float) -> None:
    path = saved({name: tensor[:64] for name, tensor in state.items()}, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    with pytest.raises(CheckpointError, match="decap-009.pt"):
        read_decap(path)


@pytest.mark.parametrize("held", [[1, 2], {}, torch.zeros(3), {"state_dict": {}}])
def test_a_file_of_something_else(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "decap-009.pt")
    with pytest.raises(CheckpointError, match="expected named tensors"):
        read_decap(tmp_path / "decap-009.pt")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_decap(tmp_path / "decap-009.pt")
