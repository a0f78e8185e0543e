"""Models of other people: questions, cleaned answers, a folder that keeps them; and `transformers` on this machine.

No text of a local model depends on its batch. Nothing is unpickled, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from patchioner.base.errors import DetailError, OptionError, PatchionerError
from patchioner.base.files import AnyPath, atomic_path
from patchioner.base.optional import read_pretrained, require
from patchioner.base.weights import usable_device
from patchioner.pipeline import attempt

_LOG = logging.getLogger(__name__)
LONGEST_ANSWER = 50_000  # characters of an answer that are kept; a paragraph has a thousand
_AT_ONCE = 8  # texts of a batch
_ENDS = 1 << 16  # bytes at both ends of a file of weights that are read to tell it from others

# Control characters but for tab and line feed, and the marks that reverse or hide the text around them.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# How families of models mark their thoughts: <think>, [THINK], <|begin_of_thought|>, Kimi's, MedGemma's, Granite's ...
_WORD = r"(?:[a-z]+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
_OPENS = (
    rf"(?:<{_WORD}>|\[THINK\]|◁think▷|<\|(?:begin_of_|start_)?{_WORD}\|>|<unused94>|<\|channel>thought|"
    r"Thinking\.\.\.\n|Here(?: is|'s) my thought process:|<details type=.reasoning[^>]{0,99}>)"
)
_CLOSES = (
    rf"(?:</{_WORD}>|\[/THINK\]|◁/think▷|<\|(?:end_of_|end_|/){_WORD}\|>|<unused95>|<channel\|>|"
    r"\.\.\.done thinking\.|Here(?: is|'s) my response:|</details>)"
)
_FRAME = r"(?:<\|(?:begin|end)_of_(?:box|solution)\|>|<\|(?:START|END)_RESPONSE\|>)"
_MARK = r"(?:<[|｜][\w▁]+[|｜]>|</s>|<(?:bos|eos|end_of_utterance)>|<(?:start|end)_of_turn>|\[/?INST\])"
_NO_ANSWER = (
    # Channels of harmony, with or without their marks: only the final one is an answer.
    r"\A.*<\|channel\|>final[^<]{0,99}(?:<\|constrain\|>\w*)?<\|message\|>|\Aanalysis.*assistantfinal",
    r"\A\s*(?:<\|start\|>assistant)?<\|channel\|>.*",
    # Thoughts ahead of the answer, or instead of it; who speaks; thoughts without their opening mark.
    rf"\A(?:\s*{_OPENS}.*?(?:{_CLOSES}|\Z)|\s*(?!{_CLOSES}){_MARK}(?:assistant|model)?|"
    rf"\s*(?:ASSISTANT:|<s>)|(?:(?!{_OPENS}).)*?{_CLOSES})+",
    _FRAME,
    # Calls of tools, and what a model wrote after its turn.
    rf"<(tool_call|function_calls?)>.*?(?:</\1>|\Z)|\[TOOL_CALLS\].*|{_MARK}.*",
)
# An answer that is wrapped as a whole: a fence of Markdown, a tag.
_WRAPPED = re.compile(
    r"\A(?:```[\w-]*\n((?:(?!```).)*?)(?:```)?|<(answer|response|output|caption|description)>(.*?)(?:</\2>)?)\Z",
    re.DOTALL,
)


def clean_answer(text: str, *, limit: int = LONGEST_ANSWER) -> str:
    """A model's text without what could harm a file, a page or a terminal; its words stay as they are. Removed: control
    characters, marks that reorder or hide text, lone surrogates, reasoning ahead of the answer or in its place, calls
    of tools, marks of chat templates, the fence or tag around all, outer white space, all after `limit` characters."""
    text = _UNFIT.sub("", text[: 4 * limit].replace("\r\n", "\n"))
    text = _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    for pattern in _NO_ANSWER:  # of marks that such characters no longer break up
        text = re.sub(pattern, "", text, flags=re.DOTALL | re.IGNORECASE)
    text = text.strip()
    if wrapped := _WRAPPED.match(text):
        text = (wrapped[1] or wrapped[3] or "").strip()
    return text[:limit].rstrip()


def whole_sentences(text: str) -> str:
    """A text that was cut off, up to its last stop, where there is one: half a sentence may mean anything."""
    return re.sub(r"(?s)\A(.*[.!?][\"'\u201d)]*)\s.*", r"\1", text)


@dataclass(frozen=True)
class Question:
    """All that decides an answer, without secrets. Two equal questions are asked once."""

    stage: str  # who asks: "describe", "fuse"
    model: str  # whom: `AskedModel.identity`
    user: str
    system: str = ""  # what the model is told beforehand
    sampling: Mapping[str, Any] = field(default_factory=dict)  # "temperature", "max_tokens" and the like
    seed: int = 0  # of the run
    sample: int = 0  # which of several answers to the same words
    shown: Mapping[str, Any] = field(default_factory=dict)  # what tells the picture that is shown, in JSON values

    @property
    def key(self) -> str:
        """Sha256 (hex) of the canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def own_seed(self) -> int:
        """A seed (31 bits) for this question alone, so that an answer does not depend on what is asked beside it."""
        return int(self.key[:8], 16) >> 1


