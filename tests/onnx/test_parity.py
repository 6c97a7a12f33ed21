import numpy as np
import pytest

from varfix.engine.errors import ModelContractError
from varfix.onnx.export.parity import check_against, compare

TILE = np.linspace(0, 1, 3 * 32 * 32, dtype=np.float32).reshape(1, 3, 32, 32)


def test_equal_arrays_agree():
    parity = compare(TILE, TILE)
    assert parity.ok
    assert (parity.largest, parity.mean) == (0.0, 0.0)


def test_differences_are_relative_to_large_values_but_not_to_small_ones():
    assert compare(np.array([1000.1]), np.array([1000.0])).largest == pytest.approx(1e-4)
    assert compare(np.array([0.002]), np.array([0.001])).largest == pytest.approx(1e-3)


def test_half_precision_may_stray_where_single_may_not():
    off = TILE + np.float32(5e-4)
    assert not compare(off, TILE).ok
    assert compare(off, TILE, "float16").ok


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_never_agree(value):
    broken = TILE.copy()
    broken[0, 0, 0, 0] = value
    assert not compare(broken, TILE).ok


@pytest.mark.parametrize(("a", "b"), [((2, 3), (3, 2)), ((0,), (0,))])
def test_what_cannot_be_compared_is_refused(a, b):
    with pytest.raises(ValueError, match="cannot compare"):
        compare(np.zeros(a), np.zeros(b))


def test_a_graph_that_computes_what_its_network_does_passes(shelf):
    parity = check_against(lambda feeds: feeds["tile"], shelf.restore(), {"tile": TILE})
    assert parity.largest == 0.0


def test_a_graph_that_computes_something_else_is_refused_with_the_numbers(shelf):
    with pytest.raises(ModelContractError, match=r"hand-made\.onnx: differs by 0\.05 on average"):
        check_against(lambda feeds: feeds["tile"] - 0.05, shelf.restore(), {"tile": TILE})


def test_a_graph_that_gives_another_shape_is_refused(shelf):
    with pytest.raises(ModelContractError, match="output of shape"):
        check_against(lambda feeds: feeds["tile"][:, :1], shelf.restore(), {"tile": TILE})
