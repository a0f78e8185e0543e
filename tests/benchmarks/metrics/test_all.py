from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from benchmarks import metrics
from benchmarks.metrics import Meteor, bleu, cider, rouge_l, score_captions, stem_f
from patchioner.base.errors import OptionError, UnknownNameError
from tests.support import MonkeyPatch

SAID = ["A red bus, isn't it?", "two dogs"]
DUE = [["The red bus.", "a bus"], ["Two dogs run"]]
HERE = "tests.benchmarks.metrics.test_all"


def sizes(said: Sequence[str], due: Sequence[Sequence[str]], rows: Sequence[Any]) -> list[int]:
    return [row["size"] * len(text.split()) for text, row in zip(said, rows, strict=True)]


def test_without_java_the_single_functions_over_one_tokenisation(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("started a program"))
    watch = Mock(wraps=metrics.tokenize)
    monkeypatch.setattr(metrics, "tokenize", watch)
    names = ["bleu4", "rouge_l", "cider", "stem_f"]
    found = score_captions(SAID, DUE, names)
    asked = [call.args[0] for call in watch.call_args_list]
    assert sorted(asked) == sorted([*SAID, *DUE[0], *DUE[1]]) and list(found) == names
    assert found["bleu4"].samples == pytest.approx(bleu(SAID, DUE)[1][:, 3])
    for name, metric in (("rouge_l", rouge_l), ("cider", cider), ("stem_f", stem_f)):
        mean, scores = metric(SAID, DUE)
        assert found[name].corpus == pytest.approx(mean)
        assert found[name].samples == pytest.approx(scores)
    assert {one.made.partition(";")[0] for one in found.values()} == {"patchioner"}
    with pytest.raises(OptionError, match="'stem_f'"):
        score_captions(SAID, DUE, ["meteor"])


def test_official(meteor: Meteor) -> None:
    names = [name for name in metrics.METRICS if name != "spice"]
    found = score_captions(SAID, DUE, names, meteor=meteor)
    ours = score_captions(SAID, DUE, [name for name in names if name != "meteor"])
    for name, result in ours.items():
        assert found[name].corpus == pytest.approx(result.corpus, abs=1e-7), name
        assert found[name].samples == pytest.approx(result.samples, abs=1e-7), name
    assert "pycocoevalcap" in found["meteor"].made and "meteor 1.5, java" in found["meteor"].made
    assert found["stem_f"].made.startswith("patchioner")
    assert 0 < found["meteor"].corpus < 100


def test_metrics_of_ones_own() -> None:
    rows, extra = [{"size": 1}, {"size": 2}], {"own": f"{HERE}:sizes"}
    found = score_captions(SAID, DUE, ["cider"], extra=extra, samples=rows)
    assert list(found) == ["cider", "own"]
    assert (found["own"].samples, found["own"].corpus) == ((5.0, 4.0), 4.5)
    assert found["own"].made.startswith(f"{HERE}:sizes")


@pytest.mark.parametrize(("names", "source", "given", "message"), [
    ([], HERE, [1.0], r"shape \(1,\) for 2 predictions"), ([], HERE, [1.0, float("nan")], "sample 1 is nan"),
    ([], HERE, ["a", "b"], "give a number"), (["cidre"], HERE, [1, 2], "did you mean 'cider'"),
    (["cider"], HERE, [1, 2], "'cider'"), ([], "no_such_module", [], "no_such_module"),
    ([], "", [], "'module:function'"), ([], "math", [], "sizes"),
])  # fmt: skip
def test_what_is_refused(names: list[str], source: str, given: Any, message: str, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(f"{HERE}.sizes", lambda *_: given)
    with pytest.raises((OptionError, UnknownNameError), match=message):
        score_captions(SAID, DUE, names, extra={"cider": f"{source}:sizes"})
    with pytest.raises(OptionError, match="not a function"):
        score_captions(SAID, DUE, [], extra={"own": "math:pi"})
