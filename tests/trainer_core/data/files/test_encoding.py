"""Files in the encodings of many languages: read right, or asked about, never wrong in silence."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.languages import ENCODINGS, TEXTS
from trainer_core.config.recipe import Data
from trainer_core.data.files import legacy_encoding
from trainer_core.data.files.encoding import ROW_SEPARATOR
from trainer_core.data.files.open_file import open_data_file
from trainer_core.data.files.raw_rows import RawRow
from trainer_core.errors import ConfigError, DataError
from trainer_core.schema import parse_values

CASES = [(language, encoding) for language, encodings in ENCODINGS.items() for encoding in encodings]
TONES = "\u0300\u0301\u0303\u0309\u0323"


def split_sentences(language: str, encoding: str) -> list[str]:
    """Sentences in letters that the encoding has."""
    text = TEXTS[language]
    if encoding in ("cp1250", "iso8859-2"):  # has the cedilla alone
        text = text.translate(str.maketrans("șțȘȚ", "şţŞŢ"))
    if encoding == "cp1258":  # writes the tone behind its letter
        text = "".join(part_tone(letter, encoding) for letter in text)
    found = text.split(" ") if language == "th" else re.split(r"(?<=[.?!。？！])\s*", text)
    return [one for one in found if one]


def part_tone(letter: str, encoding: str) -> str:
    if unicodedata.combining(letter) or letter.isascii() or can_encode(letter, encoding):
        return letter
    base, *marks = unicodedata.normalize("NFD", letter)
    tones = [mark for mark in marks if mark in TONES]
    return unicodedata.normalize("NFC", base + "".join(mark for mark in marks if mark not in TONES)) + "".join(tones)


def can_encode(letter: str, encoding: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def make_rows(language: str, encoding: str, size: int, seed: int) -> Iterator[dict[str, str]]:
    """Rows of prompt and answer that take about `size` bytes."""
    choose, written, known = random.Random(seed), 0, split_sentences(language, encoding)
    while written < size:
        row = {"prompt": choose.choice(known), "completion": choose.choice(known)}
        written += len(json.dumps(row, ensure_ascii=False).encode(encoding)) + 1
        yield row


def write(path: Path, made: list[dict[str, str]], encoding: str) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    path.write_bytes(text.encode(encoding))
    return path


def read(path: Path, named: str = "") -> list[dict[str, object]]:
    with open_data_file(path, named=named) as file:
        return [dict(row.values) for row in file.rows() if isinstance(row, RawRow)]


@pytest.mark.parametrize("size", [200, 2_000, 100_000])
def test_no_file_is_read_wrong_and_few_are_asked_about(tmp_path: Path, size: int) -> None:
    wrong, asked, total = [], [], 0
    for language, encoding in CASES:
        for seed in range(1 if size > 10_000 else 6):
            made = list(make_rows(language, encoding, size, seed))
            total += 1
            try:
                if read(write(tmp_path / "rows.jsonl", made, encoding)) != made:
                    wrong.append((language, encoding, seed))
            except DataError as error:
                assert error.text.code == "encoding.unsure"
                asked.append((language, encoding, seed))
    assert not wrong, wrong
    assert len(asked) <= 0.1 * total, asked


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("language", ["de", "ru", "ar", "th", "zh", "ja", "ko"])
def test_unicode_with_and_without_a_mark(tmp_path: Path, language: str, encoding: str) -> None:
    made = list(make_rows(language, "utf-8", 2_000, 0))
    assert read(write(tmp_path / "rows.jsonl", made, encoding)) == made


def test_a_few_curly_quotes_in_english_are_windows_letters(tmp_path: Path) -> None:
    made = [
        {"prompt": f"Say {at}.", "completion": "It’s plain – that “is” all." if at == 5 else "Yes."} for at in range(20)
    ]
    assert read(write(tmp_path / "rows.jsonl", made, "cp1252")) == made


def test_utf8_with_few_bad_lines_stays_utf8(tmp_path: Path) -> None:
    made = list(make_rows("de", "utf-8", 4_000, 0))
    path = write(tmp_path / "rows.jsonl", made, "utf-8")
    path.write_bytes(path.read_bytes() + '{"prompt": "Grüße", "completion": "Süß"}\n'.encode("cp1252"))
    assert read(path) == made


def test_asking_shows_three_rows_in_each_encoding_and_a_name_decides(tmp_path: Path) -> None:
    """ISO 8859-2 and Windows-1250 part at three Czech letters."""
    made = list(make_rows("cs", "iso8859-2", 2_000, 0))
    path = write(tmp_path / "rows.jsonl", made, "iso8859-2")
    with pytest.raises(DataError) as asked:
        read(path)
    assert asked.value.text.code == "encoding.unsure"
    choices = asked.value.text.params["choices"].splitlines()
    assert len(choices) >= 2 and all(choice.count(ROW_SEPARATOR) == 2 for choice in choices), choices
    assert read(path, named="iso8859-2") == made
    assert read(path, named="cp1250") != made


def test_a_sign_within_a_word_and_two_scripts_in_one_are_no_text() -> None:
    assert legacy_encoding.odd_share("s± wiêc") > 0.4 and legacy_encoding.odd_share("perchи è") > 0.4
    assert legacy_encoding.odd_share("Müller® kostet 5 €, très ÉTÉ, 10 m²") == 0


@pytest.mark.parametrize(("given", "name"), [("windows-1252", "cp1252"), ("Shift_JIS", "shift_jis"), ("", "")])
def test_an_encoding_is_named_as_python_does(given: str, name: str) -> None:
    assert Data(encoding=given).encoding == name


@pytest.mark.parametrize("given", ["klingon", "base64"])
def test_an_encoding_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="encoding"):
        parse_values(Data, {"encoding": given}, "test")
