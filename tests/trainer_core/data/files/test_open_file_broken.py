"""No file can hurt: each broken one gives a sentence with its name and line, and the process that asked stays as it was."""

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.broken_files import ALL, Broken
from trainer_core.data import ReadRequest, SandboxReader
from trainer_core.data.files.raw_rows import UnreadableRow
from trainer_core.data.read_events import FileNote, UnusableRow
from trainer_core.errors import DataError

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said about each broken file, by one reader for all of them. Memory here must not grow with theirs."""
    folder = tmp_path_factory.mktemp("broken")
    subprocess.run(
        [sys.executable, "-m", "tests.support.broken_files", folder], check=True, cwd=Path(__file__).parents[4]
    )
    before = psutil.Process().memory_info().rss
    with SandboxReader() as reader:
        heard = {broken.name: words(reader, folder / broken.name) for broken in ALL}
    grown = psutil.Process().memory_info().rss - before
    assert grown < 50 << 20, f"grew by {grown >> 20} MB"
    shutil.rmtree(folder)
    return heard


def words(reader: SandboxReader, path: Path) -> str:
    """Everything said about a file that is not a good row."""
    try:
        news = [one for one in reader.ask(ReadRequest(path)) if isinstance(one, UnreadableRow | UnusableRow | FileNote)]
    except DataError as error:
        return str(error)
    return "\n".join(one.text if isinstance(one, FileNote) else str(one) for one in news)


@pytest.mark.parametrize("broken", ALL, ids=lambda broken: broken.name)
def test_a_broken_file_gives_a_sentence_with_its_place(said: dict[str, str], broken: Broken) -> None:
    sentence = said[broken.name]
    assert broken.says in sentence
    assert Path(broken.name).name in sentence
    if broken.line:
        assert f"line {broken.line}" in sentence


def test_there_are_sixty_broken_files_and_more() -> None:
    assert len(ALL) >= 60