@dataclass(frozen=True)
class Answer:
    """What a model said, cleaned, and its mean log-probability per token, where it is known."""

    text: str
    log_prob: float | None = None


Asked = tuple[Question, Callable[[], Image.Image] | None]  # and what makes the picture that it is about
Take = Callable[[Question, Answer | PatchionerError], None]


class EmptyAnswerError(DetailError):
    """A model answered, and said nothing; another sample may say something."""


def mask_digest(mask: npt.NDArray[np.bool_] | None) -> str | None:
    """Sha256 (hex) of shape and pixels of an (height, width) bool mask; None of None."""
    if mask is None:
        return None
    shape = "x".join(map(str, mask.shape)).encode()
    return hashlib.sha256(shape + b":" + np.packbits(mask).tobytes()).hexdigest()


class CallCache:
    """A folder of answers, `ab/abcd….json` for the question whose key is abcd…, that threads and processes may share. A
    damaged file counts as absent, with a warning. A name on two servers is taken for one model: give each a folder."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = Path(folder)

    def path(self, question: Question) -> Path:
        """Where the answer to a question is, or would be."""
        return self.folder / question.key[:2] / f"{question.key}.json"

    def get(self, question: Question) -> Answer | None:
        """The kept answer, or None."""
        path = self.path(question)
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            answer = Answer(**entry["answer"])
            if entry == json.loads(_entry(question, answer)):
                return answer
            _LOG.warning("%s is not as it was written; asking again", path)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _LOG.warning("%s is damaged (%s); asking again", path, error)
        return None

    def put(self, question: Question, answer: Answer) -> None:
        """Keep an answer; `DetailError` where the folder cannot be written."""
        try:
            with atomic_path(self.path(question)) as temporary:
                temporary.write_text(_entry(question, answer), encoding="utf-8")
        except OSError as error:
            wrong = f"{self.folder}: the answer cannot be kept ({error.strerror})"
            raise DetailError(f"{wrong}; make room or choose another folder") from error


def _entry(question: Question, answer: Answer) -> str:
    digest = hashlib.sha256(json.dumps([answer.text, answer.log_prob]).encode()).hexdigest()[:16]
    entry = {"question": asdict(question), "answer": asdict(answer), "check": digest}
    return json.dumps(entry, ensure_ascii=False) + "\n"


class AskedModel(ABC):
    """A model that is asked, unless the answer is in its cache already. Threads may share it. `identity`: its name in
    questions; `settings`: names, ready for JSON, without secrets; `sampling`: what else decides its answers."""

    identity: str
    settings: dict[str, object]
    cache: CallCache | None
    sampling: Mapping[str, Any] = {}

    @abstractmethod
    def write(self, asked: Sequence[Asked], take: Take) -> None:
        """Answer different questions; `take` each answer, or why there is none, as soon as it is there."""

    def answers(self, asked: Iterable[Asked]) -> dict[str, Answer | PatchionerError]:
        """The answer to each question, or why there is none, by the question's key; kept as they come."""
        by_key, cache = {one[0].key: one for one in asked}, self.cache
        found: dict[str, Answer | PatchionerError | None] = {
            key: cache.get(question) if cache else None for key, (question, _) in by_key.items()
        }

        def take(question: Question, answer: Answer | PatchionerError) -> None:
            if cache is not None and isinstance(answer, Answer):
                cache.put(question, answer)
            found[question.key] = answer

        if missing := [by_key[key] for key, answer in found.items() if answer is None]:
            self.write(missing, take)
        return {key: answer for key, answer in found.items() if answer is not None}

    def ask(self, system: str, user: str, *, temperature: float, max_tokens: int, seed: int = 0) -> str:
        """One answer's text, never empty; a `PatchionerError` says why there is none."""
        sampling = {"temperature": temperature, "max_tokens": max_tokens, **self.sampling}
        question = Question("fuse", self.identity, user, system, sampling, seed)
        (answer,) = self.answers([(question, None)]).values()
        if isinstance(answer, PatchionerError):
            raise answer
        return answer.text


