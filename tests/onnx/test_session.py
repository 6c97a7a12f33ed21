import sys
from types import SimpleNamespace

import numpy as np
import pytest

from varfix.engine.errors import (
    ConfigError,
    DeviceError,
    DeviceMemoryError,
    DeviceUnavailableError,
    ExitCode,
    ModelContractError,
    ModelMissingError,
    NonFiniteError,
)
from varfix.engine.settings import ModelSettings, Settings, TileSettings, resolve, set_layer
from varfix.onnx import guard, session
from varfix.onnx.cores import usable_cores
from varfix.onnx.gpu import Gpu
from varfix.onnx.runtime import CPU, Device, SessionPlan, start
from varfix.onnx.session import Graphs, OnnxRestorer, Placement, open_restorer
from varfix.onnx.signature import Signature

ON_CPU = Settings(device="cpu")
CUDA = Device("cuda", 0)


def noise(count, edge=64, seed=0):
    return np.random.default_rng(seed).random((count, edge, edge, 3), np.float32)


def text_of(error):
    return f"{error.message} {error.hint}"


# Opening


def test_a_model_is_restored_at_its_own_tile_in_fp32_on_the_cpu(shelf):
    restorer = open_restorer(str(shelf.restore()), ON_CPU)
    tiles = noise(2)
    assert np.array_equal(restorer.restore(tiles, None), tiles)
    assert restorer.tile == 64
    used = restorer.used
    assert (used.requested, used.device, used.precision) == ("cpu", "cpu", "fp32")
    assert used.provider == "CPUExecutionProvider"


def test_another_tile_size_is_pinned_into_the_graph(shelf):
    settings = Settings(device="cpu", tile=TileSettings(size=96))
    restorer = open_restorer(str(shelf.restore()), settings)
    tiles = noise(1, 96)
    assert np.array_equal(restorer.restore(tiles, None), tiles)
    with pytest.raises(ModelContractError):
        restorer.restore(noise(1, 64), None)


def test_a_tile_size_the_model_cannot_take_is_refused_with_the_nearest(shelf):
    settings = Settings(device="cpu", tile=TileSettings(size=100))
    with pytest.raises(ConfigError) as caught:
        open_restorer(str(shelf.restore()), settings)
    assert text_of(caught.value) == (
        "tile.size: 100 is not a multiple of 16, which hand-made needs. Try 96 or 112."
    )


def test_a_graph_with_sizes_written_in_takes_only_those(shelf):
    shape = ["batch", 3, 64, 64]
    path = shelf.restore(takes=shape, gives=shape)
    assert open_restorer(str(path), ON_CPU).tile == 64
    with pytest.raises(ConfigError, match="takes tiles of 64 only, not 96"):
        open_restorer(str(path), Settings(device="cpu", tile=TileSettings(size=96)))


def test_a_graph_with_a_batch_written_in_gets_one_tile_at_a_time(shelf):
    shape = [1, 3, 64, 64]
    settings = Settings(device="cpu", tile=TileSettings(batch=8))
    restorer = open_restorer(str(shelf.restore(takes=shape, gives=shape)), settings)
    tiles = noise(3)
    assert restorer.batch == 1
    assert np.array_equal(restorer.restore(tiles, None), tiles)


@pytest.mark.parametrize(("asked", "batch"), [(None, 1), (5, 5)])
def test_the_batch_is_the_one_asked_for_or_one_on_a_cpu(shelf, asked, batch):
    settings = Settings(device="cpu", tile=TileSettings(batch=asked))
    assert open_restorer(str(shelf.restore()), settings).batch == batch


def test_half_precision_on_a_cpu_is_declined_and_said(shelf):
    told = []
    settings = Settings(device="cpu", model=ModelSettings(precision="fp16"))
    restorer = open_restorer(
        str(shelf.restore()), settings, warn=lambda code, text: told.append(code)
    )
    assert restorer.used.precision == "fp32"
    assert told == ["precision_fp32"]


