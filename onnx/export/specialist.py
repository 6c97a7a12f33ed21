"""Export a specialist to `NAME.SPECIALIST.onnx`, next to the model that it belongs to."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from varfix.engine.errors import ConfigError
from varfix.engine.models.card import SPECIALISTS
from varfix.engine.networks.varformer_s.specialist import SpecialistNetwork
from varfix.engine.train.checkpoint import load_weights
from varfix.onnx.export.int8_weights import round_weights_to_int8, store_weights_as_int8
from varfix.onnx.export.parity import check_against
from varfix.onnx.export.varformer_s import arrays_of, reference_of, restore_example, write_graph
from varfix.onnx.files.card import SPECIALIST_SUFFIXES, read_card


class SpecialistGraph(nn.Module):
    """A specialist with the tile as its only input; results are clamped."""

    def __init__(self, network: SpecialistNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, tile: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [0, 1] to the same."""
        restored: Tensor = self.network(tile)
        return restored.clamp(0.0, 1.0)


def export_specialist(checkpoint: Path, target: Path) -> None:
    """Export trained weights to `target`, with the card of the model next to it.

    Weights are stored as int8: half the size, and less than 0.01 dB less on Rain100H and Rain1400.

    Args:
        checkpoint: `weights.safetensors` of a training run.
        target: `NAME.SPECIALIST.onnx`, SPECIALIST a key of `SPECIALISTS`; `NAME.onnx` stands next
            to it.

    Raises:
        ConfigError: The target has another name.
        ModelMissingError: The checkpoint or the model does not exist.
        ModelContractError: The checkpoint is not a specialist, or the file disagrees with it.
    """
    card = read_card(model_path(target))
    network = SpecialistNetwork()
    load_weights(network, checkpoint)
    round_weights_to_int8(network)
    graph = SpecialistGraph(network.eval())
    example = _tile(seed=0, batch=2)
    write_graph(graph, example, ["restored"], target, card, store_weights_as_int8)
    check_against(reference_of(graph), target, arrays_of(_tile(seed=1, batch=3)))


def model_path(target: Path) -> Path:
    """Return the path of the model that a specialist's file belongs to, by its name.

    Raises:
        ConfigError: It is not the name of a specialist's file.
    """
    for suffix in SPECIALIST_SUFFIXES.values():
        if target.name.endswith(suffix):
            return target.with_name(target.name.removesuffix(suffix) + ".onnx")
    raise ConfigError(
        f"{target.name}: not the name of a specialist",
        hint=f"name it NAME.onnx with .{' or .'.join(SPECIALISTS)} before .onnx",
    )


def _tile(seed: int, batch: int) -> dict[str, Tensor]:
    return {"tile": restore_example(seed, batch)["tile"]}
