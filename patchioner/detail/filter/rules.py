"""Hedges, mood, preamble and talk about the camera, by rule: cut off, rewritten, or dropped with the reason.

Knows: words and the turns of phrase of describers. Does NOT know: photos, scores, other sentences. Part of a
sentence is cut only where what remains is a whole sentence or a whole noun phrase; else all of it goes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from patchioner.detail.filter import turns
from patchioner.detail.filter.tautologies import tautology
from patchioner.detail.filter.things import things
from patchioner.detail.text import has_finite_verb, noun_phrases
from patchioner.detail.values import DropReason


@dataclass(frozen=True)
class Cleaned:
    """What the rules leave of a sentence.

    Attributes:
        text: the sentence, perhaps shorter; "" where nothing is left.
        reason: why nothing is left; None where something is.
        note: what was cut off or why all of it goes, in words; "" where nothing was changed.
    """

    text: str
    reason: DropReason | None = None
    note: str = ""


def clean(sentence: str, *, mood: bool = True) -> Cleaned:
    """Remove preamble, hedges and mood from a sentence, or drop it.

    Args:
        sentence: one, of `patchioner.detail.text.split_sentences`.
        mood: whether sentences of mood go. Off, they stay as they came, but for what else is wrong with them: for
            benchmarks whose references are full of mood.

    Returns:
        A whole sentence or noun phrase, or none with the reason: "preamble" (and talk about the picture itself),
        "mood", "hedge", "tautology" (a thing on itself: `tautologies`) or "fragment". A sentence that no rule
        concerns comes back as it is.

    Example:
        >>> clean("The key elements in this picture include a woman sitting on a bench, suggesting a park.").text
        'There is a woman sitting on a bench.'
        >>> clean("The overall mood is calm.").reason
        'mood'
    """
    if sentence.rstrip().endswith(":"):
        return _dropped("preamble", "leads in to a list")
    text = _without_preamble(sentence.strip())
    if not text or turns.PREAMBLE.search(text):
        return _dropped("preamble", "says nothing of the photo")
    text = _without_asides(text)
    if turns.META.search(text) or turns.META_SUBJECT.search(text):
        moody = turns.MOOD.search(text)
        if moody and mood:
            return _dropped("mood", f"mood: {moody.group()!r}")
        return _dropped("preamble", "speaks of the picture, not of what it shows")
    kinds: list[tuple[DropReason, re.Pattern[str]]] = [("hedge", turns.HEDGE)]
    if mood:
        text = _without_mood_adjectives(text)
        kinds.insert(0, ("mood", turns.MOOD))
    for reason, pattern in kinds:
        found = pattern.search(text)
        if found:
            return _dropped(reason, f"{reason}: {found.group()!r}")
    about = ""
    while (found_twice := tautology(text)) is not None:
        if _is_fragment(found_twice.rest):
            return _dropped("tautology", found_twice.note)
        text, about = found_twice.rest, f"{found_twice.note}; "
    if _is_fragment(text):
        return _dropped(
            "fragment", "no whole sentence is left" if text != sentence else "no whole sentence"
        )
    finished = sentence if text == sentence.strip() else _finished(text, sentence)
    return Cleaned(finished, None, "" if finished == sentence else f"{about}was: {sentence}")


def _dropped(reason: DropReason, note: str) -> Cleaned:
    return Cleaned("", reason, note)


def _without_preamble(text: str) -> str:
    plain = turns.POLITE.sub("", text)
    plain = turns.IN_PICTURE.sub("", plain)
    for opening in (turns.ELEMENTS, turns.PICTURE_SHOWS, turns.WE_SEE):
        rest = opening.sub("", plain)
        if rest != plain:
            return _there_is(turns.VIEW_OF.sub("", rest))
    return _capital(plain) if plain != text else text


def _there_is(rest: str) -> str:
    """ "two dogs on a bed." -> "There are two dogs on a bed."; a clause with its own verb stays as it is."""
    rest = re.sub(r"^(?:where|that)\s+", "", rest, flags=re.I)
    if re.match(r"there\b", rest, re.I) or not noun_phrases(rest):
        return _capital(rest)
    first = noun_phrases(rest)[0]
    if re.match(r"\s*(?:is|are|has|have|was|were|stands?|sits?)\b", rest[first.end :]):
        return _capital(rest)
    last = first.text.split()[-1].lower()
    plural = bool(turns.PLURAL.match(rest)) or (
        last != first.head and not first.text.lower().startswith(("a ", "an "))
    )
    return f"There {'are' if plural else 'is'} {rest[:1].lower()}{rest[1:]}"


def _without_asides(text: str) -> str:
    """Cut hedged and moody parts off where what remains is whole."""
    for pattern in (
        turns.AGE,
        turns.ASIDE,
        turns.WHAT_APPEARS,
        turns.TAIL,
        turns.AND_TAIL,
        turns.BY_EVIDENCE,
    ):
        while True:
            found = pattern.search(text)
            if found is None:
                break
            shorter = _cut(text, found)
            if _is_fragment(shorter):
                break
            text = shorter
    return text


def _cut(text: str, found: re.Match[str]) -> str:
    """The text without the match, its commas put right."""
    after = text[found.end() :]
    end = found.groupdict().get("end", "")
    if end == "," and re.match(r"\s*(?:or\b|\w+(?: \w+)?,? or\b)", after):
        after = ""  # ", possibly a car, truck, or bus": the list goes with its head
    elif end == "," and after.strip() and not turns.GOES_ON.match(after):
        after = f",{after}"
    before = text[: found.start()].rstrip(" ,;-")
    if not after.strip(" ."):
        return f"{before}."
    return f"{before}{after}" if after[:1] in " ,." else f"{before} {after}"


def _is_fragment(text: str) -> bool:
    """Whether neither a sentence nor a noun phrase that names a thing is left."""
    bare = text.strip(" .,;!?")
    if len(bare.split()) < 2 or turns.CONTINUES.match(bare) or not things(bare):
        return True
    if turns.HANGS.search(bare):
        return True
    if has_finite_verb(bare):
        return bool(re.match(r"there (?:is|are|was|were)(?: also)?$", bare, re.I))
    if turns.PLACES.match(bare):
        return True
    return not (turns.DETERMINED.match(bare) or bare[:1].islower() or _bare_plural(bare))


def _bare_plural(text: str) -> bool:
    """ "Soccer players on a field" names things as it stands; "Lighting" and "Traffic Lights" are titles."""
    first = noun_phrases(text)[0]
    plural = first.start == 0 and first.text.split()[-1].lower() != first.head
    return plural and len(text.split()) > 3


def _without_mood_adjectives(text: str) -> str:
    """ "a cozy and inviting corner" -> "a corner"."""
    shorter = turns.MOOD_ADJECTIVE.sub(_bare_determiner, text)
    return text if shorter == text else _without_mood_adjectives(shorter)


def _bare_determiner(match: re.Match[str]) -> str:
    determiner = match.group(1)
    if determiner.lower() not in ("a", "an"):
        return f"{determiner} "
    follows = match.string[match.end() : match.end() + 1].lower()
    fitting = "an" if follows in "aeiou" else "a"
    return f"{fitting.capitalize() if determiner[0].isupper() else fitting} "


def _finished(text: str, sentence: str) -> str:
    stop = "" if not sentence.rstrip().endswith((".", "!", '."')) else "."
    bare = " ".join(text.split()).rstrip(" ,;")
    whole = bare if bare.endswith((".", "!", "?", '."')) else f"{bare}{stop}"
    # A phrase without a determiner came in lower case, and with a capital it would be a title.
    titled = _capital(whole)
    return whole if _is_fragment(titled) else titled


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