def test_what_nobody_listens_to_becomes_a_python_warning(shelf):
    settings = Settings(device="cpu", model=ModelSettings(precision="fp16"))
    with pytest.warns(UserWarning, match="fp16 gains nothing on a CPU"):
        open_restorer(str(shelf.restore()), settings)


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"tasks": ("auto", "rain")}, "task_untrained"),
        ({"tasks": ("auto", "noise"), "tiling": "discouraged"}, "tiling_discouraged"),
        ({"tasks": ("auto", "noise")}, None),
        ({"tasks": ("auto",)}, None),
    ],
)
def test_what_hurts_the_result_is_said(shelf, facts, code):
    told = []
    settings = Settings(device="cpu", model=ModelSettings(task="noise"))
    path = shelf.restore(card=shelf.card(**facts))
    open_restorer(str(path), settings, warn=lambda code, text: told.append(code))
    assert told == ([code] if code else [])


def test_threads_are_the_cores_and_do_not_spin(shelf, monkeypatch):
    import onnxruntime

    entries = {}

    class Options(onnxruntime.SessionOptions):
        def add_session_config_entry(self, key, value):
            entries[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    opened = start(shelf.restore(), SessionPlan(CPU))
    assert opened.get_session_options().intra_op_num_threads == usable_cores()
    assert entries["session.intra_op.allow_spinning"] == "0"


def test_opening_a_model_does_not_need_the_onnx_package(shelf, monkeypatch):
    path = shelf.pair()
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert open_restorer(str(path), ON_CPU).card.name == "hand-made"


# Files that are not models


def test_a_model_of_tokens_is_refused_by_what_it_takes(shelf):
    path = shelf.foreign(("N", 680), element=7, names=("tokens", "logits"))
    with pytest.raises(ModelContractError) as caught:
        open_restorer(str(path), ON_CPU)
    assert text_of(caught.value) == (
        'net.onnx: expected one image input [N,3,H,W], found "tokens" int64 [N,680]. '
        "Export with varfix export-onnx."
    )
    assert caught.value.exit_code == ExitCode.MODEL


@pytest.mark.parametrize(
    ("shape", "element"),
    [
        (("N", "H", "W", 3), 1),  # channels last would be read as columns of colour
        (("N", 1, "H", "W"), 1),
        (("N", 3, "H", "W"), 10),  # float16
        (("N", 3, "H", "W"), 2),  # uint8
        ((4, 3, 64, 64), 1),
        (("N", 3, 64, 128), 1),
    ],
)
def test_other_pictures_than_varfix_gives_are_refused(shelf, shape, element):
    with pytest.raises(ModelContractError, match=r"net\.onnx: expected .*, found \"input\""):
        open_restorer(str(shelf.foreign(shape, element)), ON_CPU)


def test_two_inputs_are_refused_by_name(shelf):
    image = ["N", 3, "H", "W"]
    path = shelf.save(
        "net.onnx",
        [("Add", ["a", "b"], ["c"], {})],
        [("a", 1, image), ("b", 1, image)],
        [("c", 1, image)],
    )
    with pytest.raises(ModelContractError, match=r'found "a" float32 \[N,3,H,W\], "b" float32'):
        open_restorer(str(path), ON_CPU)


@pytest.mark.parametrize("content", ["some notes\n", ""])
def test_a_text_file_is_refused(tmp_path, content):
    path = tmp_path / "notes.onnx"
    path.write_text(content)
    with pytest.raises(ModelContractError, match=r"notes\.onnx: ") as caught:
        open_restorer(str(path), ON_CPU)
    assert caught.value.exit_code == ExitCode.MODEL


def test_a_truncated_file_is_refused(shelf):
    path = shelf.restore()
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ModelContractError, match=r"hand-made\.onnx: not a complete ONNX file"):
        open_restorer(str(path), ON_CPU)


