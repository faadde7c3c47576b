"""Faults in the text itself: template markers, headings, placeholders, mangled characters, personal data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trainer_core.data.schema.transcripts import MARKERS

MAIL_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{2,63})+")
SECRET_KEY = re.compile(
    r"\b(?:sk-[\w-]{20,}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16})|-----BEGIN [A-Z ]*PRIVATE KEY"
)
MANGLED_TEXT = re.compile("Ã[\u0080-\u00bf\u201a-\u2122]|â€|Â[\u00a0-\u00bf]|[\ufffd\0\x08\x1b\x7f]")
PLACEHOLDER = re.compile(r"\{\{ ?[A-Za-z_][\w. ]{0,40}\}\}|\{(?:instruction|input|prompt|question|output|response)\}")
CAPITAL_ROLE = re.compile(r"(?<!\S)(?:USER|ASSISTANT): ")
MEDIA_PLACEHOLDERS = (
    "<image>", "<video>", "<audio>", "<|image|>", "<|image_pad|>", "<|video_pad|>", "<|image_1|>", "<start_of_image>",
    "<image_placeholder>",
)  # fmt: skip
"""Stand-ins in text for an image, video or audio."""


@dataclass(frozen=True)
class TextPattern:
    """Signs of a fault: one or two letters rare in prose → strings with them, one of which must occur; then `pattern` must match.

    Looking for single letters first is 20 times faster than one pattern for all.
    """

    code: str
    rare: Mapping[str, tuple[str, ...]]
    pattern: re.Pattern[str] | None = None

    def find(self, text: str) -> int | None:
        """Position of the fault in the text, or None."""
        for letters, strings in self.rare.items():
            if letters[0] in text and letters[-1] in text and (place := self.find_first(text, strings)) is not None:
                return place
        return None

    def find_first(self, text: str, strings: tuple[str, ...]) -> int | None:
        for string in strings:
            place = text.find(string)
            if place >= 0 and self.pattern is None:
                return place
            if place >= 0 and self.pattern and (match := self.pattern.search(text)):
                return match.start()
        return None


TEXT_PATTERNS = (
    TextPattern("markers", {letter: tuple(m for m in MARKERS if letter in m) for letter in "|]>"}),
    TextPattern(
        "headings",
        {
            "#": ("### Instruction:", "### Response:", "### Input:", "### Human:", "### Assistant:"),
            ":H": ("\n\nHuman: ",),
            ":A": ("\n\nAssistant: ",),
        },
    ),
    TextPattern("headings", {":U": ("USER: ",), ":A": ("ASSISTANT: ",)}, CAPITAL_ROLE),
    TextPattern("placeholder", {"{": ("{",)}, PLACEHOLDER),
    TextPattern("pictures", {"<>": MEDIA_PLACEHOLDERS}),
    TextPattern("encoding", {letter: (letter,) for letter in "Ãâ\u00c2\ufffd\0\x08\x1b\x7f"}, MANGLED_TEXT),
    TextPattern("personal", {"@": ("@",)}, MAIL_ADDRESS),
    TextPattern(
        "personal",
        {"_": ("hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"), "-": ("sk-",), "K": ("AKIA",), "-G": ("-----BEGIN",)},
        SECRET_KEY,
    ),
)
PATTERNS_BY_LETTER = tuple(
    (letters[0], letters[-1], strings, sign) for sign in TEXT_PATTERNS for letters, strings in sign.rare.items()
)


def has_markers(text: str) -> bool:
    """Does a text contain special tokens of a chat template?"""
    return TEXT_PATTERNS[0].find(text) is not None


def matching_codes(text: str) -> Iterator[str]:
    """The codes of all faults of a text, each once."""
    last = ""
    for one, other, strings, sign in PATTERNS_BY_LETTER:
        if one in text and other in text and sign.code != last and sign.find_first(text, strings) is not None:
            last = sign.code
            yield last


def match_snippet(text: str, code: str) -> str | None:
    """The text around a fault, on one line; None if the fault is not in the text."""
    places = (sign.find(text) for sign in TEXT_PATTERNS if sign.code == code)
    place = next((place for place in places if place is not None), None)
    return None if place is None else " ".join(text[max(0, place - 30) : place + 50].split())
