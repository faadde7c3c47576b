"""The folder of this project."""

from __future__ import annotations

from pathlib import Path

from trainer_core.system.durable import write_atomically as write_atomically

PROJECT = Path(__file__).resolve().parents[2]
