"""The rule-based parser against captions labelled by hand, and its rules one by one."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from decoders.retrieval import T5Parser, parse_triples
from decoders.scene_graph import Entity, noun_phrases, parse
from patchioner.base.errors import HubError
from tests.support.language import spread


def labelled(name: str) -> list[list[str]]:
    """Captions and their entities, a tab between: "two young woman" is a woman with two attributes."""
    path = Path(__file__).with_name(f"{name}_captions.tsv")
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def entities(text: str) -> tuple[Entity, ...]:
    parts = [part.split() for part in text.split(";") if part]
    return tuple(Entity(name.replace("_", " "), tuple(of)) for *of, name in parts)


def parts(graphs: Iterable[Sequence[Entity]], attributes: bool) -> Counter[Any]:
    """Each entity, or each attribute, of each caption."""
    return Counter(
        (number, one.name, of)
        for number, graph in enumerate(graphs)
        for one in graph
        for of in (one.attributes if attributes else [""])
    )


# Captions and labels are ours, written before the parser had read them. The first reading gave 0.96 / 0.95 and
# 0.94 / 0.84; what it showed has been mended since: these floors are no estimate for captions it has not met.
@pytest.mark.parametrize(("attributes", "precision", "recall"), [(False, 0.95, 0.95), (True, 0.92, 0.9)])
def test_captions_labelled_by_hand(attributes: bool, precision: float, recall: float) -> None:
    captions, labels = zip(*labelled("labelled"), strict=True)
    found = parts(map(parse, captions), attributes)
    wanted = parts(map(entities, labels), attributes)
    right = (found & wanted).total()
    assert right >= precision * found.total(), found - wanted
    assert right >= recall * wanted.total(), wanted - found


@pytest.mark.parametrize(("caption", "wanted"), labelled("parsed"))
def test_names_and_attributes(caption: str, wanted: str) -> None:
    assert parse(caption) == entities(wanted)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A man in a red and white shirt holds two tennis rackets.",
         {"man": "A man", "shirt": "a red and white shirt", "tennis racket": "two tennis rackets"}),
        ("The bus is red.", {"bus": "The bus"}),
        ("Red buses pass a tree.", {"bus": "Red buses", "tree": "a tree"}),
        ("It is there.", {}),
    ],
)  # fmt: skip
def test_noun_phrases(sentence: str, expected: dict[str, str]) -> None:
    found = noun_phrases(sentence)
    assert {one.name: sentence[one.start : one.end] for one in found} == expected


@given(st.text(alphabet="aeinrst -',.AR29", max_size=60))
def test_phrases_lie_in_their_sentence_one_after_the_other(sentence: str) -> None:
    end = 0
    for phrase in noun_phrases(sentence):
        assert end <= phrase.start < phrase.end <= len(sentence)
        end = phrase.end


@pytest.mark.parametrize(
    ("written", "graph"),
    [
        ("( man , ride , horse ) , ( horse , is , brown ) , ( man , near , tree )", "man; brown horse; tree"),
        ("", ""), ("nothing of the sort", ""), ("( man , , horse )", ""), ("( man , ride )", ""),
        ("( man , ride , horse , tree )", ""), ("( dog )", "dog"), ("(man,ride,horse)", "man; horse"),
        ("( man , ride , horse ) , ( dog , on", "man; horse"),
        ("( Red  Bus , PARKED ON , street )", "red_bus; street"),
        ("( ( man , ride , horse )", "man; horse"),
        ("( man , is , tall ) ( man , is , tall )", "tall man"),
    ],
)  # fmt: skip
def test_triples_become_entities_and_attributes(written: str, graph: str) -> None:
    assert parse_triples(written) == entities(graph)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    words = ["<pad>", "</s>", "<unk>", "(", ")", ",", "man", "horse", "ride", "is", "brown", "a"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path: Path = tmp_path_factory.mktemp("t5")
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(path)
    torch.manual_seed(0)
    ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=len(words), **sizes, **ids)
    network: Any = transformers.T5ForConditionalGeneration(config)
    spread(network, 8)
    network.save_pretrained(path)
    return path


def test_a_text_is_written_the_same_in_any_batch(folder: Path) -> None:
    texts = ["a man", "a brown horse is", "man", "ride a horse", "a man", "brown brown brown"]
    parser = T5Parser(str(folder), max_tokens=12)
    together = parser.write(texts)
    assert together == [T5Parser(str(folder), max_tokens=12).write([text])[0] for text in texts]
    assert len(set(together)) > 1, "the tiny network says the same of everything"
    assert parser(texts) == [parse_triples(line) for line in together]
    assert parser([]) == []
    with pytest.raises(HubError, match="absent"):
        T5Parser(str(folder / "absent"))(texts)  # nothing is read before
