"""Converts a merged model to GGUF by llama.cpp's own code, in a process of its own.

The conversion code comes in the wheel of auto-round. Its folder is all that is loaded of that package: the package itself
would load a quantiser. `python -m trainer_core.export.gguf_child` answers requests from stdin.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from trainer_core.errors import ModelError
from trainer_core.export.lora_gguf import write_lora
from trainer_core.system.child_process import serve_requests

PACKAGE, INNER = "auto_round", ("export", "export_to_gguf")


@dataclass(frozen=True)
class Converted:
    """bytes: of the file."""

    bytes: int


def main() -> None:
    serve_requests({"convert": convert, "convert_lora": convert_lora})


def convert(folder: str, target: str, file_type: str) -> Iterator[Converted]:
    """Write the model of a folder as a GGUF file.

    Args:
        file_type: a name of llama.cpp's LlamaFileType, such as MOSTLY_Q8_0.

    Raises:
        ModelError: llama.cpp does not know the model or its tokenizer.
    """
    with open_model(folder, target, file_type) as model:
        model.write()
    yield Converted(Path(target).stat().st_size)


def convert_lora(folder: str, adapter: str, target: str) -> Iterator[Converted]:
    """Write an adapter of the base in a folder as a GGUF file.

    Raises:
        ModelError: llama.cpp does not know the model, or its format cannot hold this adapter.
    """
    with open_model(folder, target, "MOSTLY_F16") as model:
        write_lora(model, Path(adapter), Path(target))
    yield Converted(Path(target).stat().st_size)


@contextmanager
def open_model(folder: str, target: str, file_type: str) -> Iterator[Any]:
    """llama.cpp's class of a model, to be written.

    Raises:
        ModelError: there is none.
    """
    conversion = import_conversion()
    import gguf
    import torch

    settings = conversion.ModelBase.load_hparams(Path(folder), False)
    try:
        name = conversion.get_model_architecture(settings, conversion.ModelType.TEXT)
        kind = conversion.get_model_class(name)
        with torch.inference_mode():
            yield kind(Path(folder), gguf.LlamaFileType[file_type], Path(target))
    except NotImplementedError as error:
        raise ModelError("export.not_convertible", reason=str(error).splitlines()[0][:300]) from error


def import_conversion() -> Any:
    """llama.cpp's conversion package.

    Raises:
        ModelError: it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelError("export.no_converter")
    root = Path(found.submodule_search_locations[0])
    for name, folder in ((PACKAGE, root), (f"{PACKAGE}.utils", root / "utils")):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    os.environ["NO_LOCAL_GGUF"] = "1"
    sys.path.insert(0, str(root.joinpath(*INNER)))
    return importlib.import_module("conversion")


if __name__ == "__main__":
    main()
