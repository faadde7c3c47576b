"""A few sentences in many languages, and the encodings that files of each come in."""

from __future__ import annotations

import tomllib
from pathlib import Path

TEXTS: dict[str, str] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
WEST, MIDDLE = ("cp1252", "iso8859-15"), ("cp1250", "iso8859-2")
ENCODINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("de", "fr", "es", "pt", "it", "nl", "sv"), WEST),
    **dict.fromkeys(("pl", "cs", "hu"), MIDDLE),
    "ro": ("cp1250",),
    "ru": ("cp1251", "koi8-r"),
    "uk": ("cp1251", "koi8-u"),
    "bg": ("cp1251",),
    "el": ("cp1253", "iso8859-7"),
    "tr": ("cp1254", "iso8859-9"),
    "he": ("cp1255",),
    "ar": ("cp1256",),
    "lt": ("cp1257", "iso8859-13"),
    "th": ("cp874",),
    "vi": ("cp1258",),
    "ja": ("cp932", "euc_jp", "iso2022_jp"),
    "zh": ("gb18030",),
    "zh-hant": ("big5",),
    "ko": ("cp949",),
}
