"""The process that asks the Hub: `python -m trainer_core.data.hub.child parts NAME` or `… fetch NAME CONFIG SPLIT FILE`.

It ends with 0 and its answer, or with 1 and one sentence for the user. No data set's own code is ever run: `datasets` 4 has
no loading scripts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from trainer_core.system import durable
from trainer_core.system.network import HUB, is_reachable


def main(asked: Sequence[str]) -> int:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not is_reachable(os.environ.get("HF_ENDPOINT", HUB)):
        os.environ["HF_HUB_OFFLINE"] = "1"  # else half a minute goes by with retries; what is cached is still found
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    said = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdout = sys.stderr  # progress bars and warnings must not get into the answer
    what, name, *rest = asked
    try:
        said.write(query_splits(name) if what == "parts" else fetch_split(name, *rest))
    except (ConnectionError, OfflineModeIsEnabled):
        return send_refusal(
            said, f"{name}: the Hub cannot be reached, and this data set is not cached on this computer."
        )
    except DatasetNotFoundError:
        why = "There is no such data set on the Hub, or it asks for a login"
        return send_refusal(said, f"{name}: {why}. Check the name, or type the path of a file.")
    except HfHubHTTPError as error:
        return send_refusal(said, f"{name}: the Hub answered {str(error).splitlines()[0]}")
    except (ValueError, RuntimeError, FileNotFoundError) as error:  # what `datasets` says about sets it cannot read
        return send_refusal(said, f"{name}: this data set cannot be read: {str(error).splitlines()[0]}")
    return 0


def send_refusal(said, sentence: str) -> int:  # type: ignore[no-untyped-def]
    said.write(sentence.encode())
    return 1


def query_splits(name: str) -> bytes:
    from datasets import get_dataset_config_names, get_dataset_split_names

    found = [
        {"config": config, "split": split}
        for config in get_dataset_config_names(name)
        for split in get_dataset_split_names(name, config)
    ]
    return orjson.dumps(sorted(found, key=lambda part: "train" not in part["split"]))


def fetch_split(name: str, config: str, split: str, place: str) -> bytes:
    """The file appears under its name only when all of it is there."""
    from datasets import load_dataset

    staging = Path(f"{place}.staging")
    load_dataset(name, config, split=split).to_parquet(staging)
    durable.flush_to_disk(staging)
    durable.publish_staged(staging, Path(place))
    return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
