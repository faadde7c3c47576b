"""Settings that the app picks by itself, on cards of 8 to 24 GB: does the first try fit?

Larger cards stand in for the small ones: torch may use no more than a share of their memory. The sizes run side by side, each
with a home of its own, since the app lets one worker of a user onto a card. `python -m bench picked --sizes 8,12 --budget 480
--results FILE.jsonl` makes as many of the runs as there is time for; the next call makes the others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from signal import SIGKILL
from time import sleep
from typing import Any

from bench.harness import fixtures, models
from bench.harness.journal import BenchCall, JournalEntry
from bench.harness.result import BenchRow, Device, Target, stamp_measured_row
from bench.suites.gpu_child import describe_device as read_place
from bench.suites.memory_probe import probe_recipe as too_large
from bench.suites.memory_probe import starter_workspace
from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Data, Lora, MethodChain, Recipe
from trainer_core.errors import DeviceError
from trainer_core.jobs.spawn import WORKER_COMMAND
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.base import DatasetStats, LengthQuantiles
from trainer_core.models import architecture
from trainer_core.planning.fitting import MemoryBudget, fit_settings
from trainer_core.runs import heartbeat
from trainer_core.runs.events import Stage
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace, ensure_dir
from trainer_core.system.format import GIB
from trainer_core.system.hardware import reserve_bytes

QUESTION = (
    "On cards of 8, 12, 16 and 24 GB, emulated by the share of memory that torch may use: do runs with the settings that the app "
    "picks end without being out of memory, and does one with a batch that is too large end by itself?"
)
DEVICES: tuple[Device, ...] = ("cuda",)
SIZES = ("8", "12", "16", "24")
"""GB of the cards that are emulated."""
CONTEXT = 0.6 * GIB
"""Of an emulated card, what torch does not count."""
LARGE, MIDDLE, SMALL = models.SHAPES
WORDS: dict[str, tuple[int, ...]] = {
    "short": (20, 40, 80), "mixed": (20, 40, 80, 160, 320, 1200), "long": (800, 1200, 1600)
}  # fmt: skip
"""Words of the rows, in turns; some of the long ones are longer than any context that is picked."""
TOKENS = {
    "short": LengthQuantiles(((0.5, 60), (0.9, 110), (0.95, 110), (0.99, 110), (1.0, 120))),
    "mixed": LengthQuantiles(((0.5, 200), (0.9, 700), (0.95, 1500), (0.99, 2000), (1.0, 2400))),
    "long": LengthQuantiles(((0.5, 1400), (0.9, 1900), (0.95, 1900), (0.99, 1900), (1.0, 2400))),
}
"""About what rows of so many words become; the worker counts them anew."""
PICKS = tuple(product((SMALL, MIDDLE, LARGE), (MethodChain("sft"), MethodChain("dpo"), MethodChain("sft+dpo")), WORDS))
"""Twenty-seven for each size of card; what the app itself refuses there is no run."""
PICKED, GREW = "Runs with picked settings that never ran out of memory", "256 × 1,024 tokens on {gib} GB"
OPEN: tuple[BenchRow, ...] = (
    BenchRow("G10", PICKED, "%", target=Target("ours", "≥", 100)),
    *(BenchRow("G10", GREW.format(gib=gib), "of 1", target=Target("ours", "≥", 1)) for gib in SIZES),
)


@dataclass(frozen=True)
class SuiteContext:
    """Where the runs of a call take what they share, and where they were made."""

    place: Path
    device: Device
    tiny: bool
    call: BenchCall
    where: dict[str, str]
    made: Mapping[str, Path]
    """The models, by their names."""

    def find(self, key: dict[str, Any]) -> JournalEntry | None:
        return self.call.journal.find(key, self.where["card"], self.where["torch"])

    def picks(self, gib: str) -> list[tuple[dict[str, Any], Recipe]]:
        """The runs of a size of card: their keys in the results file, and their recipes."""
        found = list[tuple[dict[str, Any], Recipe]]()
        for name, method, rows in PICKS[:1] if self.tiny else PICKS:
            with suppress(DeviceError):  # the app says itself that it does not fit
                key = {"picked": name, "method": str(method), "rows": rows, "gib": gib, "tiny": self.tiny}
                found.append((key, pick_recipe(int(gib), name, method, rows, self)))
        return found

    def grew(self, gib: str) -> dict[str, Any]:
        return {"grew": gib, "tiny": self.tiny}


def resume(place: Path, device: Device, tiny: bool, call: BenchCall) -> list[BenchRow]:
    """Make the runs that are missing, and the rows of all that were made."""
    os.environ.update(models.compile_caches(call.journal.file.stem))  # not below the homes of the emulated cards
    names = dict.fromkeys(name for name, *_ in (PICKS[:1] if tiny else PICKS))
    made = {name: Path(name) if call.is_over else models.cache_model(name, tiny) for name in names}
    stand = SuiteContext(place, device, tiny, call, models.build_in_child(read_place), made)
    for name, words in WORDS.items():
        fixtures.write_chats(stand.place / f"chats-{name}.jsonl", 40 if tiny else 400, words)
        fixtures.write_answer_pairs(stand.place / f"pairs-{name}.jsonl", 40 if tiny else 400, words)
    sizes = SIZES[-1:] if tiny else SIZES
    asked = [gib for gib in sizes if gib in (call.only or SIZES)]
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        list(pool.map(lambda gib: measure_card(gib, stand), asked))
    return [success_row(sizes, stand), *(fallback_row(gib, stand) for gib in sizes)]


def measure_card(gib: str, stand: SuiteContext) -> None:
    """Make the runs of one size of card that are missing, the one that is too large first."""
    picked = ((key, partial(run_picked, recipe, gib, stand)) for key, recipe in stand.picks(gib))
    for key, run in ((stand.grew(gib), partial(run_oversized, gib, stand)), *picked):
        if not stand.find(key) and not stand.call.is_over and (value := run()):
            stand.call.journal.add(JournalEntry(key, value, stand.where))


def success_row(sizes: Sequence[str], stand: SuiteContext) -> BenchRow:
    """The share of all runs so far that never ran out of memory."""
    keys = [key for gib in sizes for key, _ in stand.picks(gib)]
    made = [entry for entry in map(stand.find, keys) if entry]
    ends = [str(entry.value["end"]) for entry in made]
    fine = sum(not end for end in ends)
    note = f"{fine} of {len(ends)} runs, of {len(keys)} that the app picks settings for. "
    note += " ".join(sorted({end for end in ends if end}))
    if not made:
        return replace(OPEN[0], note=note)
    row = replace(OPEN[0], ours=100 * fine / len(ends), n=len(ends), note=note)
    return stamp_measured_row(row, stand.device, stand.tiny, stand.where, max(entry.date for entry in made))


def fallback_row(gib: str, stand: SuiteContext) -> BenchRow:
    row = next(row for row in OPEN if row.what == GREW.format(gib=gib))
    entry = stand.find(stand.grew(gib))
    if entry is None:
        return row
    row = replace(row, ours=float(entry.value["right"]), n=1, note=entry.value["note"])
    return stamp_measured_row(row, stand.device, stand.tiny, entry.where, entry.date)


def pick_recipe(gib: int, name: str, method: MethodChain, rows: str, stand: SuiteContext) -> Recipe:
    """Three steps a stage with what the app would choose.

    Raises:
        DeviceError: it chooses nothing, since nothing fits.
    """
    kind, full = models.SHAPES[name]
    sizes = {"vocab_size": 49_152, **models.TINY} if stand.tiny else full
    room = MemoryBudget("cpu" if stand.device == "cpu" else "cuda", gib * GIB - reserve_bytes(gib * GIB))
    base = Recipe(
        model=str(stand.made[name]),
        method=method,
        data=Data(
            chat=str(stand.place / f"chats-{rows}.jsonl") if "sft" in method.stages else None,
            pairs=str(stand.place / f"pairs-{rows}.jsonl") if "dpo" in method.stages else None,
        ),
        lora=Lora(),
        sample_tokens=0,
    )
    facts = DatasetStats(400, 400, TOKENS[rows], TOKENS[rows])
    shape = architecture.parse_architecture({"model_type": kind, **sizes})
    settled = fit_settings(room, shape, method, facts).apply_to_recipe(base)
    few = {
        f"{stage}.{name}": value for stage in method.stages for name, value in (("max_steps", 3), ("evaluations", 0))
    }
    return with_changes(settled, few)


def run_picked(asked: Recipe, gib: str, stand: SuiteContext) -> dict[str, Any] | None:
    """An empty end where a run came to its end at the first try; else in words what happened. None: it was cut."""
    with starter_workspace() as place:
        view = follow_capped_run(place, asked, gib, stand)
    if view is None:
        return None
    what, tries = f"{Path(asked.model).name}, {asked.method}, {gib} GB", len(view.out_of_memory)
    end = f"{what}: {view.error}" if view.error else f"{what}: out of memory {tries} times." if tries else ""
    return {"end": end}


def run_oversized(gib: str, stand: SuiteContext) -> dict[str, Any] | None:
    """Does a run with too large a batch come to its end by itself, and with the same effective batch? None: it was cut."""
    stage: Stage = "sft"
    batch, length = (4, 64) if stand.tiny else (256, 1024)
    with starter_workspace() as place:
        asked = with_changes(too_large(place, stage, batch, length), {"sft.accumulation": 1})
        view = follow_capped_run(place, asked, gib, stand)
    if view is None:
        return None
    used = {one.what: int(one.used) for one in view.changes if one.what.startswith("sft.")}
    fitted, accumulation = used.get("sft.batch_size", batch), used.get("sft.accumulation", 1)
    how = view.error or "came to its end"
    note = f"{len(view.out_of_memory)} smaller settings, batch {fitted} × {accumulation}; {how}"
    return {"right": not view.error and fitted * accumulation == batch, "note": note}


def follow_capped_run(place: Workspace, asked: Recipe, gib: str, stand: SuiteContext) -> RunState | None:
    """A run under the app to its end, on a card of this size. None: it was cut by the end of the budget."""
    card = Supervisor(place, WORKER_COMMAND, device=stand.device).device.gpu
    share = (int(gib) * GIB - CONTEXT) / card.total_bytes if card else 1.0
    home = ensure_dir(stand.place / f"home-{gib}")
    capped = (sys.executable, "-m", "bench.harness.capped_worker", str(share), str(home), str(os.getpid()))
    supervisor = Supervisor(place, capped, device=stand.device)
    run_id = supervisor.control.start(asked)
    while supervisor.registry.run_state(run_id).phase.is_active and stand.call.seconds_left > 0:
        sleep(0.1)
        supervisor.registry.refresh()
    view = supervisor.registry.run_state(run_id)
    if view.phase.is_active and (beat := heartbeat.read_heartbeat(supervisor.registry.run_dir(run_id))):
        with suppress(ProcessLookupError):
            os.killpg(os.getpgid(beat.pid), SIGKILL)
    supervisor.close()
    return None if view.phase.is_active else view
