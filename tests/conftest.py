"""Fixtures shared by several folders of tests."""

import json
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings
from jsonschema import Draft202012Validator
from support.event_schema import SCHEMA_FILE

from varfix.engine.batch import run as batch
from varfix.engine.events import encode
from varfix.engine.models.card import ModelCard

# How long one example takes says more about the machine than about the code.
settings.register_profile("varfix", deadline=None)
settings.load_profile("varfix")


def pytest_configure():
    """Hear Ctrl-C again where a shell started the tests in its background.

    Such a shell has SIGINT ignored, and the programs that the tests start would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def line_schema() -> Draft202012Validator:
    """The schema that ships, of one line of events."""
    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


@pytest.fixture(autouse=True)
def every_event_fits_the_schema(monkeypatch, line_schema):
    """Check every event of every run of a test, and that its last word is its exit code."""
    wrong, ends = [], []
    emit, end = batch.Run.emit, batch.Run._end

    def checked(self, event):
        line = json.loads(encode(event, "01JRUN", datetime.now(UTC)))
        wrong.extend(f"{error.message} in {line}" for error in line_schema.iter_errors(line))
        ends.extend([line["exit"]] if line["event"] == "run.end" else [])
        emit(self, event)

    def ended(self, *arguments):
        summary = end(self, *arguments)
        if ends[-1] != summary.exit_code:
            wrong.append(f"run.end says {ends[-1]}, the process would say {summary.exit_code}")
        return summary

    monkeypatch.setattr(batch.Run, "emit", checked)
    monkeypatch.setattr(batch.Run, "_end", ended)
    yield
    assert not wrong


class Shelf:
    """A folder of hand-made ONNX models, small enough to be obvious."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def card(self, **facts) -> ModelCard:
        defaults = {"name": "hand-made", "licence": "CC0-1.0", "tile": 64, "multiple": 16}
        return ModelCard(**{**defaults, "overlap": 16, **facts})

    def save(self, name, nodes, inputs, outputs, card=None) -> Path:
        """Write a graph; inputs and outputs are (name, element type, shape)."""
        from onnx import helper, save

        from varfix.onnx.files.card import write_card

        takes, gives = (
            [helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs)
        )
        constants = {f"c{number}": number for number in range(3)}
        graph = helper.make_graph(
            [helper.make_node(op, names, made, **fields) for op, names, made, fields in nodes],
            "hand_made",
            takes,
            gives,
            [helper.make_tensor(key, 1, [], [value]) for key, value in constants.items()],
        )
        path = self.folder / name
        opsets = [helper.make_opsetid("", 17)]
        save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        if card is not None:
            write_card(path, card)
        return path

    def restore(self, name="hand-made.onnx", nodes=None, card=None, **shapes) -> Path:
        """Write a restore graph from `tile` to `restored`, by default the identity."""
        free = ["batch", 3, "height", "width"]
        return self.save(
            name,
            nodes or [("Identity", ["tile"], ["restored"], {})],
            [("tile", 1, shapes.get("takes", free))],
            [("restored", 1, shapes.get("gives", free))],
            card if card is not None else self.card(),
        )

    def foreign(self, shape=("N", 3, "H", "W"), element=1, names=("input", "output")) -> Path:
        """Write an identity graph as another program would: its own names, and no card."""
        return self.save(
            "net.onnx",
            [("Identity", [names[0]], [names[1]], {})],
            [(names[0], element, list(shape))],
            [(names[1], element, list(shape))],
        )

    def pair(self) -> Path:
        """Write a pair guided by the whole image: adds the image's mean times the task.

        With task `auto`, whose number is 0, it is the identity.
        """
        card = self.card(guidance="image", thumbnail=256, prior_channels=3, tasks=("auto", "noise"))
        pool = {"kernel_shape": [16, 16], "strides": [16, 16]}
        self.save(
            "pair.prior.onnx",
            [
                ("AveragePool", ["thumbnail"], ["mean"], pool),
                ("Cast", ["task"], ["factor"], {"to": 1}),
                ("Mul", ["mean", "factor"], ["prior"], {}),
            ],
            [("thumbnail", 1, [1, 3, 256, 256]), ("task", 7, [1])],
            [("prior", 1, [1, 3, 16, 16])],
            card,
        )
        return self.save(
            "pair.onnx",
            [
                ("ReduceMean", ["prior"], ["shift"], {"axes": [1, 2, 3]}),
                ("Add", ["tile", "shift"], ["restored"], {}),
            ],
            [
                ("tile", 1, ["batch", 3, "height", "width"]),
                ("prior", 1, ["batch", 3, "prior_height", "prior_width"]),
            ],
            [("restored", 1, ["batch", 3, "height", "width"])],
            card,
        )


@pytest.fixture
def shelf(tmp_path) -> Shelf:
    return Shelf(tmp_path)
