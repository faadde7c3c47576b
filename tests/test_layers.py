"""Who may import whom. The app's process never sees torch; only training sees unsloth; nothing in the core sees gradio."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "unsloth", "unsloth_zoo"}
CORE = sorted((ROOT / "trainer_core").rglob("*.py"))
PAGE = sorted([*(ROOT / "ui").rglob("*.py"), ROOT / "app.py"])


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path, module_level: bool = False) -> set[str]:
    """Whole names of everything a file imports; with `module_level` only what runs on import."""
    tree = parse(path)
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
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """`trainer_core/runs/events.py` → `trainer_core.runs.events`."""
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


OWN_PROCESSES = (
    "trainer_core/models/gguf_llama.py",
    "trainer_core/models/starter.py",
    "trainer_core/data/tokenize.py",
    "trainer_core/data/answer_spans.py",
    "trainer_core/data/render.py",
    "trainer_core/data/tokenizer.py",
    "trainer_core/data/hub/child.py",
)
"""Import what is heavy late, in processes of their own: the starter's one-time conversion, tokenizers, the Hub."""
LAYERS = (
    ("texts",),
    ("errors",),
    ("schema", "system"),
    ("methods",),
    ("config",),
    ("runs",),
    ("models", "evaluation", "storage"),
    ("data", "jobs"),
    ("planning", "diagnosis", "inference"),
    ("training", "export", "ui", "cli"),
    ("worker", "app"),
)
"""A package imports packages of the layers above it, and files of its own."""
WORKER_ONLY = ("training", "inference", "export")
MAY_RUN_MODELS = {("export", "inference"): "the certificate generates and scores as Compare does"}
PAGE_LAYERS = (("format",), ("payloads",), ("server",), ("components",), ("tabs",))
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
PAGE_LAYER = {name: number for number, names in enumerate(PAGE_LAYERS) for name in names}
MODULES = {module_of(path): path for path in CORE + PAGE}


@cache
def imported_modules(path: Path) -> set[str]:
    """The project's own modules that a file imports, anywhere in it."""
    found = set()
    for name in imports(path):
        module = name if name in MODULES else name.rpartition(".")[0]
        if module in MODULES and module != module_of(path):
            found.add(module)
    return found


def package_of(module: str) -> str:
    """`trainer_core.runs.events` → `runs`; the page and the app are one package each."""
    parts = module.split(".")
    return parts[1] if parts[0] == "trainer_core" and len(parts) > 1 else parts[0]


def backward(path: Path, layer: dict[str, int], package: Callable[[str], str]) -> set[str]:
    """What a file imports from its own layer or one below, but not from its own package."""
    own = package(module_of(path))
    others = {module: package(module) for module in imported_modules(path)}
    return {
        module for module, other in others.items() if other != own and other in layer and layer[other] >= layer[own]
    }


@pytest.mark.parametrize("path", [p for p in CORE + PAGE if package_of(module_of(p)) in LAYER], ids=name_of)
def test_packages_import_only_from_layers_above(path: Path) -> None:
    assert not backward(path, LAYER, package_of)


@pytest.mark.parametrize("path", [p for p in PAGE if module_of(p).count(".") >= 1], ids=name_of)
def test_the_page_imports_only_from_layers_above(path: Path) -> None:
    assert not backward(path, PAGE_LAYER, lambda module: (*module.split("."), "")[1])


@pytest.mark.parametrize("path", CORE + PAGE, ids=name_of)
def test_only_the_worker_imports_what_trains_and_generates(path: Path) -> None:
    own = package_of(module_of(path))
    inner = {module for module in imported_modules(path) if package_of(module) in WORKER_ONLY}
    others = {package_of(module) for module in inner} - {own}
    assert own == "worker" or all((own, other) in MAY_RUN_MODELS for other in others)


@pytest.mark.parametrize("path", CORE + PAGE, ids=name_of)
def test_nobody_imports_the_worker(path: Path) -> None:
    if package_of(module_of(path)) != "worker":
        assert not [module for module in imported_modules(path) if package_of(module) == "worker"]


def test_there_is_no_import_cycle() -> None:
    order = TopologicalSorter({module: imported_modules(path) for module, path in MODULES.items()})
    order.prepare()  # raises CycleError, with the cycle


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_knows_no_page(path: Path) -> None:
    assert not roots(path) & {"gradio", "ui", "app"}


@pytest.mark.parametrize("path", [p for p in CORE if not within(p, "training", "inference", "export")], ids=name_of)
def test_heavy_libraries_stay_where_models_run(path: Path) -> None:
    assert not roots(path, module_level=True) & HEAVY
    if name_of(path) not in OWN_PROCESSES:
        assert not roots(path) & HEAVY


@pytest.mark.parametrize("path", CORE + PAGE, ids=name_of)
def test_only_training_knows_unsloth(path: Path) -> None:
    if not within(path, "training"):
        assert not roots(path) & {"unsloth", "unsloth_zoo"}


