"""Sessions that fail on request, and what tests of sessions have in common."""

import numpy as np

from varfix.engine.settings.types import Settings
from varfix.onnx.inference.restorer import Graphs, OnnxRestorer, Placement
from varfix.onnx.inference.runtime import Device
from varfix.onnx.inference.signature import Signature

ON_CPU = Settings(device="cpu")
CUDA = Device("cuda", 0)


def noise(count, edge=64, seed=0):
    return np.random.default_rng(seed).random((count, edge, edge, 3), np.float32)


def text_of(error):
    return f"{error.message}; {error.hint}"


class Faulty:
    """A session that identifies, but fails on request: memory above a batch, values in tiles."""

    def __init__(self, most=99, message="Failed to allocate memory for requested buffer", bad=()):
        self.most, self.message, self.bad = most, message, bad
        self.batches = []

    def run(self, names, feeds):
        tiles = feeds["tile"]
        self.batches.append(len(tiles))
        if len(tiles) > self.most:
            raise RuntimeError(self.message)
        restored = tiles.copy()
        for tile in restored:
            if tile.flat[0] in self.bad:
                tile.flat[-1] = np.nan
        return [restored]


class Exhausted:
    def get_inputs(self):
        return []

    def get_outputs(self):
        return []

    def run(self, names, feeds):
        raise RuntimeError("std::bad_alloc")


def restorer_of(shelf, restore, fp16=None, device=CUDA, batch=8):
    codes = []
    graphs = Graphs(restore, Signature("tile", "restored", (), None), fp16=fp16)
    placement = Placement("auto", device, tile=64, step=64, batch=batch)
    card = shelf.card(vram_mb={"1": 900, "8": 3100})
    restorer = OnnxRestorer(card, graphs, placement, lambda code, text: codes.append(code))
    return restorer, codes
