"""Guesses the encoding of text that is not UTF-8: chardet's candidates, judged by what the text of each looks like."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

SAMPLE_BYTES, WORD_LETTERS = 1 << 16, 1 << 14
"""Bytes that are weighed, and characters whose words are looked at; all others need only be text."""
MODERN = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874", "iso8859-15", "iso8859-2",
    "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8", "iso8859-9", "iso8859-13", "iso8859-4", "koi8-r", "koi8-u", "cp932",
    "euc_jis_2004", "iso2022_jp_2", "gb18030", "big5hkscs", "cp949", "iso2022_kr", "johab",
)  # fmt: skip
"""Encodings of Windows and the web. Of those that give the same text the first is taken: it has more characters than the last."""
OLD = ("cp866", "cp850", "cp852", "cp437", "mac-roman", "mac-cyrillic")
OLD_WEIGHT = 0.75
"""Files of DOS and of old Macs are rare: their encodings need clearer evidence."""
RIVAL_SHARE = 0.85
"""A candidate with another text and this share of the best one's score is a rival: the user has to choose. Measured on 1,600
small files in 39 encodings: none is read wrong, and 7 % are asked about."""
WEAK_SCORE, COMMONEST = 0.05, "cp1252"
"""Below this score, which no sentence in one language has, the bytes say nearly nothing. Then the commonest encoding is taken."""
MAX_CHOICES, CHOICE_LINES, CHOICE_LETTERS = 3, 3, 60
"""What the user sees of each candidate."""
SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "HEBREW", "ARABIC")
WORD = re.compile(r"[^\W\d_]+")
SIGN_AT_LETTER = re.compile(r"(?<=[^\W\d_])[^\x00-\x7f\w\s©®™²³¹°]|[^\x00-\x7f\w\s©®™²³¹°](?=[^\W\d_])")
SIGN_CATEGORIES = {"Sm", "So", "Sk", "No", "Sc"}
CONTROL_CATEGORIES = {"Cc", "Cn", "Co"}


@dataclass(frozen=True)
class Candidate:
    """An encoding, the text it gives, and how likely it is, 0 to 1."""

    name: str
    text: str
    score: float


class UnsureEncoding(Exception):
    """Several encodings fit about as well, or none does."""

    def __init__(self, candidates: Sequence[Candidate]):
        super().__init__(", ".join(one.name for one in candidates))
        self.candidates = tuple(candidates)


def guess_encoding(sample: bytes) -> str:
    """The encoding of lines that are not UTF-8.

    Raises:
        UnsureEncoding: the bytes do not decide it.
    """
    candidates = rank_candidates(sample)
    if not candidates:
        raise UnsureEncoding(())
    best = candidates[0]
    if best.score < WEAK_SCORE and COMMONEST in [one.name for one in candidates]:
        return COMMONEST
    rivals = [one for one in candidates if one.text != best.text and one.score > RIVAL_SHARE * best.score]
    if rivals:
        raise UnsureEncoding((best, *rivals))
    return min((one.name for one in candidates if one.text == best.text), key=(*MODERN, *OLD).index)


def rank_candidates(sample: bytes) -> list[Candidate]:
    """The encodings in which the sample is text, likeliest first."""
    from chardet import detect_all

    known = (*MODERN, *OLD)
    given = detect_all(sample[:SAMPLE_BYTES], ignore_threshold=True, include_encodings=known, compat_names=False)
    weights = {str(one["encoding"]): one["confidence"] * (OLD_WEIGHT if one["encoding"] in OLD else 1) for one in given}
    found, best = list[Candidate](), 0.0
    for name in sorted(weights.keys() & known, key=lambda name: -weights[name]):
        text = decode_text(sample, name)
        if text is None:
            continue
        can_win = weights[name] > RIVAL_SHARE * best  # else its words need no look
        score = weights[name] * (1 - odd_share(text[:WORD_LETTERS])) if can_win else weights[name]
        found.append(Candidate(name, text, score))
        best = max(best, score)
    return sorted(found, key=lambda one: -one.score)


def decode_text(sample: bytes, name: str) -> str | None:
    """The sample's text; None if its bytes mean nothing in this encoding. The last character may be cut."""
    try:
        text = codecs.getincrementaldecoder(name)().decode(sample)
    except UnicodeDecodeError:
        return None
    strange = {letter for letter in set(text) if unicodedata.category(letter) in CONTROL_CATEGORIES}
    return text if strange <= set("\t\n\r\f\v") else None


def odd_share(text: str) -> float:
    """Share of the words with foreign letters that no language writes so: two scripts or a capital within a word, or a sign
    that touches a letter."""
    words = [word for word in WORD.findall(text) if not word.isascii()]
    odd = sum(unicodedata.category(found[0]) in SIGN_CATEGORIES for found in SIGN_AT_LETTER.finditer(text))
    odd += sum(mixes_scripts(word) or has_inner_capital(word) for word in words)
    return min(1.0, odd / len(words)) if words else float(odd > 0)


def mixes_scripts(word: str) -> bool:
    return len({letter_script(letter) for letter in word} & set(SCRIPTS)) > 1


def has_inner_capital(word: str) -> bool:
    return word[1:] != word[1:].lower() and not word.isupper()


@lru_cache(maxsize=4096)
def letter_script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


def describe_choices(candidates: Sequence[Candidate]) -> Iterator[tuple[str, list[str]]]:
    """For each of the likeliest encodings, how it reads the first lines that they read differently."""
    shown = candidates[:MAX_CHOICES]
    rows = zip(*(one.text.splitlines() for one in shown), strict=False)
    differ = [texts for texts in rows if len(set(texts)) > 1][:CHOICE_LINES]
    for place, one in enumerate(shown):
        yield one.name, [excerpt_line(texts, place) for texts in differ]


def excerpt_line(texts: Sequence[str], place: int) -> str:
    """A line from shortly before the first character that is read differently."""
    first = next((at for at, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), 0)
    begin = max(0, first - CHOICE_LETTERS // 3)
    return texts[place][begin : begin + CHOICE_LETTERS].strip()
