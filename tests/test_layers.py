"""Who may import whom. The app's process never sees torch; only the engine sees unsloth; nothing in the core sees gradio."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "unsloth", "unsloth_zoo"}
CORE = sorted((ROOT / "trainer_core").rglob("*.py"))
PAGE = sorted([*(ROOT / "ui").rglob("*.py"), ROOT / "app.py"])


def imports(path: Path, module_level: bool = False) -> set[str]:
    """Whole names of everything a file imports; with `module_level` only what runs on import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = top_level(tree) if module_level else list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def top_level(tree: ast.Module) -> list[ast.stmt]:
    """Statements outside functions and outside `if TYPE_CHECKING`."""
    return [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


def roots(path: Path, module_level: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(path, module_level)}


def within(path: Path, *places: str) -> bool:
    return any(path.is_relative_to(ROOT / "trainer_core" / place) for place in places)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_knows_no_page(path: Path) -> None:
    assert not roots(path) & {"gradio", "ui", "app"}


@pytest.mark.parametrize("path", [p for p in CORE if not within(p, "engine", "lanes")], ids=name_of)
def test_heavy_libraries_stay_in_engine_and_lanes(path: Path) -> None:
    assert not roots(path, module_level=True) & HEAVY
    if path.name not in ("starter.py", "tokens.py", "hub_child.py"):  # the one-time conversion; processes of their own
        assert not roots(path) & HEAVY


@pytest.mark.parametrize("path", CORE + PAGE, ids=name_of)
def test_only_the_engine_knows_unsloth(path: Path) -> None:
    if not within(path, "engine"):
        assert not roots(path) & {"unsloth", "unsloth_zoo"}


def test_unsloth_comes_first_in_the_engine() -> None:
    first = next(
        node for node in ast.parse((ROOT / "trainer_core/engine/__init__.py").read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    )  # fmt: skip
    assert isinstance(first, ast.Import) and first.names[0].name == "unsloth"


@pytest.mark.parametrize("path", [p for p in CORE if within(p, "lanes")], ids=name_of)
def test_lanes_never_meet_the_engine(path: Path) -> None:
    assert not any(name.startswith("trainer_core.engine") for name in imports(path))


@pytest.mark.parametrize("path", CORE + PAGE, ids=name_of)
def test_only_hardware_knows_nvml(path: Path) -> None:
    if path.name != "hardware.py":
        assert "pynvml" not in roots(path)


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_engine_and_lanes_are_imported_by_the_worker_alone(path: Path) -> None:
    if not within(path, "engine", "lanes") and path.name != "worker.py":
        parts = {name for name in imports(path) if name.startswith(("trainer_core.engine", "trainer_core.lanes"))}
        assert not parts


@pytest.mark.parametrize("path", [p for p in CORE if not within(p, "engine")], ids=name_of)
def test_an_emulated_bfloat16_is_none(path: Path) -> None:
    """Torch says yes for a T4, where training takes float16: Unsloth, which the engine has imported, makes it say no."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    asked = [one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "is_bf16_supported"]
    for call in asked:
        said = {key.arg: key.value for key in call.keywords}.get("including_emulation")
        assert isinstance(said, ast.Constant) and said.value is False


WRITERS = {
    "trainer_core/durable.py": "the one way to write state",
    "trainer_core/event_log.py": "appends lines, each whole or not there",
    "trainer_core/votes.py": "appends lines, each whole or not there",
    "trainer_core/checkpoints.py": "fills a staging folder",
    "trainer_core/data/kept.py": "fills a staging file",
    "trainer_core/engine/checkpoint.py": "sorts a staging folder",
    "trainer_core/engine/gauge.py": "resets a counter of the system's",
    "trainer_core/console.py": "puts the null device in the place of a stream that is closed",
    "trainer_core/supervisor.py": "hands a log to a worker",
    "trainer_core/waiting.py": "hands a log to a worker",
}
WRITES = {"write_text", "write_bytes", "rename", "appended"}


def writes(node: ast.AST) -> bool:
    """Does a call put something on the disk: by a method that can do nothing else, or by opening a file for it?"""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    owner = node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
    if name == "open":
        modes = [
            one.value for one in (*node.args, *(key.value for key in node.keywords)) if isinstance(one, ast.Constant)
        ]
        return any(isinstance(mode, str) and set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)
    if name == "replace" and isinstance(
        node.func, ast.Attribute
    ):  # a text's takes two, a copy of an object takes names
        return len(node.args) == 1 and not node.keywords or owner == "os"
    return name in WRITES and owner != "durable" or owner == "shutil" and name.startswith(("copy", "move"))


def test_state_is_written_by_durable_alone() -> None:
    found = {name_of(path) for path in CORE + PAGE if any(map(writes, ast.walk(ast.parse(path.read_text()))))}
    assert found == set(WRITERS)


def loaded_after(statement: str) -> set[str]:
    """Whole names of the modules that are there after it."""
    code = f"import sys; {statement}; print(','.join(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return set(out.stdout.strip().splitlines()[-1].split(","))


@pytest.mark.real
def test_the_apps_process_holds_no_torch() -> None:
    loaded = loaded_after("import app")
    assert "gradio" in loaded and not loaded & HEAVY
    assert "scipy.stats" not in loaded, "a second and a half of every start; scipy.special has what is needed"


def test_the_command_line_starts_light() -> None:
    assert not loaded_after("import trainer_core.__main__") & (HEAVY | {"gradio"})


@pytest.mark.real
def test_lanes_load_without_unsloth() -> None:
    loaded = loaded_after("import trainer_core.lanes")
    assert {"torch", "peft"} <= loaded and not loaded & {"unsloth", "unsloth_zoo"}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=name_of)
def test_a_test_leaves_the_engine_to_processes_of_its_own(path: Path) -> None:
    """Unsloth patches the process that it is imported in, and its environment: every test after that would see another world."""
    engine = [name for name in imports(path) if name.startswith(("trainer_core.engine", "unsloth"))]
    assert not engine
