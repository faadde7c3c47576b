"""What Gradio reads of the environment."""

from __future__ import annotations

import stat
from pathlib import Path

from ui.server.gradio_environment import replace_settings


def test_other_programs_settings_are_dropped_and_uploads_are_private(tmp_path: Path) -> None:
    environ = {
        "GRADIO_ALLOWED_PATHS": "/",
        "GRADIO_SHARE": "True",
        "GRADIO_TEMP_DIR": "shared",
        "HOME": "/nowhere",
    }
    environ.update(replace_settings(environ, tmp_path))
    assert sorted(environ) == ["GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HOME"]
    folder = Path(environ["GRADIO_TEMP_DIR"])
    assert folder.is_relative_to(tmp_path) and stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_home_the_folder_is_private_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environ: dict[str, str] = {}
    environ.update(replace_settings(environ, tmp_path / "file"))
    folder = Path(environ["GRADIO_TEMP_DIR"])
    assert folder.is_dir() and stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