def test_unsloth_comes_first_in_training() -> None:
    first = next(
        node for node in ast.parse((ROOT / "trainer_core/training/__init__.py").read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    )  # fmt: skip
    assert isinstance(first, ast.Import) and first.names[0].name == "unsloth"


@pytest.mark.parametrize("path", CORE + PAGE, ids=name_of)
def test_only_hardware_knows_nvml(path: Path) -> None:
    if path.name != "hardware.py":
        assert "pynvml" not in roots(path)


@pytest.mark.parametrize("path", [p for p in CORE if not within(p, "training")], ids=name_of)
def test_an_emulated_bfloat16_is_none(path: Path) -> None:
    """Torch says yes for a T4, where training takes float16: Unsloth, which the engine has imported, makes it say no."""
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    asked = [one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "is_bf16_supported"]
    for call in asked:
        said = {key.arg: key.value for key in call.keywords}.get("including_emulation")
        assert isinstance(said, ast.Constant) and said.value is False


WRITERS = {
    "trainer_core/system/durable.py": "the one way to write state",
    "trainer_core/runs/event_log.py": "appends lines, each whole or not there",
    "trainer_core/evaluation/votes.py": "appends lines, each whole or not there",
    "trainer_core/runs/checkpoints.py": "fills a staging folder",
    "trainer_core/data/uploads.py": "fills a staging file",
    "trainer_core/export/base_choice.py": "fills a staging folder",
    "trainer_core/export/folders.py": "fills a staging folder",
    "trainer_core/export/four_bit.py": "fills a staging folder",
    "trainer_core/export/lane_adapter.py": "fills a staging folder",
    "trainer_core/export/merge.py": "fills a staging folder",
    "trainer_core/export/model_card.py": "fills a staging folder",
    "trainer_core/export/lm_studio.py": "fills a staging folder",
    "trainer_core/export/ollama.py": "fills a staging folder",
    "trainer_core/export/pipeline.py": "fills a staging folder",
    "trainer_core/export/tensor_file.py": "fills a staging folder",
    "trainer_core/training/checkpointing.py": "sorts a staging folder",
    "trainer_core/training/peak_memory.py": "resets a counter of the system's",
    "trainer_core/cli/terminal.py": "puts the null device in the place of a stream that is closed",
    "trainer_core/storage/folder_copy.py": "fills a folder that nobody reads before it takes the other's name",
    "trainer_core/inference/importing.py": "copies into a hidden folder, which durable publishes",
    "trainer_core/jobs/spawn.py": "hands a log to a worker",
    "trainer_core/jobs/warm_worker.py": "hands a log to a worker",
    "trainer_core/worker/warm.py": "appends to the log of its run",
}
WRITES = {"write_text", "write_bytes", "rename", "open_for_append"}


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


COMPARE_FIELDS = {"open_question", "prefetched_question", "last_prompt", "ask_id", "turns", "judge_run"}


@pytest.mark.parametrize("path", CORE + PAGE, ids=name_of)
def test_a_comparison_is_changed_by_its_methods_alone(path: Path) -> None:
    found = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute)]
    set_here = {node.attr for node in found if isinstance(node.ctx, ast.Store)} & COMPARE_FIELDS
    assert (set_here == COMPARE_FIELDS) == (path.name == "comparison.py" and path.parent.name == "jobs")
    assert not set_here or set_here == COMPARE_FIELDS


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
    assert not loaded_after("import trainer_core.cli.commands") & (HEAVY | {"gradio"})


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=name_of)
def test_a_test_leaves_the_engine_to_processes_of_its_own(path: Path) -> None:
    """Unsloth patches the process that it is imported in, and its environment: every test after that would see another world."""
    engine = [name for name in imports(path) if name.startswith(("trainer_core.training", "unsloth"))]
    assert not engine


def test_tests_mirror_the_code() -> None:
    """`tests/trainer_core/runs/test_events_old.py` tests `trainer_core/runs/events.py`."""
    for path in sorted([*(ROOT / "tests/trainer_core").rglob("test_*.py"), *(ROOT / "tests/ui").rglob("test_*.py")]):
        folder = ROOT / path.parent.relative_to(ROOT / "tests")
        name = path.stem.removeprefix("test_")
        assert any(name == one.stem or name.startswith(f"{one.stem}_") for one in folder.glob("*.py")), name_of(path)


NAMES_A_METHOD = re.compile(r"""["'](sft|dpo)["'.+]""")
BY_NAME = {
    "trainer_core/config/recipe.py": "the default chain",
    "trainer_core/diagnosis/suggestions.py": "what DPO's own settings can mend",
    "trainer_core/runs/events.py": "phases in run folders of earlier versions",
}


def test_few_files_name_a_method() -> None:
    """All others read the values in METHODS, so that a method is one file and one line in the recipe."""
    files = [*CORE, *PAGE, *(ROOT / "assets" / "web").glob("*.js")]
    ours = [path for path in files if path.parent.name != "methods"]
    found = {str(path.relative_to(ROOT)) for path in ours if NAMES_A_METHOD.search(code_of(path))}
    assert found == set(BY_NAME)


def code_of(path: Path) -> str:
    """A file without docstrings and comments."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"#.*", "", re.sub(r'""".*?"""', "", text, flags=re.DOTALL)) if path.suffix == ".py" else text
