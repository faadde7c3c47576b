"""Memory measured on this computer, by device, versions, model, format and method; stored in the workspace.

Later plans for the same model use these numbers, for any rank, batch or length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from pydantic import ValidationError

from trainer_core.planning.memory_model import Measurement, StageSetup, static_parts
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import StrictModel
from trainer_core.system.durable import write_atomically

VERSIONED_PACKAGES = ("torch", "unsloth", "trl")


class MeasurementFile(StrictModel):
    """Contents of measured.json."""

    known: dict[str, Measurement] = {}


@dataclass(frozen=True)
class MeasuredMemory:
    """Measurements of one device, looked up by setup."""

    device: str = ""
    found: tuple[tuple[str, Measurement], ...] = ()

    @classmethod
    def for_device(cls, device: str, found: Mapping[str, Measurement]) -> MeasuredMemory:
        """`device`: a card's UUID, or the processor's name. `found`: see `load_measurements`."""
        return cls(device, tuple((name, one) for name, one in found.items() if name.startswith(f"{device} ")))

    def find(self, setup: StageSetup) -> Measurement | None:
        if not self.found:
            return None
        wanted = measurement_key(self.device, setup)
        return next((one for name, one in self.found if name == wanted), None)


def measurement_key(device: str, setup: StageSetup) -> str:
    """Key of a measurement. `device`: a card's UUID, or the processor's name.

    Other kernels, and checkpoints in another memory, change the bytes per token.
    """
    shape = setup.shape
    sizes = (shape.family, shape.layers, shape.hidden, shape.mlp, shape.query, shape.key, shape.vocabulary)
    method = type(setup.training).__name__.lower()
    ways = ("slow" if setup.is_slow_path else "fast", "long" if setup.is_long else "short")
    return " ".join(map(str, (device, *library_versions(), *sizes, setup.base, method, *ways)))


@cache
def library_versions() -> tuple[str, ...]:
    return tuple(version(name) for name in VERSIONED_PACKAGES)


def load_measurements(workspace: Workspace) -> dict[str, Measurement]:
    """All measurements so far; empty if the file is missing or of another version."""
    try:
        return MeasurementFile.model_validate_json((workspace.root / "measured.json").read_bytes()).known
    except (FileNotFoundError, ValidationError):
        return {}


def save_measurement(workspace: Workspace, name: str, found: Measurement) -> None:
    """Store a measurement and replace an earlier one.

    Raises:
        DiskError: it cannot be written.
    """
    known = MeasurementFile(known={**load_measurements(workspace), name: found})
    write_atomically(workspace.root / "measured.json", known.model_dump_json(indent=1))


@dataclass(frozen=True)
class ProbePoint:
    """Peak and duration of a micro-batch with this many tokens."""

    tokens: int
    bytes: int
    seconds: float = 0.0


def extrapolate_peak(points: Sequence[ProbePoint], tokens: int) -> float:
    """The peak at this many tokens, on the line through the last two points."""
    first, last = points[-2:]
    return last.bytes + (tokens - last.tokens) * bytes_per_token(first, last)


def bytes_per_token(first: ProbePoint, last: ProbePoint) -> float:
    """Bytes per extra token, at least 0: memory never falls with more tokens, apart from noise."""
    return max(0.0, (last.bytes - first.bytes) / max(1, last.tokens - first.tokens))


def fit_measurement(points: Sequence[ProbePoint], optimiser: int, setup: StageSetup) -> Measurement:
    """The part valid for other ranks, batches and lengths too: bytes per token, and the rest that is not exactly known."""
    first, last = points[-2:]
    per_token = bytes_per_token(first, last)
    rest = last.bytes + optimiser - per_token * last.tokens - sum(static_parts(setup).values())
    return Measurement(per_token=per_token, rest=rest)
