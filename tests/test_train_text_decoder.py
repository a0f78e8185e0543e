"""The script: arguments to options, one line for an error, exit statuses, and once the whole way."""

import runpy
from pathlib import Path
from unittest.mock import patch

import pytest

import train_text_decoder as script
from patchioner.adaptation import NewDecoder, usual_training
from patchioner.checkpoints.folder import read_checkpoint
from tests.support import Capture, Log
from tests.support.tiny import TEXTS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def words(checkpoint: Path, tmp_path: Path) -> list[str]:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    places = ["--corpus", corpus, "--text-encoder", checkpoint, "--out", tmp_path / "out"]
    return [*map(str, places), "--epochs", "1", "--batch", "8", "--device", "cpu"]


def test_the_whole_way(words: list[str], tmp_path: Path, capsys: Capture, caplog: Log) -> None:
    with caplog.at_level("INFO"):
        assert script.main(words) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert "validation " in caplog.text and " -> " in caplog.text
    assert read_checkpoint(tmp_path / "out").settings.name == "out"
    assert script.main([*words, "--resume"]) == 0
    assert script.main(words) == 1
    assert "holds this very run" in capsys.readouterr().err


def test_options_follow_the_arguments() -> None:
    required = ["--corpus", "c", "--out", "o"]

    def options(*words: str) -> object:
        return script.options_from(script.parser().parse_args([*required, *words]), 0.1)

    def expected(fresh: NewDecoder | None = None, **changes: object) -> object:
        training = usual_training(fresh, validation_share=0.1, **changes)
        return {"training": training, "fresh": fresh, "bank_rows": None, "storage": "fp16"}

    assert options() == options("--memory") == expected()
    assert options("--noise") == expected(noise_sigma=0.08)
    many = ("--noise", "0.2", "--seed", "4", "--epochs", "2")
    assert options(*many) == expected(noise_sigma=0.2, seed=4, epochs=2.0)
    for words, fresh in (
        ("--decoder viecap --language-model gpt2", NewDecoder("viecap", "gpt2")),
        ("--decoder prefix_lm --language-model DIR --tune full",
         NewDecoder("prefix_lm", "DIR", tune="full")),
        ("--from-scratch --layers 2 --vocab-size 300", NewDecoder(layers=2, vocab_size=300)),
    ):  # fmt: skip
        assert options(*words.split()) == expected(fresh)


@pytest.mark.parametrize(
    ("extra", "status", "message"),
    [
        ("--noise 0.1 --memory", 2, "not allowed with"), ("--layers 2", 2, "for --from-scratch"),
        ("--tune frozen", 2, "tune: for --decoder"),
        ("--decoder viecap", 2, "need one (--decoder"), ("--decoder gpt9", 2, "decoder"),
        ("--decoder viecap --language-model gpt2 --from-scratch", 2, "prefix_gpt2"),
        ("--decoder viecap --language-model gpt2 --entities /none/e", 2, "/none/e"),
        ("--validation 1.5", 2, "validation_share"), ("--noise 0", 2, "noise"),
        ("--corpus /none/such.txt", 1, "such.txt"), ("--validation /none/held.txt", 1, "held.txt"),
        ("--text-encoder patchioner-minni", 1, "patchioner-minni"),
        ("--from-scratch --width 33", 1, "33"), ("--from-scratch --vocab-size 10", 1, "10"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(words: list[str], extra: str, status: int, message: str, capsys: Capture) -> None:
    if status == 2:
        with pytest.raises(SystemExit, match="2"):
            script.main([*words, *extra.split()])
    else:
        assert script.main([*words, *extra.split()]) == status
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1 and message in errors[0]


def test_the_example_corpus_is_what_its_script_writes(capsys: Capture) -> None:
    runpy.run_path(str(EXAMPLES / "make_catalogue.py"), run_name="__main__")
    lines = (EXAMPLES / "catalogue.txt").read_text(encoding="utf-8").splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    assert len(set(lines)) == 2000


def test_ctrl_c_tells_what_next(words: list[str], capsys: Capture) -> None:
    with patch.object(script, "run", side_effect=KeyboardInterrupt):
        assert script.main(words) == 130
    assert "--resume" in capsys.readouterr().err
