"""The turns of phrase that the rules look for: preamble, talk about the picture, mood, hedges.

Knows: regular expressions. Does NOT know: what is done where one matches (`rules`).
"""

from __future__ import annotations

import re
from typing import Final


def _any(text: str) -> str:
    """Alternatives, one a line or separated by ";", as one group."""
    parts = [part.strip() for part in text.replace("\n", ";").split(";")]
    return f"(?:{'|'.join(part for part in parts if part)})"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


PICTURE: Final = _any("image; picture; photo; photograph; snapshot; shot; scene; frame")

# --- openings that are stripped ---------------------------------------------------------------------------------------
POLITE: Final = _compiled(
    r"^(?:sure|certainly|of course|absolutely|okay|overall|however)\b[!,.]*\s*"
)
IN_PICTURE: Final = _compiled(
    rf"^in (?:the|this)(?: (?!of\b)[\w-]+){{0,4}}? {PICTURE}(?: you've provided)?,\s*"
)
ELEMENTS: Final = _compiled(
    r"^(?:the|some)(?: (?:key|main|primary|visible|other))*"
    r" (?:elements?|features?|objects?|subjects?|components?)"
    rf"(?: (?:in|of|visible in) (?:the|this) {PICTURE})?"
    r" (?:includes?|are|is|consists? of|that can be seen are):?\s+"
)
PICTURE_SHOWS: Final = _compiled(
    rf"^(?:the|this)(?: [\w-]+){{0,3}}? {PICTURE}(?: also)? "
    + _any(
        "shows; depicts; captures; features; presents; displays; showcases; portrays; contains; illustrates; is of"
    )
    + r"\s+"
)
WE_SEE: Final = _compiled(
    "^"
    + _any(
        """
        we (?:can )?(?:see|observe); you can (?:see|observe); you'll see; i (?:can )?see; one can see
        it (?:shows|depicts); we are presented with
        """
    )
    + r"\s+(?:that\s+)?"
)
VIEW_OF: Final = _compiled(
    r"^(?:an?|the)(?: [\w-]+,?){0,4}? "
    + _any("view; shot; close-up; photograph; photo; picture; image; scene; moment; snapshot")
    + r"(?: (?:view|photograph|shot))? "
    + _any("of; featuring; showing; with; where; in which")
    + " "
)

# --- what drops a sentence --------------------------------------------------------------------------------------------
PREAMBLE: Final = _compiled(
    r"\b"
    + _any(
        r"""
        here(?:'s| is| are) (?:the|a|an|some|my)
        (?:modified|enhanced|enriched|revised) (?:caption|description)
        key elements; i(?:'m| am) (?:unable|sorry); if you (?:have|could|can); please; can describe; as an ai
        """
    )
    + r"\b"
)
META: Final = _compiled(
    r"\b"
    + _any(
        rf"""
        (?:not|no longer|isn't|aren't) (?:fully |entirely |clearly )?(?:visible|clear|discernible|shown|provided)
        (?:not|isn't|aren't) specified; (?:no|any) (?:other )?(?:visible|discernible|distinctive|identifiable|immediate)
        no (?:texts?|watermarks?|logos?)
        (?:cannot|can't|difficult|hard|impossible|not possible|unable) (?:be |to )?(?:tell|determine|discern|see|say)
        (?:cannot|can't|difficult|hard|impossible|unable) (?:be |to )?identif\w+
        out of focus; in focus; focal point; depth of field; blur\w*; resolution; grainy; viewer\w*; composition
        colou?r palette; vantage point; foreground and background; visible in the {PICTURE}
        (?:{PICTURE}|video) (?:was|is|were|has been) (?:taken|captured|shot); taken (?:from|during|at|in|on|with)
        the {PICTURE} (?:has|is|itself); camera angle; does(?:n't| not) (?:provide|contain|show|offer|include)
        main (?:focus|subject); details
        """
    )
    + r"\b"
)
META_SUBJECT: Final = _compiled(
    r"^(?:the|this|its|overall,? the)(?: overall| general| entire| main)? "
    + _any(
        rf"""
        {PICTURE}; perspective; angle; focus; lighting; style; composition; impression; setting; environment
        combination; presence; colors in; contrast; quality
        """
    )
    + r"\b(?! (?:of|in|on) (?:front|the \w+ (?:is|are|has)))"
)
MOOD: Final = _compiled(
    r"\b"
    + _any(
        r"""
        atmosphere; ambian?ence; mood; vibe; aesthetic\w*; charm\w*; seren\w+; tranquil\w*; testament; essence
        evok\w+; whims\w+; harmon\w+; inviting; cozy; cosy; peaceful\w*; beautifully; beauty; captivating; sense of
        feeling of; feel of; touch of; a sense; symboli\w+; reminiscent; timeless; solitude; joy\w*; nostalgi\w+
        dynamism; vitality; bustling; tone of; sophisticat\w+; elegan\w+; simplicity; narrative; tell\w* a story
        everyday life; invit\w+ the; welcoming; enjoy\w*; relax\w+; leisure\w*; contemplat\w+; anticipat\w+
        excitement; comfortable feel
        """
    )
    + r"\b"
)
HEDGE: Final = _compiled(
    r"\b"
    + _any(
        r"""
        appear(?:s|ed|ing)?; seem(?:s|ed|ingly)?; suggest\w*; likely; possibl[ey]; perhaps; probabl\w+; maybe
        presumably; potentially; might; may; could; would; indicat\w+; impl(?:y|ies|ied|ying); looks? (?:like|as)
        as if; as though; typical(?:ly)?; hint\w*; give[sn]? the
        """
    )
    + r"\b"
)

