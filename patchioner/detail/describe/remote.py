"""Describing regions with a vision-language model behind an OpenAI-compatible server.

Knows: a chat client, pictures as data URLs. Does NOT know: connections, retries, keys, what becomes of the texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from patchioner.base.errors import DetailError, FutileError
from patchioner.detail.clients.answers import Answer
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.chat import ChatClient
from patchioner.detail.clients.failures import EmptyAnswerError
from patchioner.detail.clients.protocol import data_url
from patchioner.detail.describe.asking import Answers, Row, VisionSettings, picture_of, rows_of
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailRegion, Statement


class RemoteDescriber:
    """Asks a server about every region; a `patchioner.detail.stages.Describer`. Threads may share it.

    The samples of a region are asked for in one request where the server takes `n`, and one by one where it does not.
    What has been answered is in the cache at once, so that a run that is stopped goes on where it was.

    Args:
        client: whom to ask; its concurrency bounds the requests under way, of all photos together.
        settings: how to ask.
        cache: where answers are kept; None keeps nothing.

    Example:
        >>> client = ChatClient("qwen2.5vl:7b", base_url="http://localhost:11434/v1")  # doctest: +SKIP
        >>> RemoteDescriber(client).describe(photo, regions)[0].text  # doctest: +SKIP
        'A red bus stands at a kerb.'
    """

    def __init__(
        self,
        client: ChatClient,
        settings: VisionSettings | None = None,
        *,
        cache: CallCache | None = None,
    ) -> None:
        self.client, self.cache = client, cache
        self.vision = settings or VisionSettings()

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers that decide what is said, ready for JSON; no secrets."""
        return {"describer": "openai", **self.client.settings, **self.vision.as_json()}

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """All samples of all regions, ordered by region, then sample.

        A sample that failed for good is left out, with a warning in the log.

        Raises:
            DetailError: a region without any answer; `FutileError` where no other photo would fare better: a spent
                budget, a refused key, no such model.
        """
        model = f"openai:{self.client.model}"
        rows = rows_of(photo, regions, self.vision, model=model, seed=seed)
        answers = Answers(rows, self.cache)
        by_region: dict[str, list[Row]] = {}
        for row in answers.missing:
            by_region.setdefault(row.region.id, []).append(row)
        outcomes = self.client.map(
            lambda group: self._ask_region(group, answers), by_region.values()
        )
        for outcome in outcomes:
            if isinstance(outcome, DetailError):
                raise outcome
        return answers.statements()

    def _ask_region(self, rows: Sequence[Row], answers: Answers) -> None:
        """Ask for what nobody else has asked meanwhile; one request may answer several rows."""
        with answers.in_turn(rows, pause=self.client.pauses()) as wanting:
            self._ask_rows(wanting, answers)

    def _ask_rows(self, wanting: list[Row], answers: Answers) -> None:
        """Ask until each row has its answer, or is known to have none. Empties the list."""
        if not wanting:
            return
        picture = data_url(picture_of(wanting[0], self.vision), max_side=self.vision.view.max_side)
        while wanting:
            row = wanting[0]
            try:
                texts = self.client.ask(
                    row.question.system,
                    row.question.user,
                    temperature=row.temperature,
                    max_tokens=self.vision.max_tokens,
                    top_p=self.vision.top_p,
                    seed=row.question.own_seed,
                    picture=picture,
                    n=len(wanting),
                )
            except FutileError:
                raise
            except EmptyAnswerError as error:
                answers.fail(wanting.pop(0), error)
            except DetailError as error:
                # It was tried as often as may be; the other samples would only take as long again.
                for each in wanting:
                    answers.fail(each, error)
                return
            else:
                for text in texts:
                    answers.add(wanting.pop(0), Answer(text))
