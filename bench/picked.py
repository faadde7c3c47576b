"""Settings that the app picks by itself, on cards of 8 to 24 GB: does the first try fit?

Larger cards stand in for the small ones: torch may use no more than a share of their memory. Four sizes run side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import orjson

from bench import make, models
from bench.probe import recipe as too_large
from bench.probe import workspace
from bench.result import Device, Row, Target
from trainer_core import runs, starter
from trainer_core.advice import DataFacts, Lengths
from trainer_core.chooser import Room, settings_for
from trainer_core.config import Data, Lora, Method, Recipe
from trainer_core.errors import DeviceError
from trainer_core.events import Stage
from trainer_core.hardware import GIB, reserve
from trainer_core.ladder import changed
from trainer_core.run_view import RunView
from trainer_core.shape import shape_of
from trainer_core.supervisor import WORKER, Supervisor

QUESTION = (
    "On cards of 8, 12, 16 and 24 GB, emulated by the share of memory that torch may use: do runs with the settings that the app "
    "picks end without being out of memory, and does one with a batch that is too large end by itself?"
)
DEVICES: tuple[Device, ...] = ("cuda",)
CAPS = (8, 12, 16, 24)
"""GB of the cards that are emulated."""
CONTEXT = 0.6 * GIB
"""Of an emulated card, what torch does not count."""
LARGE, MIDDLE, SMALL = models.SHAPES
METHODS = (Method.SFT, Method.DPO, Method.SFT_DPO)
PICKS: tuple[tuple[str, Method], ...] = (
    *((name, method) for name in (SMALL, MIDDLE) for method in METHODS),
    (LARGE, Method.SFT),
    (LARGE, Method.DPO),
)
"""Eight for each size of card; what the app itself refuses there is no run."""
PICKED, GREW = "Runs with picked settings that never ran out of memory", "256 × 1,024 tokens on {gib} GB"
OPEN: tuple[Row, ...] = (
    Row("G10", PICKED, "%", target=Target("ours", "≥", 100)),
    *(Row("G10", GREW.format(gib=gib), "of 1", target=Target("ours", "≥", 1)) for gib in CAPS),
)
LIMIT_SECONDS = 540.0
WORDS = (20, 40, 80, 160, 320, 1200)
TOKENS = Lengths(((0.5, 200), (0.9, 700), (0.95, 1500), (0.99, 2000), (1.0, 2400)))
"""About what rows of so many words become; the worker counts them anew."""
CAPPED = """
import sys
from functools import partial
from pathlib import Path
from trainer_core import keeper, worker
def work(share, folder):
    from trainer_core import engine
    import torch
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
    return worker.main(folder)
