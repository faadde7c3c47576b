"""The installed versions of the packages that decide a run's numbers."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

RECORDED_PACKAGES = ("unsloth", "unsloth_zoo", "torch", "trl", "transformers", "peft", "datasets", "bitsandbytes")


@cache
def recorded_versions() -> dict[str, str]:
    return {name: version(name) for name in RECORDED_PACKAGES}
