import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.command import CIDER_WARNING
from benchmarks.data import read_folder
from benchmarks.metrics.cosine import unit_rows
from benchmarks.metrics.regions import SYNONYMS
from benchmarks.quality import PARTS, PROMPTS, main, measure
from benchmarks.regional import LARGE, TASKS, ask, embed_names, retrieval_ranks
from patchioner import Patchioner, WholeImage
from tests.benchmarks.conftest import World
from tests.support import Capture, MonkeyPatch


def test_ranks() -> None:
    similarities = np.array([[3, 2, 1], [3, 2, 1], [1, 1, 0]])
    assert retrieval_ranks(similarities, np.array([0, 2, 0])).tolist() == [1, 3, 2]
    assert (retrieval_ranks(np.ones((4, 5)), np.zeros(4, dtype=np.intp)) == 5).all()


def test_answers(world: World, model: Patchioner, encoded: list[str], monkeypatch: MonkeyPatch) -> None:
    found = ask(model, world.root, PARTS, prompts=PROMPTS)
    assert sorted(encoded) == [f"photo_{index:02d}" for index in range(11)]
    assert {box["references"][0] for box in found["boxes"]} == {"dog", "cat"}, "no people"
    names, kinds = embed_names(model, PROMPTS), list(SYNONYMS)
    for part in ("sets", "boxes"):
        samples = read_folder(world.root, TASKS[part])
        asked = [sample for sample in samples if sample.references[0] != "person"]
        answers = [a for a in found[part] if part != "boxes" or a["share"] > LARGE]
        for sample, answer in zip(asked, answers, strict=True):
            features = model.encode(str(world.root / "photos" / sample.photo))
            regions = [sample.region, WholeImage()]
            said = [one.text for one in model.caption(features, regions)]
            assert [answer["caption"], answer["whole"]] == said
            if part == "boxes":
                vectors = unit_rows(model.embed_regions(features, regions), "region")
                right = (vectors @ names.T).argmax(axis=1) == kinds.index(sample.references[0])
                assert [answer["named"], answer["named_whole"]] == right.tolist()
    monkeypatch.setattr("benchmarks.regional._BATCH", 2)
    again = ask(model, world.root, PARTS, prompts=PROMPTS)
    for answer in (one for part in (*found.values(), *again.values()) for one in part):
        answer["sure"] = round(answer["sure"], 3)
    assert again == found
    last = {answer["photo"]: answer["references"][0] for answer in found["traces"]}
    for answer in found["traces"]:
        answer |= {"caption": answer["references"][0], "whole": last[answer["photo"]]}
    rows = {row.key: row.interval.value for row in measure(found, rounds=20)}
    assert rows["traces_ratio"] == pytest.approx(rows["traces_cider"] / rows["traces_whole_cider"])
    ranks = np.array([rank for answer in found["images"] for rank in answer["ranks"]])
    for k in (1, 5):
        assert rows[f"retrieval_r{k}"] == pytest.approx(100 * float((ranks <= k).mean()))
    for column, key in (("named", "box_naming"), ("named_whole", "box_naming_whole")):
        named = [answer[column] for answer in found["boxes"] if answer["share"] > LARGE]
        assert rows[key] == pytest.approx(100 * float(np.mean(named)))


def test_the_command(world: World, tmp_path: Path, loads: list[str], capsys: Capture) -> None:
    def edit(content: Any) -> None:
        for key in list(content)[1:]:
            del content[key]
        next(iter(content.values()))["captions"] = ["zebra", "yak"]

    world.change("trace", edit)
    words, out = ["--data", str(world.root), "--rounds", "20"], tmp_path / "quality.json"
    outputs = []
    for _ in range(2):
        assert main([*words, "--seed", "4", "--out", str(out)]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] and CIDER_WARNING in outputs[0]
    report = json.loads(out.read_text())
    rows = {row["key"]: row for row in report["measures"]}
    value = rows["box_naming"]["interval"]["value"]
    assert f"| box naming, % of boxes | 45 | 55 | {value:.1f} |" in outputs[0]
    assert rows["traces_ratio"]["interval"]["value"] is None
    assert rows["traces_ratio"]["passed"] is False
    # One photo scores CIDEr 0 (nothing is rare in a set of one), so the must is missed.
    assert main([*words, "--limit", "1", "--check"]) == 1
    assert "image_cider" in capsys.readouterr().err
    assert report["settings"]["seed"] == 4 and len(report["data_sha256"]["traces"]) == 64
