"""Who describes and who fuses, chosen by a word: "patchioner", "hf:MODEL", "openai:MODEL".

Knows: the words and what they stand for. Does NOT know: what is described.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.detail.clients.budget import Budget
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.retry import RetryPolicy
from patchioner.detail.stages import Describer, TextModel

if TYPE_CHECKING:
    from patchioner import Patchioner
    from patchioner.detail.clients.chat import ChatClient
    from patchioner.detail.describe.asking import VisionSettings
    from patchioner.detail.describe.own import OwnSettings

_DESCRIBERS = ("patchioner", "hf:MODEL", "openai:MODEL")
_TEXT_MODELS = ("hf:MODEL", "openai:MODEL")


@dataclass(frozen=True)
class ClientOptions:
    """How other people's models are reached; each word uses what concerns it.

    Attributes:
        base_url, key_env, timeout, concurrency, retry: of "openai:", see `ChatClient`.
        device, dtype, revision, offline: of "hf:", see `PretrainedModel`.
        batch_size: of a describer of "hf:".
        cache: where answers are kept.
        budget: of "openai:": share one object between describer and fuser, and it bounds both together.
    """

    base_url: str | None = None
    key_env: str | None = None
    timeout: float = 120.0
    concurrency: int = 4
    retry: RetryPolicy | None = None
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    offline: bool = False
    batch_size: int = 8
    cache: CallCache | None = None
    budget: Budget | None = None


def make_describer(
    spec: str,
    *,
    model: Patchioner | None = None,
    settings: VisionSettings | None = None,
    options: ClientOptions | None = None,
    own: OwnSettings | None = None,
) -> Describer:
    """The describer that a word stands for.

    Args:
        spec: "patchioner": our own captioner; "hf:MODEL": an image-text-to-text model of `transformers`, by hub id or
            folder; "openai:MODEL": a model of an OpenAI-compatible server.
        model: our captioner, needed for "patchioner".
        settings: how a vision-language model is asked.
        options: how it is reached.
        own: how our captioner is asked, for "patchioner".

    Raises:
        UnknownNameError: another word. OptionError: no model after the colon, none given for "patchioner".
            MissingExtraError: what it needs is not installed.

    Example:
        >>> make_describer("openai:llava", options=ClientOptions("http://localhost:11434/v1"))  # doctest: +SKIP
    """
    options = options or ClientOptions()
    kind, name = _parsed(spec, "describer", _DESCRIBERS)
    if kind == "patchioner":
        if model is None:
            raise OptionError("the describer 'patchioner' needs a captioner; give model=")
        from patchioner.detail.describe.own import PatchionerDescriber

        return PatchionerDescriber(model, own)
    if kind == "openai":
        from patchioner.detail.describe.remote import RemoteDescriber

        return RemoteDescriber(_client(name, options), settings, cache=options.cache)
    from patchioner.detail.describe.hf import TransformersDescriber

    return TransformersDescriber(
        name, settings, batch_size=options.batch_size, cache=options.cache, **_where(options)
    )


def make_text_model(spec: str, *, options: ClientOptions | None = None) -> TextModel:
    """The text model that a word stands for, for a fuser with a language model.

    Args:
        spec: "hf:MODEL" or "openai:MODEL". The fuser "patchioner" is deterministic and has no text model.
        options: how it is reached.

    Raises:
        UnknownNameError, OptionError, MissingExtraError: as `make_describer`.
    """
    options = options or ClientOptions()
    if spec == "patchioner":
        raise OptionError(
            "the fuser 'patchioner' has no text model: it is deterministic; take DeterministicFuser, or give "
            "hf:MODEL or openai:MODEL"
        )
    kind, name = _parsed(spec, "text model", _TEXT_MODELS)
    if kind == "openai":
        from patchioner.detail.clients.remote_text import RemoteTextModel

        return RemoteTextModel(_client(name, options), cache=options.cache)
    from patchioner.detail.clients.local import TransformersTextModel

    return TransformersTextModel(name, cache=options.cache, **_where(options))


def _parsed(spec: str, what: str, known: tuple[str, ...]) -> tuple[str, str]:
    """(kind, model); only the first colon parts them: models of Ollama have one of their own."""
    kind, colon, name = spec.partition(":")
    kinds = {word.partition(":")[0]: ":" in word for word in known}
    if kind not in kinds or (colon and not kinds[kind]):
        raise UnknownNameError.among(what, spec, known)
    if kinds[kind] and not name:
        raise OptionError(f"{what} {spec!r} names no model; write {kind}:MODEL")
    return kind, name


def _client(name: str, options: ClientOptions) -> ChatClient:
    from patchioner.detail.clients.chat import ChatClient

    return ChatClient(
        name,
        base_url=options.base_url,
        key_env=options.key_env,
        timeout=options.timeout,
        concurrency=options.concurrency,
        retry=options.retry,
        budget=options.budget,
    )


def _where(options: ClientOptions) -> dict[str, Any]:
    return {
        "device": options.device,
        "dtype": options.dtype,
        "revision": options.revision,
        "offline": options.offline,
    }
