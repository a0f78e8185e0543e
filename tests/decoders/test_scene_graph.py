"""The rule-based parser against captions labelled by hand, and its rules one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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

from decoders.scene_graph import Entity, T5Parser, noun_phrases, parse, parse_triples
from patchioner.base.errors import HubError
from tests.support.language import spread

# Sentences and labels are ours, written before the parser had read them. "young two man" is a man
# with the attributes "young" and "two".
LABELLED = {
    "A man in a red jacket is skiing down a snowy slope.": "man; red jacket; snowy slope",
    "Two young women sit on a wooden bench eating ice cream.": "two young woman; wooden bench; ice_cream",
    "A black and white cat sleeping on top of a laptop.": "black white cat; laptop",
    "Several people are standing in line at a bus stop.": "people; line; bus_stop",
    "The kitchen has a stove, a microwave and a large refrigerator.": "kitchen; stove; microwave; large refrigerator",
    "A group of kids playing soccer on a grassy field.": "kid; soccer; grassy field",
    "a plate of broccoli and rice next to a glass of milk": "plate; broccoli; rice; glass; milk",
    "A baseball player swings his bat at the ball.": "baseball_player; bat; ball",
    "An old clock tower stands above the city.": "old clock_tower; city",
    "A little boy holds a blue umbrella in the rain.": "little boy; blue umbrella; rain",
    "Three giraffes walk through tall grass near some trees.": "three giraffe; tall grass; tree",
    "A woman who is wearing sunglasses talks on her cell phone.": "woman; sunglasses; cell_phone",
    "A train pulls into the station as passengers wait.": "train; station; passenger",
    "A brown horse and a white pony graze in a fenced field.": "brown horse; white pony; fenced field",
    "Several boats are docked in the harbor at sunset.": "docked boat; harbor; sunset",
    "A chef prepares food in a restaurant kitchen.": "chef; food; restaurant_kitchen",
    "A close up of a pizza with mushrooms and olives.": "pizza; mushroom; olive",
    "Man riding a wave on a yellow surfboard.": "man; wave; yellow surfboard",
    "The bathroom is small and has pink tiles.": "small bathroom; pink tile",
    "A couple of dogs chase a frisbee across the park.": "dog; frisbee; park",
    "A smiling girl hugs a giant teddy bear.": "smiling girl; giant teddy_bear",
    "Police officers on motorcycles ride down a crowded street.": "police_officer; motorcycle; crowded street",
    "a red double decker bus parked in front of a brick building": "red double-decker bus; brick building",
    "A surfer carries his board out of the water.": "surfer; board; water",
    "Skateboarder jumping over a set of concrete stairs.": "skateboarder; concrete stairs",
    "A vase filled with purple flowers sits on the kitchen table.": "vase; purple flower; kitchen_table",
    "Women in colorful dresses dance at a street festival.": "woman; colorful dress; street_festival",
    "An elephant sprays itself with water from its trunk.": "elephant; water; trunk",
    "A bowl of fresh fruit containing apples, oranges and bananas.": "bowl; fresh fruit; apple; orange; banana",
    "The tennis player in white reaches for a low ball.": "tennis_player; low ball",
    "A toddler brushes her teeth in front of a mirror.": "toddler; tooth; mirror",
    "Commuters squeeze onto an overcrowded subway train.": "commuter; overcrowded subway_train",
    "A lone zebra drinks from a muddy watering hole.": "lone zebra; muddy watering_hole",
    "Firefighters spray water at a burning house.": "firefighter; water; burning house",
}


def _entities(text: str) -> list[Entity]:
    parts = [part.split() for part in text.split(";") if part]
    return [Entity(name.replace("_", " "), tuple(attributes)) for *attributes, name in parts]


def _parts(read: Callable[[str], Sequence[Entity]], attributes: bool) -> Counter[Any]:
    """Each entity, or each attribute, of each caption."""
    found: Counter[Any] = Counter()
    for caption in LABELLED:
        for one in read(caption):
            found.update((caption, one.name, of) for of in (one.attributes if attributes else [""]))
    return found


def _labels(caption: str) -> list[Entity]:
    return _entities(LABELLED[caption])


# The first reading gave 0.96 / 0.95 and 0.94 / 0.84; what it showed has been mended since, so these
# floors guard the parser against getting worse and are no estimate for captions it has not met.
@pytest.mark.parametrize(
    ("attributes", "precision", "recall"), [(False, 0.95, 0.95), (True, 0.92, 0.9)]
)
def test_captions_labelled_by_hand(attributes: bool, precision: float, recall: float) -> None:
    found, wanted = _parts(parse, attributes), _parts(_labels, attributes)
    right = (found & wanted).total()
    assert right >= precision * found.total(), found - wanted
    assert right >= recall * wanted.total(), wanted - found


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a group of people near a number of cars", ["people", "car"]),
        ("A close-up of a cat", ["cat"]),
        ("a bowl of soup", ["bowl", "soup"]),
        ("a man in the background", ["man"]),
        ("a swimming pool and a swimming dog", ["swimming pool", "swimming dog"]),
        ("a parking lot by a parked car", ["parking lot", "parked car"]),
        ("two wine glasses and a man with glasses", ["two wine glass", "man", "glasses"]),
        ("a red, white and blue flag", ["red white blue flag"]),
        ("a tan, white, and black dog", ["tan white black dog"]),
        ("an orange on an orange plate", ["orange", "orange plate"]),
        ("a snow covered hill", ["snow-covered hill"]),
        ("The room is empty.", ["empty room"]),
        ("A man plays a guitar", ["man", "guitar"]),
        ("Two people play guitar", ["two people", "guitar"]),
        ("a ski slope with ski boots", ["ski slope", "ski boot"]),
        ("a trash can beside a bench", ["trash can", "bench"]),
        ("A man in a red shirt jumps over a puddle", ["man", "red shirt", "puddle"]),
        ("a man in a shirt and tie with a book", ["man", "shirt", "tie", "book"]),
        ("a man rides a bike at night time", ["man", "bike"]),
        ("a cop on a police bike.", ["cop", "police bike"]),
        ("a man in black wearing glasses", ["man", "glasses"]),
        ("two men, one holding cups", ["two man", "cup"]),
        ("A MAN'S HAND!", ["man", "hand"]),
        ("", []),
        ("?!", []),
        ("zorblax near a flim", ["zorblax", "flim"]),
    ],
)
def test_names_and_attributes(caption: str, wanted: list[str]) -> None:
    assert [" ".join([*one.attributes, one.name]) for one in parse(caption)] == wanted


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


# The T5 parser: its output read robustly, and a tiny random T5 driven without any download.

WORDS = [
    "<pad>", "</s>", "<unk>", "(", ")", ",", "man", "horse", "ride", "is", "brown", "a", "Generate",
]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "graph"),
    [
        ("( man , ride , horse ) , ( horse , is , brown ) , ( man , near , tree )", "man; brown horse; tree"),
        ("", ""),
        ("nothing of the sort", ""),
        ("(man,ride,horse)", "man; horse"),
        ("( man , ride , horse ) , ( dog , on", "man; horse"),
        ("( man , , horse )", ""),
        ("( man , ride )", ""),
        ("( man , ride , horse , tree )", ""),
        ("( dog )", "dog"),
        ("( Red  Bus , PARKED ON , street )", "red_bus; street"),
        ("( ( man , ride , horse )", "man; horse"),
        ("( man , is , tall ) ( man , is , tall )", "tall man"),
    ],
)  # fmt: skip
def test_triples_become_entities_and_attributes(written: str, graph: str) -> None:
    assert parse_triples(written) == tuple(_entities(graph))


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


def test_a_model_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    parser = T5Parser(str(tmp_path / "absent"))  # nothing is read yet
    with pytest.raises(HubError, match="absent"):
        parser(["a man"])
