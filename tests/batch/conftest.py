"""A source and a destination for each test of runs."""

import pytest
from support.runs import Setup


@pytest.fixture
def setup(tmp_path):
    (tmp_path / "in").mkdir()
    return Setup(tmp_path / "in", tmp_path / "out")
