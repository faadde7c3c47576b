"""What memory really took on this computer, by device, versions, model, format and method; kept in the workspace.

A later plan for the same model takes these numbers for its own, whatever rank, batch or length it has.
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
    """What measured.json holds."""

    known: dict[str, Measurement] = {}


@dataclass(frozen=True)
class MeasuredMemory:
    """What was measured on one device, to be asked for each setup."""

    device: str = ""
    found: tuple[tuple[str, Measurement], ...] = ()

    @classmethod
    def for_device(cls, device: str, found: Mapping[str, Measurement]) -> MeasuredMemory:
        """`device`: a card's UUID, or the processor's name. `found`: see `recall`."""
        return cls(device, tuple((name, one) for name, one in found.items() if name.startswith(f"{device} ")))

    def find(self, setup: StageSetup) -> Measurement | None:
        if not self.found:
            return None
        wanted = measurement_key(self.device, setup)
        return next((one for name, one in self.found if name == wanted), None)


def measurement_key(device: str, setup: StageSetup) -> str:
    """What a measurement holds for. `device`: a card's UUID, or the processor's name.

    Rows of other kernels, and checkpoints in another memory, take another number of bytes for a token.
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
    """Everything measured so far; nothing where the file is missing or of another version."""
    try:
        return MeasurementFile.model_validate_json((workspace.root / "measured.json").read_bytes()).known
    except (FileNotFoundError, ValidationError):
        return {}


def save_measurement(workspace: Workspace, name: str, found: Measurement) -> None:
    """Keep a measurement in the place of an earlier one.

    Raises:
        DiskError: it cannot be written.
    """
    known = MeasurementFile(known={**load_measurements(workspace), name: found})
    write_atomically(workspace.root / "measured.json", known.model_dump_json(indent=1))


@dataclass(frozen=True)
class ProbePoint:
    """A micro-batch of so many tokens had this peak, and took this long."""

    tokens: int
    bytes: int
    seconds: float = 0.0


def extrapolate_peak(points: Sequence[ProbePoint], tokens: int) -> float:
    """The peak at so many tokens, on the line through the last two points."""
    first, last = points[-2:]
    return last.bytes + (tokens - last.tokens) * bytes_per_token(first, last)


def bytes_per_token(first: ProbePoint, last: ProbePoint) -> float:
    """Bytes for one more token; memory never falls with tokens, whatever the noise."""
    return max(0.0, (last.bytes - first.bytes) / max(1, last.tokens - first.tokens))


def fit_measurement(points: Sequence[ProbePoint], optimiser: int, setup: StageSetup) -> Measurement:
    """What holds for other ranks, batches and lengths too: bytes a token, and what is neither that nor exactly known."""
    first, last = points[-2:]
    per_token = bytes_per_token(first, last)
    rest = last.bytes + optimiser - per_token * last.tokens - sum(static_parts(setup).values())
    return Measurement(per_token=per_token, rest=rest)
