"""Which pinned packages a bare CUDA machine lacks: `python -m tools.gpu_packages [--xformers]` prints a line for each.

Versions come from requirements.txt, and what asks for what from its "via" comments; tools/gpu_machine.txt says what is there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
REQUIREMENTS, MACHINE = ROOT / "requirements.txt", ROOT / "tools" / "gpu_machine.txt"
TARGET = {
    "python_full_version": "3.12.3",
    "python_version": "3.12",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
}
DIRECT_REQUIREMENT = "-r requirements.in"
UNUSED_PACKAGES = frozenset({"gradio"})
"""Asked for by requirements.in, and not needed without the page."""
OPTIONAL_PACKAGES = frozenset({"xformers"})
"""Only with `--xformers`: 2 MB more. It makes packed rows fast where torch is older than 2.12."""


@dataclass(frozen=True)
class PinnedPackage:
    """A line of requirements.txt. via: the names that ask for it."""

    requirement: Requirement
    via: frozenset[str]

    @property
    def is_for_machine(self) -> bool:
        """Is it for the machine's Python and system?"""
        return self.requirement.marker is None or self.requirement.marker.evaluate(TARGET)


def main() -> None:
    without = OPTIONAL_PACKAGES - {one.removeprefix("--") for one in sys.argv[1:]}
    pins = read_pins(REQUIREMENTS.read_text(encoding="utf-8"))
    sys.stdout.writelines(f"{pin}\n" for pin in missing_packages(pins, machine_packages(), without))


def read_pins(text: str) -> dict[str, PinnedPackage]:
    """The lines of a pinned file by name."""
    found = dict[str, PinnedPackage]()
    for line in text.splitlines():
        pin, _, comment = line.partition("  # via ")
        if pin.strip() and not pin.startswith("#"):
            requirement = Requirement(re.sub(r"\s*#.*", "", pin))
            found[requirement.name] = PinnedPackage(requirement, frozenset(comment.strip().split(", ")))
    return found


def machine_packages() -> dict[str, str]:
    """Name → version of what the machine has; the version empty where it was not read."""
    lines = MACHINE.read_text(encoding="utf-8").splitlines()
    names = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {name: release for name, _, release in names}


def missing_packages(
    pins: Mapping[str, PinnedPackage], there: Mapping[str, str], without: frozenset[str] = OPTIONAL_PACKAGES
) -> Sequence[str]:
    """Pins to carry, as `name==version`: what is asked for, by us or by something that is carried, and is not there."""
    left_out = set(there) | UNUSED_PACKAGES | without
    carried = set[str]()

    def wanted(pin: PinnedPackage) -> bool:
        return DIRECT_REQUIREMENT in pin.via or bool(pin.via & carried)  # what is there has what it needs

    while more := {
        name for name, pin in pins.items() if name not in left_out | carried and pin.is_for_machine and wanted(pin)
    }:
        carried |= more
    return [f"{name}{pins[name].requirement.specifier}" for name in sorted(carried)]


if __name__ == "__main__":
    main()
