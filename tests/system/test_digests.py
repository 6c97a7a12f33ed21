"""The edge digest covers the first and last MiB, however the content is read."""

import pytest

from varfix.engine.system.digests import edge_digest, edge_digest_by_range, edge_digest_of_file


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 5, (2 << 20) + 5])
def test_the_digest_is_of_the_first_and_last_mebibyte(tmp_path, size):
    data = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    data = data[:size]
    (tmp_path / "file").write_bytes(data)
    assert edge_digest_of_file(tmp_path / "file") == edge_digest(data)
    assert edge_digest_by_range(size, lambda start, end: data[start:end]) == edge_digest(data)
    if size > 2 << 20:
        middle = bytearray(data)
        middle[(1 << 20) + 2] ^= 1
        assert edge_digest(bytes(middle)) == edge_digest(data)
