"""Compiles requirements.in into the pinned files. Knows which section of it goes into which file.

    python tools/lock.py        needs uv on the PATH (pip install uv) and a package index

[app]           what Tunebench imports, and its pins; in both closures
[windows]       in the CUDA closure
[test]          requirements-test.txt, pinned so that it fits beside the app
[rehearsal]     requirements-rehearsal.txt: names, each with its line of the CUDA closure
[as they are]   appended without asking for their own requirements
[override]      versions that win over what packages ask for, which is why everything is installed with --no-deps
[cuda 13 libraries]  left out of the closures for the CPU and for CUDA 12.6
[not on cpu]    packages left out of the CPU closure
[never]         packages left out of all closures

One resolution serves Python 3.11 to 3.13 on Linux, Windows and macOS: differences are environment markers in the files.
A version that is already in a file stays, unless requirements.in says otherwise or the line is deleted first.
"""

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    part = split_sections((ROOT / "requirements.in").read_text(encoding="utf-8"))
    as_they_are = pin_lines(part["as they are"])
    never, cuda_13 = part["never"], part["cuda 13 libraries"]
    cuda = compile_pins("requirements.txt", part["app"] + part["windows"], part["override"], never)
    older = compile_pins("requirements-cu126.txt", part["app"] + part["windows"], part["override"], never + cuda_13)
    cpu = compile_pins("requirements-cpu.txt", part["app"], part["override"], never + cuda_13 + part["not on cpu"])
    beside = pin_lines(cpu)
    test = compile_pins("requirements-test.txt", part["test"], beside, [])
    write_requirements("requirements.txt", "CUDA, on Linux and Windows", cuda + as_they_are)
    kept = {package_name(line) for line in older} - {"torch", "torchvision"}
    own = [line for line in cuda if package_name(line) in kept]  # in the same versions, whatever was resolved
    write_requirements(
        "requirements-cu126.txt", "CUDA 12.6, without torch and what it brings itself", own + as_they_are
    )
    write_requirements("requirements-cpu.txt", "machines without CUDA", cpu + as_they_are)
    rehearsal = [line for line in cuda if package_name(line) in pin_lines(part["rehearsal"])]
    write_requirements(
        "requirements-rehearsal.txt", "tests of the CUDA code without a card, in a folder of their own", rehearsal
    )
    names = {package_name(line) for line in beside}
    write_requirements(
        "requirements-test.txt", "tests, on top", [line for line in test if package_name(line) not in names]
    )


def split_sections(text: str) -> dict[str, list[str]]:
    """Lines by section, comments and all: `[name]` alone on a line opens a section."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if title := re.fullmatch(r"\[(.+)\]", line):
            lines = found.setdefault(title[1], [])
        elif line.strip():
            lines.append(line)
    return found


def pin_lines(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("#")]


def package_name(line: str) -> str:
    return re.split(r"[=<>;\s]", line, maxsplit=1)[0]


def compile_pins(file: str, wanted: list[str], overrides: list[str], excludes: list[str]) -> list[str]:
    """The pinned lines uv resolves `wanted` to, each with the packages that ask for it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, lines in {"requirements.in": wanted, "override": overrides, "exclude": excludes}.items():
            (place / name).write_text("\n".join(pin_lines(lines)), encoding="utf-8")
        known = ROOT / file
        (place / "out").write_text(known.read_text(encoding="utf-8") if known.exists() else "", encoding="utf-8")
        command = ["uv", "pip", "compile", "requirements.in", "--overrides", "override", "--excludes", "exclude"]
        options = ["--universal", "--python-version", "3.11", "--fork-strategy", "fewest", "--no-header"]
        style = ["--annotation-style", "line", "--quiet", "--output-file", "out"]
        subprocess.run(command + options + style, cwd=place, check=True)
        text = (place / "out").read_text(encoding="utf-8")
    return text.splitlines()


def write_requirements(file: str, purpose: str, lines: list[str]) -> None:
    head = [f"# For {purpose}. Made from requirements.in by `python tools/lock.py`; install with --no-deps."]
    (ROOT / file).write_text("\n".join(head + lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