def test_a_graph_that_the_runtime_cannot_run_is_refused(shelf):
    path = shelf.restore(nodes=[("NoSuchOperator", ["tile"], ["restored"], {})])
    with pytest.raises(ModelContractError, match=r"ONNX Runtime cannot run it: .*NoSuchOperator"):
        open_restorer(str(path), ON_CPU)


def test_a_card_over_the_wrong_graph_is_refused(shelf):
    path = shelf.restore(card=shelf.card(guidance="image", thumbnail=256, prior_channels=3))
    with pytest.raises(ModelContractError, match=r'\[N,3,H,W\] and "prior", found "tile" float32'):
        open_restorer(str(path), ON_CPU)


@pytest.mark.parametrize("declared", [["batch", 3, 128, 128], ["batch", 3, "h2", "w2"]])
def test_a_model_that_enlarges_is_refused_before_or_at_the_first_tile(shelf, declared):
    nodes = [
        ("Concat", ["tile", "tile"], ["tall"], {"axis": 2}),
        ("Concat", ["tall", "tall"], ["restored"], {"axis": 3}),
    ]
    path = shelf.restore(nodes=nodes, gives=declared)
    with pytest.raises(ModelContractError, match="returns 128 px for a tile of 64 px"):
        open_restorer(str(path), ON_CPU).restore(noise(1), None)


# Graphs from elsewhere


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        (("N", 3, "H", "W"), 512),
        ((1, 3, "H", "W"), 512),
        (("N", 3, 48, 48), 48),
        ((None, 3, None, None), 512),
        (("N", "C", "H", "W"), 512),
    ],
)
def test_a_graph_without_card_runs_under_its_own_names(shelf, shape, tile):
    restorer = open_restorer(str(shelf.foreign(shape)), ON_CPU)
    tiles = noise(2, tile)
    assert np.array_equal(restorer.restore(tiles, None), tiles)
    assert restorer.card.name == "net"
    assert restorer.card.tile == tile
    assert restorer.card.guidance == "none"
    assert len(restorer.card.sha256) == 64
    assert restorer.prior(noise(1, 256)[0], "auto") is None


# The prior


def test_the_prior_of_a_picture_reaches_its_tiles(shelf):
    restorer = open_restorer(str(shelf.pair()), ON_CPU)
    thumbnail = np.full((256, 256, 3), 0.25, np.float32)
    tiles = noise(2) / 2
    for task, shift in (("auto", 0.0), ("noise", 0.25)):
        maps = restorer.prior(thumbnail, task)
        assert maps.shape == (3, 16, 16)
        assert maps.dtype == np.float32
        prior = np.stack([maps[:, :4, :4]] * 2)
        assert np.allclose(restorer.restore(tiles, prior), tiles + shift, atol=1e-6)


def test_a_pair_without_its_prior_graph_is_incomplete(shelf):
    path = shelf.pair()
    path.with_name("pair.prior.onnx").unlink()
    with pytest.raises(ModelMissingError, match=r"pair\.prior\.onnx must lie beside it"):
        open_restorer(str(path), ON_CPU)


def test_the_prior_graph_of_another_model_is_refused(shelf):
    from varfix.onnx.card import read_card, write_card

    path = shelf.pair()
    prior = path.with_name("pair.prior.onnx")
    card = read_card(prior)
    write_card(prior, shelf.card(guidance="image", thumbnail=256, prior_channels=3, about="later"))
    with pytest.raises(ModelContractError, match=r"pair\.prior\.onnx belongs to another model"):
        open_restorer(str(path), ON_CPU)
    write_card(prior, card)
    assert open_restorer(str(path), ON_CPU)


def test_a_prior_that_is_no_number_fails_the_picture(shelf):
    restorer = open_restorer(str(shelf.pair()), ON_CPU)
    thumbnail = np.full((256, 256, 3), np.nan, np.float32)
    with pytest.raises(NonFiniteError):
        restorer.prior(thumbnail, "noise")


# Faults, injected


