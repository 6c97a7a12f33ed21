"""`varfix dir --in-place` and `varfix undo`, as a user types them."""

import stat

import pytest
from support.in_place import states

from varfix.cli.main import invoke


@pytest.fixture
def photos(tmp_path, image):
    for number, name in enumerate(("a.png", "b/c.png")):
        image(tmp_path / "photos" / name, seed=number).chmod(0o640 + number)
    return tmp_path / "photos"


@pytest.fixture
def restore(varfix, photos, shelf):
    """Run `varfix dir --in-place photos` with a model that inverts."""
    model = shelf.restore(nodes=[("Sub", ["c1", "tile"], ["restored"], {})])

    def run(*more):
        return varfix("dir", "--in-place", photos, "-m", model, "-d", "cpu", *more)

    return run


def test_there_and_back(varfix, restore, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    before = states(photos)
    done = restore()
    assert done.exit_code == 0, done.stderr
    assert f"originals are in {photos}/.varfix/originals; 'varfix undo {photos}' brings" in (
        done.stderr.replace("\n", " ")
    )
    assert states(photos) != before
    assert "2 originals to bring back, 0 left alone" in varfix("undo", "-n", photos).stdout
    back = varfix("undo", photos)
    assert (back.exit_code, back.stdout) == (0, "")
    assert "2 originals brought back" in back.stderr
    assert states(photos) == before
    assert stat.S_IMODE((photos / "b" / "c.png").stat().st_mode) == 0o641
    again = varfix("undo", photos)
    assert again.exit_code == 3
    assert "has no originals of images in" in again.stderr


def test_a_backup_folder_is_named_again(varfix, restore, photos, tmp_path):
    before = states(photos)
    done = restore("--backup", tmp_path / "kept")
    assert f"'varfix undo --backup {tmp_path / 'kept'} {photos}'" in done.stderr.replace("\n", " ")
    lost = varfix("undo", photos)
    assert lost.exit_code == 2
    assert f"add --backup {tmp_path / 'kept'}" in lost.stderr
    (tmp_path / "kept").rename(tmp_path / "moved")
    assert varfix("undo", "--backup", tmp_path / "moved", photos).exit_code == 0
    assert states(photos) == before


def test_a_changed_image_is_named_and_left_alone(varfix, restore, photos):
    before = states(photos)
    restore()
    (photos / "a.png").write_bytes(b"cropped")
    assert "a.png: changed, left alone" in varfix("undo", "-n", photos).stdout
    back = varfix("undo", photos)
    assert back.exit_code == 1
    assert "a.png: was changed after varfix restored it and is left alone" in back.stderr
    assert "1 original brought back, 1 changed image left alone" in back.stderr
    assert (photos / "a.png").read_bytes() == b"cropped"
    assert varfix("undo", "--overwrite", photos).exit_code == 0
    assert states(photos) == before


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["out"], "--in-place takes one folder"),
        (["--cluster", "auto"], "--in-place works on this machine only"),
        (["--name", "{stem}_x{ext}"], "--in-place keeps the names"),
        (["-f", "webp"], "--in-place keeps the formats"),
        (["--set", "output.format=png"], "--in-place keeps the formats"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work(restore, photos, words, text):
    before = states(photos)
    done = restore(*words)
    assert done.exit_code == 2
    assert text in " ".join(done.stderr.split())
    assert states(photos) == before
    assert not (photos / ".varfix").exists()


def test_undo_with_another_backup_does_not_recommend_itself(varfix, restore, photos, tmp_path):
    restore("--backup", tmp_path / "kept")
    done = varfix("undo", photos)
    assert done.exit_code == 2
    assert done.stderr.rstrip().endswith(f"add --backup {tmp_path / 'kept'}")


def test_addresses_are_refused(varfix, tmp_path):
    done = varfix("dir", "--in-place", "memory://photos")
    assert done.exit_code == 2
    assert "--in-place requires a folder on a disk" in done.stderr
    assert "must be a folder on a disk" in varfix("undo", "memory://photos").stderr


def test_one_argument_needs_the_option(varfix, photos, tmp_path):
    done = varfix("dir", photos)
    assert done.exit_code == 2
    assert "Missing argument 'DST' (or use --in-place)" in done.stderr
    assert varfix("dir", "--backup", tmp_path / "k", photos, tmp_path / "o").exit_code == 2


def test_a_folder_onto_itself_names_the_option(varfix, photos):
    done = varfix("dir", photos, photos)
    assert done.exit_code == 2
    assert f"use 'varfix dir --in-place {photos}'" in done.stderr


def test_a_dry_run_keeps_and_replaces_nothing(restore, photos):
    before = states(photos)
    done = restore("-n")
    assert "2 to restore" in done.stdout
    assert states(photos) == before
    assert not (photos / ".varfix").exists()


def test_the_strength_can_be_changed_afterwards(varfix, restore, photos, tmp_path, pixels):
    """The originals and the results are what `varfix blend` takes."""
    before = {path.name: pixels(path) for path in photos.rglob("*.png")}
    restore()
    kept = photos / ".varfix" / "originals"
    done = varfix("blend", "-s", "0", kept, photos, tmp_path / "softer")
    assert done.exit_code == 0, done.stderr
    blended = {path.name: pixels(path) for path in (tmp_path / "softer").rglob("*.png")}
    assert blended.keys() == before.keys()
    for name, samples in before.items():
        assert (blended[name] == samples).all()


def test_it_is_a_usage_error_to_undo_what_does_not_exist():
    assert invoke(["undo", "/nonexistent-folder"]) == 2