# --- what is cut off --------------------------------------------------------------------------------------------------
MOOD_ADJECTIVE: Final = _compiled(
    r"\b(a|an|the|this|its|and|of) (?:(?:very|quite|truly)\s)?"
    + _any(
        """
        serene; tranquil; cozy; cosy; peaceful; charming; bustling; captivating; inviting; elegant; beautiful; lovely
        stunning; dynamic; delightful; harmonious; picturesque; idyllic; welcoming; majestic
        """
    )
    + r"(?:,?\s+and\b|,)?\s+(?=[a-z])"
)
TAIL: Final = _compiled(
    r"(?:,| -| \u2013|;)\s+(?:and\s+)?(?:thus |further |perhaps |also |possibly |which (?:is|are) )?"
    + _any(
        r"""
        adding; creating; giving; contributing; enhancing; evoking; emphasi[sz]ing; highlighting; suggesting
        indicating; making; providing; conveying; reflecting; showcasing; hinting; implying; symboli[sz]ing
        allowing; lending; drawing; ensuring; typical; indicative; reminiscent; suggestive; complementing
        contrasting; as (?:indicated|suggested|evidenced); given; as if; as though; seemingly; though; although
        (?:which|that|this) (?:adds?|gives?|creates?|suggests?|indicates?|might|could|may|would|contrasts?)
        (?:which|that|this) (?:enhances?|contributes?|implies|imply|provides?|helps?|seems?|appears?)
        (?:which|that|this) is (?:likely|typical|a common|common|possibly|often); but (?:it|they|the|its|their)
        """
    )
    + r"\b.*$"
)
AND_TAIL: Final = _compiled(
    r",?\s+(?:and|while|but)\s+"
    r"(?:(?:it|they|he|she|there|others?|some|is|are|the [\w-]+(?: [\w-]+)?)\s+)?"
    + _any(
        """
        appear; seem; suggest; likely; possibl; perhaps; probabl; presumabl; potential; might; may; could; looks? like
        """
    )
    + r"\w*\b.*$"
)
ASIDE: Final = _compiled(
    r"(?:,\s+|\s*\()(?:or\s+)?"
    + _any(
        """
        possibly; likely; perhaps; probably; presumably; potentially; seemingly; maybe; most likely
        (?:which|who) (?:appears?|seems?|may|might|could|is likely)
        """
    )
    + r"\b(?P<rest>[^,;.()]*)(?P<end>[,;.)]|$)"
)
WHAT_APPEARS: Final = _compiled(
    r",?\s+(?:"
    + _any(
        "and; including; in; on; at; with; from; near; by; of; into; against; featuring; holding"
    )
    + r"\s+)+what (?:appears?|seems?|looks?|could|might|may)[^,;.]*"
)
AGE: Final = _compiled(
    r",?\s+(?:who|which|that) (?:appears?|seems?) to be "
    + _any(
        r"""
        in (?:her|his|their|its) (?:\w+ )?(?:\d0s|\w+ies|teens)
        (?:about |around |approximately )?\d+(?: years old)?
        middle-aged; elderly; young; older; asleep; happy; relaxed
        """
    )
    + r"\b,?"
)
GOES_ON: Final = _compiled(
    r"\s*"
    + _any(
        """
        and; is; are; was; were; has; sits?; stands?; holds?; wears?; on; in; at; near; behind; beside; next to; under
        above; over; with; of; to; from; by
        """
    )
    + r"\b"
)
BY_EVIDENCE: Final = _compiled(r",?\s+as (?:indicated|suggested|evidenced|shown) by\b.*$")

# --- what is whole ----------------------------------------------------------------------------------------------------
COUNTED: Final = _any(
    r"two; three; four; five; six; seven; eight; nine; ten; several; many; some; various; multiple; numerous; \d+"
)
PLURAL: Final = _compiled(rf"^{COUNTED}\b")
DETERMINED: Final = _compiled(
    rf"^(?:{COUNTED}|an?|the|one|his|her|its|their|another|people|men|women|there)\b"
)
CONTINUES: Final = _compiled(
    r"^(?:and|or|but|which|who|that|of|because|than)\b|^(?:with|as|while|where|by|to)\b(?!.*,.)"
)
PLACES: Final = _compiled(r"^(?:on|in|at|near|behind|under|over|above|from|of)\b(?!.*,.)")
HANGS: Final = _compiled(
    r"\b(?:a|an|the|and|or|of|with|in|on|at|to|is|are|by|from|including|its|their|that|which|who)$"
)