class Faulty:
    """A session that identifies, but fails where told: memory above a batch, values in tiles."""

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
    def run(self, names, feeds):
        raise RuntimeError("std::bad_alloc")


def restorer_of(shelf, restore, half=None, device=CUDA, batch=8):
    told = []
    graphs = Graphs(restore, Signature("tile", "restored", (), None), half=half)
    placement = Placement("auto", device, 64, batch)
    card = shelf.card(vram_mb={"1": 900, "8": 3100})
    restorer = OnnxRestorer(card, graphs, placement, lambda code, text: told.append(code))
    return restorer, told


@pytest.mark.parametrize(
    "message",
    [
        "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer",
        "BFCArena::AllocateRawInternal Available memory of 0 is smaller than requested bytes",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
    ],
)
def test_running_out_of_memory_halves_the_batch_until_it_fits(shelf, message):
    session = Faulty(most=3, message=message)
    restorer, told = restorer_of(shelf, session)
    tiles = noise(8)
    assert np.array_equal(restorer.restore(tiles, None), tiles)
    assert session.batches == [8, 4, 2, 2, 2, 2]
    assert restorer.batch == 2
    assert restorer.retries.oom == 2
    assert told == ["batch_halved", "batch_halved"]


def test_a_batch_that_fits_stays_for_the_next_tiles(shelf):
    session = Faulty(most=4)
    restorer, _ = restorer_of(shelf, session)
    restorer.restore(noise(8), None)
    session.batches.clear()
    restorer.restore(noise(8), None)
    assert session.batches == [4, 4]


def test_a_late_shortage_loses_and_repeats_no_tile(shelf):
    class Later(Faulty):
        def run(self, names, feeds):
            self.most = 4 if not self.batches else 1
            return super().run(names, feeds)

    restorer, _ = restorer_of(shelf, Later(), batch=4)
    tiles = noise(9)
    assert np.array_equal(restorer.restore(tiles, None), tiles)


def test_no_memory_for_one_tile_is_an_error_with_the_numbers(shelf, monkeypatch):
    monkeypatch.setattr(guard, "find_gpu", lambda index: Gpu("small", 1900, 4000))
    restorer, _ = restorer_of(shelf, Faulty(most=0))
    with pytest.raises(DeviceMemoryError) as caught:
        restorer.restore(noise(8), None)
    assert text_of(caught.value) == (
        "Out of GPU memory at batch 1 (tile 64, 0.9 GB needed, 1.9 GB free). "
        "Close other programs or use --device cpu."
    )
    assert caught.value.exit_code == ExitCode.DEVICE


def test_no_memory_on_the_cpu_does_not_blame_a_gpu(shelf):
    restorer, _ = restorer_of(shelf, Faulty(most=0), device=CPU, batch=1)
    with pytest.raises(DeviceMemoryError, match=r"Out of memory at batch 1 \(tile 64\)"):
        restorer.restore(noise(1), None)


def test_no_memory_for_the_prior_is_a_device_error_too(shelf):
    graphs = Graphs(Faulty(), Signature("tile", "restored", (), None), prior=Exhausted())
    placement = Placement("cpu", CPU, 64, 1)
    restorer = OnnxRestorer(shelf.card(), graphs, placement, lambda code, text: None)
    with pytest.raises(DeviceMemoryError):
        restorer.prior(noise(1, 256)[0], "auto")


def test_another_failure_of_the_gpu_is_not_taken_for_memory(shelf):
    session = Faulty(most=0, message="CUDA failure 700: an illegal memory access\nstack")
    restorer, told = restorer_of(shelf, session)
    with pytest.raises(DeviceError, match=r"cuda:0 failed: CUDA failure 700: .*access$"):
        restorer.restore(noise(8), None)
    assert (session.batches, told) == ([8], [])


