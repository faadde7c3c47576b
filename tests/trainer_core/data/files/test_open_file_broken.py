"""No file can hurt: each broken one gives a sentence with its name and line, and the process that asked stays as it was."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.broken_files import ALL, Broken
from trainer_core.data import ReadRequest, SandboxReader
from trainer_core.data.files.raw_rows import UnreadableRow
from trainer_core.data.read_events import FileNote, UnusableRow
from trainer_core.errors import DataError
from trainer_core.texts import Text

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Text]]:
    """What is said about each broken file, by one reader for all of them. Memory here must not grow with theirs."""
    folder = tmp_path_factory.mktemp("broken")
    subprocess.run(
        [sys.executable, "-m", "tests.support.broken_files", folder], check=True, cwd=Path(__file__).parents[4]
    )
    before = psutil.Process().memory_info().rss
    with SandboxReader() as reader:
        heard = {broken.name: texts(reader, folder / broken.name) for broken in ALL}
    grown = psutil.Process().memory_info().rss - before
    assert grown < 50 << 20, f"grew by {grown >> 20} MB"
    shutil.rmtree(folder)
    return heard


def texts(reader: SandboxReader, path: Path) -> list[Text]:
    """Everything said about a file that is not a good row."""
    try:
        news = list(reader.ask(ReadRequest(path)))
    except DataError as error:
        return [error.text]
    return [one.text for one in news if isinstance(one, UnreadableRow | UnusableRow | FileNote)]


def with_nested(text: Text) -> Iterator[Text]:
    yield text
    for param in text.params.values():
        yield from with_nested(param) if isinstance(param, Text) else ()


@pytest.mark.parametrize("broken", ALL, ids=lambda broken: broken.name)
def test_a_broken_file_gives_a_sentence_with_its_place(said: dict[str, list[Text]], broken: Broken) -> None:
    heard = [one for text in said[broken.name] for one in with_nested(text) if one.code == broken.says.code]
    assert any(broken.says.params.items() <= one.params.items() for one in heard)
    sentence = "\n".join(map(str, said[broken.name]))
    assert Path(broken.name).name in sentence
    if broken.line:
        assert f"line {broken.line}" in sentence


def test_there_are_sixty_broken_files_and_more() -> None:
    assert len(ALL) >= 60