class LocalModel(AskedModel):
    """A causal language model, or one that `sees` pictures (image-text-to-text), loaded when it is first asked. Threads
    take turns. Each text has its own random numbers: it is the same in any batch, up to rounding; batches are halved
    where memory ends. `name`: hub id or folder; `device`: None is a GPU if there is one. On a CPU it is of float32."""

    def __init__(
        self, name: str, *, sees: bool = False, device: str | None = None, cache: CallCache | None = None
    ) -> None:
        self._device = usable_device(device)
        self.dtype = "float32" if self._device.type == "cpu" else "auto"
        self.name, self._sees, self.cache = name, sees, cache
        self.sampling = {"dtype": self.dtype}
        folder = Path(name)
        told = f"{folder.resolve().name}#{_digest(folder)}" if folder.is_dir() else name
        self.identity = f"hf:{told}"
        self.settings = {"text_model": "hf", "model": told, "dtype": self.dtype}
        self._lock = threading.RLock()
        self._loaded: tuple[Any, Any] | None = None

    def parts(self) -> tuple[Any, Any]:
        """The network, in evaluation mode on its device, and its tokenizer or processor; the first call loads them."""
        with self._lock:
            if self._loaded is None:
                kinds = "AutoTokenizer", "AutoModelForCausalLM"
                if self._sees:
                    kinds = "AutoProcessor", "AutoModelForImageTextToText"
                offline = not Path(self.name).is_dir() and not self._reachable()
                processor, network = read_pretrained(self.name, *kinds, dtype=self.dtype, offline=offline)
                self._loaded = network.to(self._device).eval(), processor
            return self._loaded

    def write(self, asked: Sequence[Asked], take: Take) -> None:
        """In batches; a `DetailError` where the prompt is too long or the answer empty."""
        with self._lock:
            self.parts()
            for start in range(0, len(asked), _AT_ONCE):
                batch = asked[start : start + _AT_ONCE]
                for (question, _), answer in zip(batch, attempt(self._write, batch), strict=True):
                    take(question, answer)

    def _write(self, asked: Sequence[Asked]) -> list[Answer | PatchionerError]:
        network, processor = self.parts()
        questions = [question for question, _ in asked]
        pictures = [shown() for _, shown in asked if shown is not None]
        texts = ["\n\n".join(filter(None, (one.system, one.user))) for one in questions]
        where = (network.device, network.dtype)[: 1 + self._sees]
        inputs = prompted(processor, self.name, pictures, texts).to(*where)
        longest, length = int(questions[0].sampling["max_tokens"]), inputs["input_ids"].shape[1]
        most = getattr(network.config.get_text_config(), "max_position_embeddings", None)
        if not self._sees and isinstance(most, int) and length + longest > most:
            wrong = f"{self.name}: a prompt of {length} tokens and an answer of {longest} exceed the model's {most}"
            raise DetailError(f"{wrong}; ask for less, or take a model that reads more")
        tokenizer = getattr(processor, "tokenizer", processor)
        temperatures = [float(one.sampling["temperature"]) for one in questions]
        sampler = SeededSampler([one.own_seed for one in questions], temperatures, longest)
        said = f"{self.name}: the answer is empty; raise max_tokens, or ask another model"
        found: list[Answer | PatchionerError] = []
        for tokens, log_prob in generated(network, inputs, sampler, tokenizer):
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            text = clean_answer(whole_sentences(text) if len(tokens) == longest else text)
            found.append(Answer(text, log_prob) if text else EmptyAnswerError(said))
        return found

    def _reachable(self) -> bool:
        """Whether the hub answers. Asked once: left to itself, the library tries for minutes, file by file."""
        import huggingface_hub as hub

        try:
            hub.get_hf_file_metadata(hub.hf_hub_url(self.name, "config.json"), timeout=10)
        except (hub.errors.HfHubHTTPError, ValueError):
            return True  # an answer, if not a good one: loading says it better
        except Exception as error:  # of the network, of whichever library the hub's client uses
            _LOG.warning("the hub cannot be reached (%s); looking at local files", error)
            return False
        return True


