"""A text model behind an OpenAI-compatible server.

Knows: a chat client, and where answers are kept. Does NOT know: what is asked.
"""

from __future__ import annotations

from patchioner.detail.clients.answers import Answer, Question
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.chat import ChatClient


class RemoteTextModel:
    """Answers prompts; a `patchioner.detail.stages.TextModel`. Threads may share it.

    Args:
        client: whom to ask.
        cache: where answers are kept; None keeps nothing.

    Example:
        >>> model = RemoteTextModel(ChatClient("llama3.1", base_url="http://localhost:11434/v1"))  # doctest: +SKIP
        >>> model.ask("", "Name a colour.", temperature=0.0, max_tokens=5)  # doctest: +SKIP
        'Red'
    """

    def __init__(self, client: ChatClient, *, cache: CallCache | None = None) -> None:
        self.client, self.cache = client, cache

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers, ready for JSON; no secrets."""
        return {"text_model": "openai", **self.client.settings}

    def ask(
        self, system: str, user: str, *, temperature: float, max_tokens: int, seed: int = 0
    ) -> str:
        """The answer's text, never empty.

        Raises:
            DetailError: none can be had; `FutileError` where no other call would fare better.
        """
        question = Question(
            "fuse",
            f"openai:{self.client.model}",
            user,
            system,
            sampling={"temperature": float(temperature), "max_tokens": int(max_tokens)},
            seed=seed,
        )

        def ask() -> Answer:
            texts = self.client.ask(
                system, user, temperature=temperature, max_tokens=max_tokens, seed=seed
            )
            return Answer(texts[0])

        if self.cache is None:
            return ask().text
        return self.cache.answer(question, ask, pause=self.client.pauses()).text