folder = Path(sys.argv[2])
sys.exit(keeper.kept(partial(work, float(sys.argv[1]), folder), partial(worker.killed, folder)))
"""


@dataclass(frozen=True)
class Stand:
    """Where the runs of a bench take what they share."""

    place: Path
    device: Device
    tiny: bool
    until: float


def run(device: Device, tiny: bool) -> list[Row]:
    with TemporaryDirectory() as scratch:
        stand = Stand(Path(scratch), device, tiny, monotonic() + LIMIT_SECONDS)
        write_data(stand.place, 40 if tiny else 400)
        for name in (SMALL,) if tiny else models.SHAPES:
            shape = ("llama", models.TINY) if tiny else models.SHAPES[name]
            tokenizer = starter.folder(runs.Workspace(runs.default_workspace()))
            models.apart(models.random_model, stand.place / name, tokenizer, *shape)
        caps = CAPS[-1:] if tiny else CAPS
        with ThreadPoolExecutor(len(caps)) as pool:
            rows = list(pool.map(lambda gib: on_card(gib, stand), caps))
    ends = [end for _, found in rows for end in found]
    fine = sum(end == "" for end in ends)
    share = 100 * fine / len(ends) if ends else None
    note = f"{fine} of {len(ends)} runs. " + " ".join(sorted({end for end in ends if end}))
    target = Target("ours", "≥", 100)
    return [Row("G10", PICKED, "%", share, target=target, n=len(ends), note=note), *(row for row, _ in rows)]


def write_data(place: Path, rows: int) -> None:
    """Rows of mixed lengths, some longer than any context that is picked."""
    make.chats(place / "chats.jsonl", rows, WORDS)
    text = make.TEXT.split()
    with (place / "pairs.jsonl").open("wb") as out:
        for at in range(rows):
            long = [text[(at + word) % len(text)] for word in range(WORDS[at % len(WORDS)])]
            sides = {"chosen": " ".join(long), "rejected": " ".join(reversed(long))}
            out.write(orjson.dumps({"prompt": f"Say {at}."} | sides, option=orjson.OPT_APPEND_NEWLINE))


def on_card(gib: int, stand: Stand) -> tuple[Row, list[str]]:
    """How the picked runs of one size of card ended, and the one that is too large from the start."""
    grew = capped(gib, stand)
    ends = list[str]()
    for name, method in PICKS[-1:] if stand.tiny else PICKS:
        if monotonic() > stand.until:
            break
        with suppress(DeviceError):  # the app says itself that it does not fit
            ends.append(ended(picked(gib, SMALL if stand.tiny else name, method, stand), gib, stand))
    return grew, ends


def picked(gib: int, name: str, method: Method, stand: Stand) -> Recipe:
    """Three steps a stage with what the app would choose.

    Raises:
        DeviceError: it chooses nothing, since nothing fits.
    """
    model = stand.place / name
    shape = shape_of(orjson.loads((model / "config.json").read_bytes()))
    room = Room("cpu" if stand.device == "cpu" else "cuda", gib * GIB - reserve(gib * GIB))
    base = Recipe(
        model=str(model),
        method=method,
        data=Data(
            chat=str(stand.place / "chats.jsonl") if "sft" in method.stages else None,
            pairs=str(stand.place / "pairs.jsonl") if "dpo" in method.stages else None,
        ),
        lora=Lora(),
        sample_tokens=0,
    )
    settled = settings_for(room, shape, method, DataFacts(400, 400, TOKENS, TOKENS)).applied(base)
    few: dict[str, object] = {f"{stage}.max_steps": 3 for stage in method.stages}
    return changed(settled, few | {f"{stage}.evaluations": 0 for stage in method.stages})


def ended(asked: Recipe, gib: int, stand: Stand) -> str:
    """Nothing where a run came to its end at the first try; else in words what happened."""
    with workspace() as place:
        view = followed(place, asked, gib, stand)
    what = f"{Path(asked.model).name}, {asked.method}, {gib} GB"
    if view.error:
        return f"{what}: {view.error}"
    return f"{what}: out of memory {len(view.out_of_memory)} times." if view.out_of_memory else ""


def capped(gib: int, stand: Stand) -> Row:
    """Does a run with too large a batch come to its end by itself, and with the same effective batch?"""
    stage: Stage = "sft"
    batch, length = (4, 64) if stand.tiny else (256, 1024)
    with workspace() as place:
        asked = changed(too_large(place, stage, batch, length), {"sft.accumulation": 1})
        view = followed(place, asked, gib, stand)
    used = {one.what: int(one.used) for one in view.changes if one.what.startswith("sft.")}
    fitted, accumulation = used.get("sft.batch_size", batch), used.get("sft.accumulation", 1)
    how = view.error or "came to its end"
    note = f"{len(view.out_of_memory)} smaller settings, batch {fitted} × {accumulation}; {how}"
    right = float(not view.error and fitted * accumulation == batch)
    return Row("G10", GREW.format(gib=gib), "of 1", right, target=Target("ours", "≥", 1), n=1, note=note)


def followed(place: runs.Workspace, asked: Recipe, gib: int, stand: Stand) -> RunView:
    """A run under the app to its end, on a card of this size."""
    card = Supervisor(place, WORKER, device=stand.device).gpu
    share = (gib * GIB - CONTEXT) / card.total_bytes if card else 1.0
    command: Sequence[str] = (sys.executable, "-c", CAPPED, str(share))
    supervisor = Supervisor(place, command, device=stand.device)
    run_id = supervisor.start(asked)
    while supervisor.run(run_id).phase.active:
        sleep(0.1)
        supervisor.look()
    view = supervisor.run(run_id)
    supervisor.close()
    return view