def _digest(folder: Path) -> str:
    """Of all settings, and of names, sizes and both ends of all weights: reading those whole would take minutes."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt"):
            size = path.stat().st_size
            total.update(f"{path.name} {size}\n".encode())
            ends = _ENDS if path.suffix == ".safetensors" else size
            with path.open("rb") as file:
                total.update(file.read(ends))
                file.seek(max(ends, size - ends))
                total.update(file.read())
    return total.hexdigest()[:16]


def prompted(processor: Any, name: str, pictures: list[Image.Image], texts: Sequence[str]) -> Any:
    """Tensors of instructions, each with its picture where the model sees, as its chat template words them, padded on
    the left. Without a template: the instruction, behind the mark that stands for the picture, where there is one."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if pictures and not hasattr(processor, "image_processor"):
        raise OptionError(f"{name!r} has no processor of pictures and text; take another model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    options: dict[str, Any] = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
    if getattr(processor, "chat_template", None):
        prompts = []
        for text in texts:
            shown = [{"type": "image"}, {"type": "text", "text": text}] if pictures else text
            told = [{"role": "user", "content": shown}]
            prompts.append(processor.apply_chat_template(told, tokenize=False, add_generation_prompt=True))
        # A template that writes the mark of beginning itself must not get a second one.
        if tokenizer.bos_token and prompts[0].startswith(tokenizer.bos_token):
            options["add_special_tokens"] = False
        shows: Any = [[picture] for picture in pictures]
    else:
        mark = getattr(processor, "image_token", None)
        prompts = [f"{mark}\n{text}" if isinstance(mark, str) else text for text in texts]
        shows = pictures
    options |= {"images": shows} if pictures else {}
    return processor(text=prompts, **options)


class SeededSampler:
    """Chooses the next token of each row with random numbers of that row's own: a logits processor of `transformers`.
    Drawn by softmax(logits / temperature), on the CPU, so that a seed means the same on every device, or the most
    probable at a temperature of 0, it alone is left over, so that the model's own greedy choice takes it."""

    def __init__(self, seeds: Sequence[int], temperatures: Sequence[float], steps: int) -> None:
        self.steps, self._temperatures = steps, temperatures
        self._draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.log_probs: list[Tensor] = []  # of the tokens chosen, at temperature 1: one (rows,) float32 per step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, vocabulary) logits -> the same with all but one token per row at minus infinity."""
        logits = scores.float().cpu()
        if torch.isnan(logits).any():
            raise DetailError("the model gives values that are no numbers; take one stored as float32 or bfloat16")
        taken = torch.stack([_drawn(*row) for row in zip(logits, self._temperatures, self._draws, strict=True)])
        self.log_probs.append(logits.log_softmax(dim=1).gather(1, taken)[:, 0])
        return torch.full_like(scores, float("-inf")).scatter_(1, taken.to(scores.device), 0.0)


def _drawn(logits: Tensor, temperature: float, draw: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=0, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(dim=0), 1, generator=draw)


def generated(
    network: Any, inputs: Mapping[str, Any], sampler: SeededSampler, tokenizer: Any
) -> list[tuple[list[int], float]]:
    """One text per row: tokens without prompt and end mark, and their mean log-probability, the end mark's included. Of
    the model's own generation settings, those stay that shape the logits (repetition penalty, suppressed tokens) and
    the end marks; sampling is the sampler's alone, without beams."""
    transformers: Any = require("transformers", "language-models")
    config = transformers.GenerationConfig(
        do_sample=False, num_beams=1, temperature=1.0, top_p=1.0, top_k=50, max_new_tokens=sampler.steps,
        pad_token_id=tokenizer.pad_token_id or 0, return_dict_in_generate=False,
    )  # fmt: skip
    processors = transformers.LogitsProcessorList([sampler])
    with torch.inference_mode():
        output = network.generate(**inputs, generation_config=config, logits_processor=processors)
    # The prompt, where it is given back, is ahead.
    written = output[:, output.shape[1] - len(sampler.log_probs) :].tolist()
    log_probs = torch.stack(sampler.log_probs, dim=1).tolist()
    ends = network.generation_config.eos_token_id
    if ends is None:
        ends = getattr(network.config.get_text_config(), "eos_token_id", None)
    marks = {ends} if isinstance(ends, int) else set(ends or ())
    found = []
    for tokens, values in zip(written, log_probs, strict=True):
        length = next((at for at, token in enumerate(tokens) if token in marks), len(tokens))
        several = values[: length + 1]
        found.append((tokens[:length], sum(several) / len(several)))
    return found
