"""What a vision-language model is asked about a picture: our own words, each with a name and a version.

Knows: instructions. Does NOT know: models, pictures. Change a text and its version goes up: answers to the old one are
other answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from patchioner.base.errors import UnknownNameError


@dataclass(frozen=True)
class Prompt:
    """An instruction.

    Attributes:
        id: its name.
        version: of its words.
        text: the words.
    """

    id: str
    version: int
    text: str

    @property
    def label(self) -> str:
        """Id and version, e.g. "detail/1"."""
        return f"{self.id}/{self.version}"


DETAIL = Prompt(
    "detail",
    1,
    "Describe what can be seen in this picture, for somebody who has to draw it without seeing it. Say which people, "
    "animals and things there are and how many, what colour and material they have, what they do, and where each of "
    "them is. Quote any writing that you can read. Use plain, complete sentences, and let each one state something "
    "that is visible. Do not guess, do not speak of moods, and begin directly with the description.",
)
MARKED = Prompt(
    "marked",
    1,
    "A red frame marks one part of this picture. Describe what is inside the frame, and nothing outside of it: which "
    "people, animals and things there are and how many, what colour and material they have, and what they do. Use "
    "plain, complete sentences, and let each one state something that is visible. Do not mention the frame, do not "
    "guess, do not speak of moods, and begin directly with the description.",
)
PROMPTS: dict[str, Prompt] = {prompt.id: prompt for prompt in (DETAIL, MARKED)}


def prompt_named(name: str) -> Prompt:
    """The instruction of that id.

    Raises:
        UnknownNameError: there is none; the message offers the close names.

    Example:
        >>> prompt_named("detail").label
        'detail/1'
    """
    try:
        return PROMPTS[name]
    except KeyError:
        raise UnknownNameError.among("prompt", name, PROMPTS) from None
