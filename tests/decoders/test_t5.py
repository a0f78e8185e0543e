"""The T5 parser: its output read robustly, and a tiny random T5 driven without any download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from decoders.scene_graph import Entity, SceneGraph, T5Parser
from decoders.scene_graph.t5 import parse_triples
from patchioner.base.errors import HubError, OptionError

WORDS = [
    "<pad>",
    "</s>",
    "<unk>",
    "(",
    ")",
    ",",
    "man",
    "horse",
    "ride",
    "is",
    "brown",
    "a",
    "Generate",
]


def test_triples_become_entities_and_attributes() -> None:
    graph = parse_triples("( man , ride , horse ) , ( horse , is , brown ) , ( man , near , tree )")
    assert graph.entities == (Entity("man"), Entity("horse", ("brown",)), Entity("tree"))


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("", []),
        ("nothing of the sort", []),
        ("(man,ride,horse)", ["man", "horse"]),
        ("( man , ride , horse ) , ( dog , on", ["man", "horse"]),
        ("( man , , horse )", []),
        ("( man , ride )", []),
        ("( man , ride , horse , tree )", []),
        ("( dog )", ["dog"]),
        ("( Red  Bus , PARKED ON , street )", ["red bus", "street"]),
        ("( ( man , ride , horse )", ["man", "horse"]),
        ("( man , is , tall ) ( man , is , tall )", ["man"]),
    ],
)
def test_badly_written_triples_add_nothing(written: str, names: list[str]) -> None:
    assert [one.name for one in parse_triples(written).entities] == names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path: Path = tmp_path_factory.mktemp("t5")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    network: Any = transformers.T5ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(8)
    network.save_pretrained(path)
    return path


def test_a_text_is_written_the_same_in_any_batch(folder: Path) -> None:
    texts = ["a man", "a brown horse is", "man", "ride a horse", "a man", "brown brown brown"]
    parser = T5Parser(str(folder), batch=2, max_tokens=12)
    together = parser.write(texts)
    assert together == [T5Parser(str(folder), max_tokens=12).write([text])[0] for text in texts]
    assert len(set(together)) > 1, "the tiny network says the same of everything"
    assert parser.parse(texts) == [parse_triples(line) for line in together]
    assert parser.parse([]) == []


def test_what_the_model_writes_becomes_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = T5Parser("nowhere/at-all")
    monkeypatch.setattr(parser, "write", lambda texts: [f"( {text} , is , red )" for text in texts])
    assert parser.parse(["bus", "cat"]) == [
        SceneGraph((Entity("bus", ("red",)),)),
        SceneGraph((Entity("cat", ("red",)),)),
    ]


def test_a_model_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    parser = T5Parser(str(tmp_path / "absent"))  # nothing is read yet
    with pytest.raises(HubError, match="absent"):
        parser.parse(["a man"])


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(HubError):
        T5Parser(str(tmp_path)).parse(["a man"])


@pytest.mark.parametrize("settings", [{"batch": 0}, {"max_tokens": 0}, {"batch": True}])
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        T5Parser(**settings)
