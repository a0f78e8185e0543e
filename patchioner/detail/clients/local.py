"""A text model of `transformers` on this machine.

Knows: causal language models and their chat templates. Does NOT know: what is asked.
"""

from __future__ import annotations

import threading
from typing import Any

from patchioner.base.errors import DetailError
from patchioner.detail.clients.answers import Answer, Question, clean_answer
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.failures import EmptyAnswerError
from patchioner.detail.clients.generation import SeededSampler, in_batches, write
from patchioner.detail.clients.pretrained import PretrainedModel


class TransformersTextModel:
    """Answers prompts; a `patchioner.detail.stages.TextModel`. Threads may share it; they write one after the other.

    Args:
        name: hub id or folder of a causal language model.
        cache: where answers are kept; None keeps nothing.
        device, dtype, revision, offline: see `PretrainedModel`.

    Example:
        >>> model = TransformersTextModel("Qwen/Qwen2.5-1.5B-Instruct")  # doctest: +SKIP
        >>> model.ask("", "Name a colour.", temperature=0.0, max_tokens=5)  # doctest: +SKIP
        'Red'
    """

    def __init__(
        self,
        name: str,
        *,
        cache: CallCache | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        offline: bool = False,
    ) -> None:
        self.model = PretrainedModel(
            name,
            "AutoModelForCausalLM",
            "AutoTokenizer",
            device=device,
            dtype=dtype,
            revision=revision,
            offline=offline,
        )
        self.cache = cache
        self._lock = threading.Lock()

    @property
    def settings(self) -> dict[str, object]:
        """Names, ready for JSON."""
        return {"text_model": "hf", **self.model.settings}

    def ask(
        self, system: str, user: str, *, temperature: float, max_tokens: int, seed: int = 0
    ) -> str:
        """The answer's text, never empty.

        Raises:
            DetailError: the prompt is too long for the model, the answer is empty, or memory does not suffice.
            HubError, OptionError: the model cannot be loaded.
        """
        question = Question(
            "fuse",
            self.model.identity,
            user,
            system,
            sampling={
                "temperature": float(temperature),
                "max_tokens": int(max_tokens),
                "dtype": self.model.dtype,
            },
            seed=seed,
        )

        def ask() -> Answer:
            return self._write(question, float(temperature), int(max_tokens))

        return (ask() if self.cache is None else self.cache.answer(question, ask)).text

    def _write(self, question: Question, temperature: float, max_tokens: int) -> Answer:
        network, tokenizer = self.model.parts()
        inputs = _encoded(tokenizer, question.system, question.user)
        _check_length(network, self.model.name, inputs["input_ids"].shape[1], max_tokens)
        pad = next(
            (one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0
        )

        def run(seeds: Any) -> list[Any]:
            sampler = SeededSampler(seeds, [temperature], top_p=1.0, max_tokens=max_tokens)
            return write(
                network, inputs.to(network.device), sampler, max_tokens=max_tokens, pad=pad
            )

        with self._lock:
            (written,) = in_batches([question.own_seed], run, 1)
        if isinstance(written, DetailError):
            raise written
        text = clean_answer(tokenizer.decode(list(written.tokens), skip_special_tokens=True))
        if not text:
            raise EmptyAnswerError(
                f"{self.model.name}: the answer is empty; raise max_tokens, or ask another model"
            )
        return Answer(text, written.log_prob)


def _encoded(tokenizer: Any, system: str, user: str) -> Any:
    """Tensors of one prompt, worded as the model's chat template has it; without one, the two texts in a row."""
    if not tokenizer.chat_template:
        return tokenizer("\n\n".join(filter(None, (system, user))) + "\n\n", return_tensors="pt")
    said = [{"role": "system", "content": system}] if system else []
    try:
        prompt = _templated(tokenizer, [*said, {"role": "user", "content": user}])
    except Exception as error:
        # Jinja's errors: some templates (Gemma's, Mistral's first) refuse the system's role.
        if not system or type(error).__module__.split(".")[0] != "jinja2":
            raise
        prompt = _templated(tokenizer, [{"role": "user", "content": f"{system}\n\n{user}"}])
    # The template has written the marks of beginning itself.
    return tokenizer(prompt, return_tensors="pt", add_special_tokens=False)


def _templated(tokenizer: Any, said: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))


def _check_length(network: Any, name: str, prompt: int, max_tokens: int) -> None:
    limit = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(limit, int) and prompt + max_tokens > limit:
        raise DetailError(
            f"{name}: a prompt of {prompt} tokens and an answer of {max_tokens} exceed the model's {limit}; ask for "
            "less, or take a model that reads more"
        )
