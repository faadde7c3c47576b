"""The process that accesses the Hub: `python -m trainer_core.data.hub.child`.

A data set's own code never runs: `datasets` 4 has no loading scripts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer_core.errors import DataError
from trainer_core.models import hub
from trainer_core.system import durable
from trainer_core.system.child_process import serve_requests
from trainer_core.system.network import HUB, is_reachable


def configure_hub() -> None:
    """Call before importing the Hub's libraries."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not is_reachable(os.environ.get("HF_ENDPOINT", HUB)):
        os.environ["HF_HUB_OFFLINE"] = "1"  # otherwise retries take half a minute; cached data is still found


@contextmanager
def explain_hub_errors(name: str) -> Iterator[None]:
    """Checks the Hub's answers, and raises DataError for errors that the user can fix."""
    import httpx
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    hub.use_checked_client()
    try:
        yield
    except hub.UnsafeName as error:
        raise DataError("datasets.bad_name", name=name, given=str(error)[:100]) from error
    except (ConnectionError, OfflineModeIsEnabled) as error:
        raise DataError("datasets.unreachable", name=name) from error
    except DatasetNotFoundError as error:
        raise DataError("datasets.unknown", name=name) from error
    except HfHubHTTPError as error:
        raise DataError("datasets.refused", name=name, error=str(error).splitlines()[0]) from error
    except httpx.HTTPError as error:  # the line broke, or redirects without end
        raise DataError("datasets.broken_off", name=name, reason=str(error) or type(error).__name__) from error
    except (ValueError, RuntimeError, FileNotFoundError) as error:  # `datasets` cannot read the data set
        raise DataError("datasets.unreadable", name=name, error=str(error).splitlines()[0]) from error


def query_splits(name: str) -> list[dict[str, Any]]:
    with explain_hub_errors(name):
        from datasets import get_dataset_config_names, get_dataset_split_names

        found = [
            {"config": config, "split": split}
            for config in get_dataset_config_names(name)
            for split in get_dataset_split_names(name, config)
        ]
    return sorted(found, key=lambda part: "train" not in part["split"])


def fetch_split(name: str, config: str, split: str, path: str) -> Iterable[Any]:
    """The file appears under its name only when complete."""
    with explain_hub_errors(name):
        from datasets import load_dataset

        staging = Path(f"{path}.staging")
        load_dataset(name, config, split=split).to_parquet(staging)
        durable.flush_to_disk(staging)
        durable.publish_staged(staging, Path(path))
    return ()


if __name__ == "__main__":
    configure_hub()
    serve_requests({"query_splits": query_splits, "fetch_split": fetch_split})