def test_a_tile_that_overflows_in_fp16_is_repeated_in_fp32_and_alone(shelf):
    tiles = noise(5)
    half, exact = Faulty(bad=[tiles[3].flat[0]]), Faulty()
    restorer, told = restorer_of(shelf, exact, half)
    assert restorer.used.precision == "fp16"
    assert np.array_equal(restorer.restore(tiles, None), tiles)
    assert (half.batches, exact.batches) == ([5], [1])
    assert restorer.retries.fp32 == 1
    assert told == ["fp16_overflow"]


def test_after_an_overflow_the_run_goes_on_in_fp32(shelf):
    tiles = noise(2)
    half, exact = Faulty(bad=[tiles[0].flat[0]]), Faulty()
    restorer, told = restorer_of(shelf, exact, half)
    restorer.restore(tiles, None)
    restorer.restore(tiles, None)
    assert restorer.used.precision == "fp32"
    assert (half.batches, exact.batches) == ([2], [1, 2])
    assert told == ["fp16_overflow"]


def test_the_prior_of_the_repeated_tile_goes_with_it(shelf):
    class Shifted(Faulty):
        def run(self, names, feeds):
            (restored,) = super().run(names, feeds)
            return [restored + feeds["prior"].mean(axis=(1, 2, 3), keepdims=True)]

    tiles = noise(3) / 2
    prior = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) * np.ones((1, 2, 4, 4)) / 8
    half = Shifted(bad=[tiles[2].flat[0]])
    restorer, _ = restorer_of(shelf, Shifted(), half)
    expected = tiles + np.arange(3).reshape(3, 1, 1, 1) / 8
    assert np.allclose(restorer.restore(tiles, prior), expected)


def test_a_tile_invalid_even_in_fp32_fails_and_is_named(shelf):
    tiles = noise(5)
    bad = [tiles[3].flat[0]]
    restorer, _ = restorer_of(shelf, Faulty(bad=bad), Faulty(bad=bad))
    with pytest.raises(NonFiniteError, match="invalid values in tile 3 even in fp32"):
        restorer.restore(tiles, None)


def test_an_invalid_tile_on_fp32_fails_at_once(shelf):
    tiles = noise(2)
    exact = Faulty(bad=[tiles[1].flat[0]])
    restorer, _ = restorer_of(shelf, exact)
    with pytest.raises(NonFiniteError, match="tile 1"):
        restorer.restore(tiles, None)
    assert exact.batches == [2]
    assert restorer.retries.fp32 == 0


def test_a_real_graph_that_divides_by_zero_fails_instead_of_going_black(shelf):
    path = shelf.restore(nodes=[("Div", ["tile", "tile"], ["restored"], {})])
    restorer = open_restorer(str(path), ON_CPU)
    tiles = np.stack([np.ones((64, 64, 3), np.float32), np.zeros((64, 64, 3), np.float32)])
    with pytest.raises(NonFiniteError, match="tile 1"):
        restorer.restore(tiles, None)


def test_values_beyond_the_range_are_clipped_not_wrapped(shelf):
    nodes = [
        ("Sub", ["tile", "c1"], ["below"], {}),
        ("Mul", ["below", "c2"], ["far_below"], {}),
        ("Add", ["far_below", "c2"], ["moved"], {}),
        ("Mul", ["moved", "c2"], ["far"], {}),
        ("Sub", ["far", "c1"], ["restored"], {}),  # 4 x - 1
    ]
    restorer = open_restorer(str(shelf.restore(nodes=nodes)), ON_CPU)
    restored = restorer.restore(noise(1), None)
    assert restored.min() == 0.0
    assert restored.max() == 1.0


# GPUs, as far as a machine without one can tell


@pytest.fixture
def on_cuda(monkeypatch):
    """Let every graph start as if on CUDA, and record what was started."""
    started = []

    def fake_start(model, plan):
        if model.name != "hand-made.onnx" and not model.name.endswith(".fp16.onnx"):
            raise AssertionError(model)
        started.append((model.name, plan.precision))
        return start(model, SessionPlan(CPU, plan.dims))

    def requested(model, request, dims, warn):
        return fake_start(model, SessionPlan(CUDA, dims)), CUDA

    monkeypatch.setattr(session, "start_requested", requested)
    monkeypatch.setattr(
        session, "start_named", lambda model, request, plan: fake_start(model, plan)
    )
    monkeypatch.setattr(guard, "find_gpu", lambda index: None)
    return started


