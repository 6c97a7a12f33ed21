"""Shown colors are those of the standards, and what is left alone stays as it is stored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from varfix.engine.errors import NonFiniteError
from varfix.engine.video.clip import Layout
from varfix.engine.video.color import YcbcrConverter, known_matrix

# Red, green and blue at 75 % in 8-bit codes, from the standards (and any test-bar generator).
BARS = {
    (1, False): [(51, 109, 212), (133, 63, 52), (28, 212, 120)],
    (6, False): [(65, 100, 212), (112, 72, 58), (35, 212, 114)],
}
COLORS = [(0.75, 0, 0), (0, 0.75, 0), (0, 0, 0.75)]


def flat(codes, layout):
    return tuple(
        np.full(shape, code, layout.dtype)
        for shape, code in zip(layout.shapes, codes, strict=False)
    )


@pytest.mark.parametrize(("kind", "bars"), BARS.items())
@pytest.mark.parametrize("depth", [8, 10, 12])
def test_bars_are_the_standards(kind, bars, depth):
    matrix, full = kind
    layout = Layout(8, 6, depth=depth, full=full)
    for codes, color in zip(bars, COLORS, strict=True):
        planes = flat([code << (depth - 8) for code in codes], layout)
        shown = YcbcrConverter(layout, matrix).to_rgb(planes)
        np.testing.assert_allclose(shown.reshape(-1, 3), [color] * 48, atol=0.006)


def test_an_unnamed_matrix_is_guessed_by_the_lines():
    for height, matrix in ((480, 6), (576, 6), (720, 1)):
        layout = Layout(2, height)
        planes = flat((81, 90, 240), layout)
        named, unnamed = YcbcrConverter(layout, matrix), YcbcrConverter(layout, 2)
        np.testing.assert_array_equal(named.to_rgb(planes), unnamed.to_rgb(planes))


@given(
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    depth=st.sampled_from([8, 10, 12]),
    sampling=st.sampled_from([(1, 1), (2, 1), (2, 2)]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    matrix=st.sampled_from([1, 2, 4, 5, 6, 7, 9]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_what_is_left_alone_stays_code_for_code(
    width, height, depth, sampling, flags, matrix, seed
):
    layout = Layout(width, height, depth, *sampling, *flags)
    rng = np.random.default_rng(seed)
    # All codes, also those that no color has.
    planes = tuple(
        rng.integers(0, 1 << depth, shape).astype(layout.dtype) for shape in layout.shapes
    )
    converter = YcbcrConverter(layout, matrix)
    shown = converter.to_rgb(planes)
    assert shown.shape == (height, width, 3)
    assert shown.dtype == np.float32
    assert 0 <= shown.min() <= shown.max() <= 1
    for before, after in zip(planes, converter.apply_change(planes, shown), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("sampling", [(1, 1), (2, 1), (2, 2)])
def test_a_change_arrives(matrix, sampling):
    layout = Layout(16, 12, 10, *sampling)
    converter = YcbcrConverter(layout, matrix)
    planes = flat((400, 500, 540), layout)
    shown = converter.to_rgb(planes)
    wanted = shown * np.float32(0.7) + np.array([0.05, 0, 0.1], np.float32)
    np.testing.assert_allclose(
        converter.to_rgb(converter.apply_change(planes, wanted)), wanted, atol=2 / 1023
    )


def test_gray_stays_gray():
    layout = Layout(4, 4, gray=True)
    converter = YcbcrConverter(layout, 1)
    planes = flat((100,), layout)
    moved = converter.apply_change(planes, converter.to_rgb(planes) * np.float32(0.5))
    assert len(moved) == 1
    assert (moved[0] == 58).all()


def test_invalid_values_are_not_stored():
    layout = Layout(4, 4)
    converter = YcbcrConverter(layout, 1)
    planes = flat((100, 128, 128), layout)
    bad = converter.to_rgb(planes)
    bad[1, 1, 1] = np.nan
    with pytest.raises(NonFiniteError):
        converter.apply_change(planes, bad)


def test_unknown_matrices_are_known_as_such():
    assert known_matrix(1)
    assert known_matrix(2)
    assert not known_matrix(8)  # YCgCo
    assert not known_matrix(10)  # BT.2020 with constant luminance
