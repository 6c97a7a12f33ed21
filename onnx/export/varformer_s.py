"""Export VarFormer-S to ONNX files with a model card, then compare the files with the network.

The network becomes two graphs: `NAME.onnx` restores tiles, `NAME.prior.onnx` computes the prior
from a thumbnail of the whole image. The tile's height and width stay symbolic until a session
opens, so that one file serves every tile size while the runtime still plans for fixed shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from varfix.engine.models.card import TASKS, ModelCard
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.judge import CROP, PLACES
from varfix.engine.networks.varformer_s.model import VarformerS, build_varformer_s
from varfix.engine.networks.varformer_s.prior import MAP_CHANNELS, THUMBNAIL, PriorNetwork
from varfix.engine.networks.varformer_s.unet import MULTIPLE, RestorerNetwork
from varfix.engine.train.checkpoint import load_weights
from varfix.onnx.export.fp16 import round_weights_to_fp16, store_weights_as_fp16
from varfix.onnx.export.graph_passes import (
    name_sizes,
    replace_split_sequences,
    strip_exporter_metadata,
)
from varfix.onnx.export.parity import Feeds, check_against
from varfix.onnx.export.trace import OPSET, silent_exporter
from varfix.onnx.files.card import prior_path, write_card

Arrays = npt.NDArray[Any]
STRIDE: Final = 16
"""Pixels of a tile per cell of the prior, along each axis."""


class PriorGraph(nn.Module):
    """The prior with the inputs and outputs of the model contract (engine/README.md).

    The network does not depend on the export; the wrapper joins the whole prior into one map.

    """

    def __init__(self, network: PriorNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, thumbnail: Tensor, task: Tensor, crops: Tensor, probabilities: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the maps, and what was found.

        Args:
            thumbnail: (1, 3, 256, 256) in [0, 1].
            task: (1,) int64.
            crops: (1, 5, 3, 64, 64) in [0, 1].
            probabilities: (1, 2, 6) in [0, 1], to act on in place of the first two rows of what
                is found; negative where those count.

        Returns:
            Maps (1, 422, 16, 16), and `Prior.found` (1, 4, 6).
        """
        prior = self.network(thumbnail, task, crops, probabilities)
        return prior.maps, prior.found


class RestoreGraph(nn.Module):
    """The restorer with the inputs and outputs of the model contract; results are clamped."""

    def __init__(self, network: RestorerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, tile: Tensor, prior: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [0, 1] and (B, 422, H / 16, W / 16) to (B, 3, H, W) in [0, 1]."""
        restored, _ = self.network(tile, prior)
        return restored.clamp(0.0, 1.0)


def varformer_s_card(name: str, training: str) -> ModelCard:
    """Return the card of an exported VarFormer-S."""
    return ModelCard(
        name=name,
        licence="Apache-2.0",
        tile=512,
        multiple=MULTIPLE,
        overlap=32,
        tasks=TASKS,
        guidance="image",
        thumbnail=THUMBNAIL,
        prior_channels=MAP_CHANNELS,
        prior_stride=STRIDE,
        about="VarFormer-S: next-scale prior for the image, convolutional restorer for tiles",
        training=training,
    )


def export_varformer_s(checkpoint: Path, target: Path, training: str = "") -> None:
    """Export trained weights to `target` and the prior graph next to it.

    Args:
        checkpoint: `weights.safetensors` of a training run.
        target: The restore graph to write, `NAME.onnx`.
        training: Description of the training data, for the card.

    Raises:
        ModelMissingError: The checkpoint does not exist.
        ModelContractError: The checkpoint is not a VarFormer-S, or the files disagree with it.
    """
    model = build_varformer_s()
    load_weights(model, checkpoint)
    export_network(model, target, varformer_s_card(target.stem, training))


def export_network(model: VarformerS, target: Path, card: ModelCard) -> None:
    """Export a network and compare the files with it; raises as `export_varformer_s`."""
    round_weights_to_fp16(model)
    model.eval()
    prior, restore = PriorGraph(model.prior), RestoreGraph(model.restorer)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_graph(prior, prior_example(), ["prior", "found"], prior_path(target), card)
    write_graph(restore, restore_example(), ["restored"], target, card)
    check_against(reference_of(prior), prior_path(target), arrays_of(prior_example(seed=1)))
    check_against(reference_of(restore), target, arrays_of(restore_example(seed=1, batch=3)))


def prior_example(seed: int = 0) -> dict[str, Tensor]:
    """Return inputs of the prior graph by name."""
    rng = torch.Generator().manual_seed(seed)
    return {
        "thumbnail": torch.rand(1, 3, THUMBNAIL, THUMBNAIL, generator=rng),
        "task": torch.tensor([seed]),
        "crops": torch.rand(1, len(PLACES), 3, CROP, CROP, generator=rng),
        "probabilities": torch.rand(1, 2, len(KINDS), generator=rng) - seed,
    }


def restore_example(seed: int = 0, batch: int = 2) -> dict[str, Tensor]:
    """Return inputs of the restore graph by name."""
    rng = torch.Generator().manual_seed(seed)
    side = 2 * MULTIPLE
    return {
        "tile": torch.rand(batch, 3, side, side, generator=rng),
        "prior": torch.randn(batch, MAP_CHANNELS, side // STRIDE, side // STRIDE, generator=rng),
    }


def write_graph(
    graph: nn.Module,
    example: dict[str, Tensor],
    outputs: list[str],
    path: Path,
    card: ModelCard,
    store_weights: Callable[[ir.Model], int] = store_weights_as_fp16,
) -> None:
    """Write a graph with its card.

    Args:
        graph: The network.
        example: Its inputs by name; the batch and sides of tiles stay free.
        outputs: Names of its outputs.
        path: The file.
        card: The card.
        store_weights: Makes the weights smaller, in place; the network's are rounded likewise.
    """
    with silent_exporter():
        program = torch.onnx.export(
            graph,
            (),
            kwargs=example,
            input_names=list(example),
            output_names=outputs,
            dynamic_shapes=_dynamic(example),
            opset_version=OPSET,
            dynamo=True,
            # Every weight keeps its name, so that training can begin from an exported model. The
            # runtime folds the constants itself: as fast, and the files are as small (measured).
            optimize=False,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # nothing was written yet, so the exporter returns the program
    store_weights(program.model)
    model = program.model_proto
    if "tile" in example:
        name_sizes(model)
    replace_split_sequences(model)
    strip_exporter_metadata(model)
    onnx.save(model, path)
    write_card(path, card)


def _dynamic(example: dict[str, Tensor]) -> dict[str, dict[int, object]] | None:
    if "tile" not in example:
        return None
    auto = torch.export.Dim.AUTO
    return {name: {0: auto, 2: auto, 3: auto} for name in example}


def reference_of(graph: nn.Module) -> Callable[[Feeds], list[Arrays]]:
    """Return a function that computes the results of a network from arrays."""

    def run(inputs: Feeds) -> list[Arrays]:
        with torch.no_grad():
            result = graph(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return [output.numpy() for output in (result if isinstance(result, tuple) else (result,))]

    return run


def arrays_of(example: dict[str, Tensor]) -> dict[str, Arrays]:
    """Return the inputs as arrays."""
    return {name: value.numpy() for name, value in example.items()}