@pytest.mark.parametrize(
    ("fp16", "precision", "half_file", "used"),
    [
        ("ok", "auto", True, "fp16"),
        ("ok", "auto", False, "fp32"),
        ("ok", "fp32", True, "fp32"),
        ("unsafe", "auto", True, "fp32"),
        ("untested", "auto", True, "fp32"),
        ("untested", "fp16", True, "fp16"),
    ],
)
def test_half_precision_is_used_when_safe_or_asked_for(
    shelf, on_cuda, fp16, precision, half_file, used
):
    card = shelf.card(fp16=fp16)
    path = shelf.restore(card=card)
    if half_file:
        shelf.restore("hand-made.fp16.onnx", card=card)
    told = []
    settings = Settings(model=ModelSettings(precision=precision))
    restorer = open_restorer(str(path), settings, warn=lambda code, text: told.append(code))
    assert restorer.used.precision == used
    assert ("hand-made.fp16.onnx" in dict(on_cuda)) == (used == "fp16")
    assert told == (["fp16_unchecked"] if (fp16, used) == ("untested", "fp16") else [])


def test_half_precision_asked_for_without_its_file_is_an_error(shelf, on_cuda):
    settings = Settings(model=ModelSettings(precision="fp16"))
    with pytest.raises(ModelMissingError, match=r"no fp16 graph \(hand-made\.fp16\.onnx\)"):
        open_restorer(str(shelf.restore()), settings)


def test_cuda_is_an_error_where_there_is_none(shelf, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DeviceUnavailableError, match="--device cuda: ONNX Runtime has no"):
        open_restorer(str(shelf.restore()), Settings(device="cuda"))


@pytest.mark.parametrize(
    ("free", "vram", "tile", "batch"),
    [
        (80_000, {"1": 900, "8": 3100}, 64, 32),
        (4_000, {"1": 900, "8": 3100}, 64, 8),
        (4_000, {"1": 900, "8": 3100}, 128, 1),
        (500, {"1": 900, "8": 3100}, 64, 1),
        (4_000, {"1": 900}, 64, 2),
        (4_000, {}, 64, 4),
        (None, {"1": 900, "8": 3100}, 64, 4),
    ],
)
def test_the_automatic_batch_fits_the_free_memory(shelf, monkeypatch, free, vram, tile, batch):
    found = None if free is None else Gpu("some", free, free)
    monkeypatch.setattr(guard, "find_gpu", lambda index: found)
    assert guard.auto_batch(shelf.card(vram_mb=vram), CUDA, tile) == batch
    assert guard.auto_batch(shelf.card(vram_mb=vram), CPU, tile) == 1


def test_ordinary_failures_are_not_memory():
    assert not guard.is_out_of_memory(RuntimeError("Got invalid dimensions for input: tile"))
    assert not guard.is_out_of_memory(RuntimeError("CUDA failure 222: provided PTX"))
    assert guard.is_out_of_memory(MemoryError())


def test_sessions_that_fail_in_odd_ways_still_name_the_model(shelf):
    def fail(names, feeds):
        raise RuntimeError

    restorer, _ = restorer_of(shelf, SimpleNamespace(run=fail), device=CPU)
    with pytest.raises(ModelContractError, match="hand-made: the graph failed: RuntimeError"):
        restorer.restore(noise(1), None)


def test_an_overlap_of_more_than_a_third_of_the_tile_is_refused(shelf):
    settings = resolve([set_layer(["device=cpu", "tile.overlap=30"])]).settings
    with pytest.raises(ConfigError, match="more than a third of the tile's 64 pixels"):
        open_restorer(str(shelf.restore()), settings)
