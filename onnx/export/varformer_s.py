"""PyTorch network to ONNX files with a model card, checked against the network afterwards.

VarFormer-S becomes two graphs: `NAME.onnx` restores tiles, `NAME.prior.onnx` looks at the whole
image once. The tile's height and width stay symbolic and are pinned when a session opens, so that
one file serves every tile size while the runtime still plans for fixed shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from varfix.engine.models.card import TASKS, ModelCard
from varfix.engine.networks.varformer_s.model import VarformerS, build_varformer_s
from varfix.engine.networks.varformer_s.prior import MAP_CHANNELS
from varfix.engine.networks.varformer_s.unet import MULTIPLE
from varfix.engine.train.checkpoint import load_weights
from varfix.onnx.export.graph import PriorGraph, RestoreGraph
from varfix.onnx.export.parity import Feeds, check_against
from varfix.onnx.export.simplify import split_plainly
from varfix.onnx.export.trace import OPSET, SMALL, quiet
from varfix.onnx.files.card import prior_path, write_card

Arrays = npt.NDArray[Any]
STRIDE = 16


def varformer_s_card(name: str, training: str) -> ModelCard:
    """The card of an exported VarFormer-S."""
    return ModelCard(
        name=name,
        licence="Apache-2.0",
        tile=512,
        multiple=MULTIPLE,
        overlap=32,
        tasks=TASKS,
        guidance="image",
        thumbnail=256,
        prior_channels=MAP_CHANNELS,
        prior_stride=STRIDE,
        about="VarFormer-S: next-scale prior for the image, convolutional restorer for tiles",
        training=training,
    )


def export_checkpoint(checkpoint: Path, target: Path, training: str = "") -> None:
    """Export trained weights to `target` and the prior graph beside it.

    Args:
        checkpoint: `weights.safetensors` of a training run.
        target: the restore graph to write, `NAME.onnx`.
        training: what the weights were trained on, for the card.

    Raises:
        ModelMissingError: If there is no checkpoint.
        ModelContractError: If the checkpoint is not a VarFormer-S, or the files disagree with it.
    """
    model = build_varformer_s()
    load_weights(model, checkpoint)
    export_varformer_s(model, target, varformer_s_card(target.stem, training))


def export_varformer_s(model: VarformerS, target: Path, card: ModelCard) -> None:
    """Export a network, then compare the files with it; raises as `export_checkpoint`."""
    round_to_half(model)
    model.eval()
    prior, restore = PriorGraph(model.prior), RestoreGraph(model.restorer)
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(prior, prior_example(), ["prior"], prior_path(target), card)
    _write(restore, restore_example(), ["restored"], target, card)
    check_against(_reference(prior), prior_path(target), _arrays(prior_example(seed=1)))
    check_against(_reference(restore), target, _arrays(restore_example(seed=1, batch=3)))


def round_to_half(model: nn.Module) -> None:
    """Round large weights to half precision in place: it is how the files store them."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.numel() >= SMALL:
                weight.copy_(weight.half().float())


def prior_example(seed: int = 0) -> dict[str, Tensor]:
    """Inputs of the prior graph by name."""
    rng = torch.Generator().manual_seed(seed)
    return {"thumbnail": torch.rand(1, 3, 256, 256, generator=rng), "task": torch.tensor([seed])}


def restore_example(seed: int = 0, batch: int = 2) -> dict[str, Tensor]:
    """Inputs of the restore graph by name."""
    rng = torch.Generator().manual_seed(seed)
    side = 2 * MULTIPLE
    return {
        "tile": torch.rand(batch, 3, side, side, generator=rng),
        "prior": torch.randn(batch, MAP_CHANNELS, side // STRIDE, side // STRIDE, generator=rng),
    }


def _write(
    graph: nn.Module, example: dict[str, Tensor], outputs: list[str], path: Path, card: ModelCard
) -> None:
    with quiet():
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
    model = program.model_proto
    if "tile" in example:
        name_sizes(model)
    split_plainly(model)
    store_half(model)
    forget_origin(model)
    onnx.save(model, path)
    write_card(path, card)


def _dynamic(example: dict[str, Tensor]) -> dict[str, dict[int, object]] | None:
    if "tile" not in example:
        return None
    auto = torch.export.Dim.AUTO
    return {name: {0: auto, 2: auto, 3: auto} for name in example}


def name_sizes(model: onnx.ModelProto) -> None:
    """Give the symbolic sizes the names by which a session pins them."""
    names = {
        "tile": ("batch", None, "height", "width"),
        "prior": ("batch", None, "prior_height", "prior_width"),
        "restored": ("batch", None, "height", "width"),
    }
    for value in [*model.graph.input, *model.graph.output]:
        sizes = value.type.tensor_type.shape.dim
        for size, name in zip(sizes, names[value.name], strict=True):
            if name is not None:
                size.dim_param = name
    del model.graph.value_info[:]  # they speak of the exporter's own symbols


def store_half(model: onnx.ModelProto) -> None:
    """Store large constants in half precision, each behind a cast that the runtime folds away."""
    casts = []
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant)
        if constant.data_type != TensorProto.FLOAT or values.size < SMALL:
            continue
        name = constant.name
        half = numpy_helper.from_array(values.astype(np.float16), f"{name}.half")
        constant.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def forget_origin(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: stack traces with paths of the exporting machine."""
    graph = model.graph
    for noted in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        del noted.metadata_props[:]
        noted.ClearField("doc_string")


def _reference(graph: nn.Module) -> Callable[[Feeds], Arrays]:
    def run(inputs: Feeds) -> Arrays:
        with torch.no_grad():
            result: Arrays = graph(
                **{name: torch.from_numpy(value) for name, value in inputs.items()}
            ).numpy()
        return result

    return run


def _arrays(example: dict[str, Tensor]) -> dict[str, Arrays]:
    return {name: value.numpy() for name, value in example.items()}
