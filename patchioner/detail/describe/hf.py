"""Describing regions with a vision-language model of `transformers` on this machine.

Knows: processors, chat templates, batches. Does NOT know: how tokens are drawn, what becomes of the texts.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from PIL import Image

from patchioner.base.errors import DetailError, OptionError
from patchioner.detail.clients.answers import Answer, clean_answer
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.failures import EmptyAnswerError
from patchioner.detail.clients.generation import SeededSampler, Written, in_batches, write
from patchioner.detail.clients.pretrained import PretrainedModel
from patchioner.detail.describe.asking import Answers, Row, VisionSettings, picture_of, rows_of
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailRegion, Statement


class TransformersDescriber:
    """Any image-text-to-text model of `transformers`; a `patchioner.detail.stages.Describer`.

    Regions and samples, of many photos if you like, are one batch; each text has its own random numbers, so that it is
    the same in any batch (up to the rounding of the model's arithmetic). Threads may share a describer; they write one
    after the other.

    Args:
        name: hub id or folder.
        settings: how to ask.
        batch_size: most texts at once; halved, for the rest of a call, whenever memory runs out.
        cache: where answers are kept; None keeps nothing.
        device, dtype, revision, offline: see `PretrainedModel`.

    Raises:
        OptionError: a batch size below 1, an unknown device or precision.

    Example:
        >>> describer = TransformersDescriber("HuggingFaceTB/SmolVLM-256M-Instruct")  # doctest: +SKIP
        >>> describer.describe(photo, regions)[0].text  # doctest: +SKIP
        'A red bus stands at a kerb.'
    """

    def __init__(
        self,
        name: str,
        settings: VisionSettings | None = None,
        *,
        batch_size: int = 8,
        cache: CallCache | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        offline: bool = False,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(
                f"batch_size is {batch_size!r}; it must be a whole number, at least 1"
            )
        self.model = PretrainedModel(
            name,
            "AutoModelForImageTextToText",
            "AutoProcessor",
            device=device,
            dtype=dtype,
            revision=revision,
            offline=offline,
        )
        self.vision, self.batch_size, self.cache = settings or VisionSettings(), batch_size, cache
        self._lock = threading.Lock()

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers that decide what is said, ready for JSON."""
        return {"describer": "hf", **self.model.settings, **self.vision.as_json()}

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """All samples of all regions, ordered by region, then sample.

        Raises:
            DetailError: a region without any answer, or memory that does not suffice for a single picture.
            HubError, OptionError: the model cannot be loaded.
        """
        (outcome,) = self.describe_many([(photo, regions)], seed=seed)
        if isinstance(outcome, DetailError):
            raise outcome
        return outcome

    def describe_many(
        self, jobs: Sequence[tuple[Photo, Sequence[DetailRegion]]], *, seed: int = 0
    ) -> list[list[Statement] | DetailError]:
        """As `describe`, of many photos in common batches; a photo's error stands in its place."""
        by_photo = [
            rows_of(
                photo,
                regions,
                self.vision,
                model=self.model.identity,
                seed=seed,
                extra={"dtype": self.model.dtype},
            )
            for photo, regions in jobs
        ]
        answers = Answers([row for rows in by_photo for row in rows], self.cache)
        if answers.missing:
            with self._lock:
                outcomes = in_batches(answers.missing, self._write, self.batch_size)
                # As they come: what was written before a break is kept.
                for row, outcome in zip(answers.missing, outcomes, strict=True):
                    _take(answers, row, outcome)
        return [_statements(answers, rows) for rows in by_photo]

    def _write(self, rows: Sequence[Row]) -> list[Answer | None]:
        """One answer per row; None for an empty one."""
        network, processor = self.model.parts()
        tokenizer = _tokenizer(processor, self.model.name)
        pictures = [picture_of(row, self.vision) for row in rows]
        inputs = encoded(processor, tokenizer, pictures, [row.question.user for row in rows])
        sampler = SeededSampler(
            [row.question.own_seed for row in rows],
            [row.temperature for row in rows],
            top_p=self.vision.top_p,
            max_tokens=self.vision.max_tokens,
        )
        texts = write(
            network,
            inputs.to(network.device, network.dtype),
            sampler,
            max_tokens=self.vision.max_tokens,
            pad=_pad(tokenizer),
        )
        return [_answer(tokenizer, text) for text in texts]


def encoded(
    processor: Any, tokenizer: Any, pictures: Sequence[Image.Image], texts: Sequence[str]
) -> Any:
    """Tensors of pairs of picture and instruction, worded as the model's chat template has it, padded on the left.

    Without a template: the instruction behind the mark that stands for the picture, where the model has one that
    belongs in the text.
    """
    options: dict[str, Any] = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
    if getattr(processor, "chat_template", None):
        prompts = [_templated(processor, text) for text in texts]
        # A template that writes the mark of beginning itself must not get a second one.
        start = getattr(tokenizer, "bos_token", None)
        if start and prompts[0].startswith(start):
            options["add_special_tokens"] = False
        return processor(images=[[picture] for picture in pictures], text=prompts, **options)
    mark = getattr(processor, "image_token", None)
    prompts = [f"{mark}\n{text}" if isinstance(mark, str) else text for text in texts]
    return processor(images=list(pictures), text=prompts, **options)


def _templated(processor: Any, text: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return str(
        processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    )


def _tokenizer(processor: Any, name: str) -> Any:
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not hasattr(processor, "image_processor"):
        raise OptionError(
            f"{name!r} has no processor of both pictures and text; take another model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _pad(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)


def _answer(tokenizer: Any, written: Written) -> Answer | None:
    text = clean_answer(tokenizer.decode(list(written.tokens), skip_special_tokens=True))
    return Answer(text, written.log_prob) if text else None


def _take(answers: Answers, row: Row, answer: Answer | DetailError | None) -> None:
    if isinstance(answer, DetailError):
        answers.fail(row, answer)
    elif answer is None:
        answers.fail(row, EmptyAnswerError("the model wrote nothing; raise max_tokens"))
    else:
        answers.add(row, answer)


def _statements(answers: Answers, rows: Sequence[Row]) -> list[Statement] | DetailError:
    try:
        return answers.statements(rows)
    except DetailError as error:
        return error
