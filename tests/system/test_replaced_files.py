"""A replaced file keeps its mode, its owner and the links to it."""

import os
import stat

import pytest

from varfix.engine.system.atomic import AtomicWriter, other_names


def test_the_mode_of_a_replaced_file_is_kept(tmp_path):
    target = tmp_path / "a.jpg"
    target.write_bytes(b"old")
    target.chmod(0o600)
    AtomicWriter().write(target, b"new")
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_new_file_has_the_mode_that_the_user_gives_files(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    AtomicWriter().write(tmp_path / "a.jpg", b"new")
    assert (tmp_path / "a.jpg").stat().st_mode == plain.stat().st_mode


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root")
def test_the_owner_of_a_replaced_file_is_kept(tmp_path):
    target = tmp_path / "a.jpg"
    target.write_bytes(b"old")
    os.chown(target, 1234, 5678)
    AtomicWriter().write(target, b"new")
    assert (target.stat().st_uid, target.stat().st_gid) == (1234, 5678)


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    real = tmp_path / "elsewhere" / "real.jpg"
    real.parent.mkdir()
    real.write_bytes(b"old")
    link = tmp_path / "a.jpg"
    link.symlink_to(real)
    AtomicWriter().write(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert [path.name for path in real.parent.iterdir()] == ["real.jpg"]


def test_other_names_of_a_file_are_counted(tmp_path):
    path = tmp_path / "a.jpg"
    assert other_names(path) == 0
    path.write_bytes(b"old")
    assert other_names(path) == 0
    (tmp_path / "b.jpg").hardlink_to(path)
    assert other_names(path) == 1
