"""The process that imports a checkpoint: reads a request from stdin, writes an answer to a file.

It is a process of its own because an export may need more memory than the machine has; whoever
starts it can end it.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from varfix.engine.errors import ConfigError, ModelContractError, VarfixError
from varfix.engine.models.card import ModelCard
from varfix.engine.system.atomic import translate_os_errors
from varfix.onnx.export.companions import INSTALL, load_spandrel
from varfix.onnx.export.import_job import ImportAnswer, ImportFailure, ImportRequest

if TYPE_CHECKING:
    from varfix.onnx.export.published_networks import PublishedNetwork


def run_request(request: ImportRequest) -> ImportAnswer:
    """Import a checkpoint.

    Raises:
        ConfigError: A package is missing, or the license of the network needs a consent.
        ModelError: The checkpoint is missing, damaged, or not a restorer of images.
        OutputError: The files cannot be written, or the disk is full.
    """
    _require_packages()
    import torch

    from varfix.engine.networks.checkpoints.tensors import read_tensors
    from varfix.onnx.export.published_export import ExportPreferences, export_published
    from varfix.onnx.export.published_networks import own_architecture, recognize

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    path, target = Path(request.checkpoint), Path(request.target)
    state = read_tensors(path)
    own = own_architecture(state)
    if own:
        return ImportAnswer(own=own)
    library = load_spandrel()
    network = recognize(path, state, library)
    if network.noncommercial and not request.allow_noncommercial:
        raise ConfigError(
            f"{path.name}: {network.name} forbids commercial use ({network.license})",
            hint="use --allow-noncommercial if your use is not commercial",
        )
    card = ModelCard(
        name=target.stem,
        licence=request.licence,
        tile=1,
        multiple=1,
        overlap=0,
        training=request.training,
        about=_about(network),
    )
    preferences = ExportPreferences(request.tile, request.free_size, request.fp16)
    with translate_os_errors(target):
        card = export_published(network, target, card, preferences)
    return ImportAnswer(card=card, notes=library.notes)


def _about(network: PublishedNetwork) -> str:
    # A state dict also holds masks and indices, which are no parameters.
    millions = sum(weights.numel() for weights in network.graph.parameters()) / 1e6
    return f"{network.name}, {millions:.1f} M parameters, imported from a checkpoint"


def _require_packages() -> None:
    """Name the missing package before anything is read (ConfigError)."""
    try:
        import onnx_ir  # noqa: F401
        import onnxscript  # noqa: F401
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise ConfigError(
            f"varfix models import requires {missing}, which is not installed", hint=INSTALL
        ) from error


def answer(request: ImportRequest) -> ImportAnswer:
    """Run a request; return errors as part of the answer."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of the networks' code
            return run_request(request)
    except VarfixError as error:
        failure = ImportFailure(error.code, error.message, error.hint)
    except MemoryError:
        failure = ImportFailure("host_oom", "the import does not fit in memory", "use --tile 128")
    except Exception as error:  # networks of other projects can raise anything
        traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        failure = ImportFailure(
            ModelContractError.code, f"{Path(request.checkpoint).name}: cannot be imported ({text})"
        )
    return ImportAnswer(failure=failure)


def main() -> None:
    """Read a request from stdin; write the answer to the file that is the only argument."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=ImportRequest)
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(answer(request)))


if __name__ == "__main__":
    main()
