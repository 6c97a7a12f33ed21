"""What the network is shown: photographs, pairs, and the batches made of them."""

import cv2
import numpy as np
import pytest
import torch

from varfix.engine.errors import NothingToDoError, PlanError
from varfix.engine.models.card import TASKS
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.train.data.batches import Batches, fitted_shares, sampler, truth_told
from varfix.engine.train.data.pairs import load_pairs
from varfix.engine.train.data.photos import load_photos, random_cut
from varfix.engine.train.data.prefetch import feed, from_process, from_thread
from varfix.engine.train.data.source import Blended, Synthetic
from varfix.engine.train.degradations.mix import Mix
from varfix.engine.train.recipes.recipe import StageRecipe
from varfix.engine.train.stages.varformer_s import sample_prior

CPU = torch.device("cpu")
STAGE = StageRecipe(steps=9, batch_size=2, patches=1, patch=64)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batches(folder):
    source = Synthetic(load_photos([folder]), Mix({"gaussian": 1.0, "rain": 1.0}))
    return Batches(source, STAGE, 3, CPU)


@pytest.fixture
def pair_folders(tmp_path):
    """Two pairs whose damaged image is its target, darker by 40."""
    for number in range(2):
        noise = np.random.default_rng(number).integers(110, 190, (260, 300, 3), np.uint8)
        for name, picture in (("input", noise - 40), ("target", noise)):
            (tmp_path / name).mkdir(exist_ok=True)
            assert cv2.imwrite(str(tmp_path / name / f"{number}.png"), picture)
    return tmp_path / "input", tmp_path / "target"


def test_a_batch_is_the_same_whenever_it_is_made(batches):
    first, again, other = batches[4], batches[4], batches[5]
    assert torch.equal(first.patches, again.patches)
    assert not torch.equal(first.patches, other.patches)
    assert first.patches.shape == (2, 3, 64, 64)
    assert first.samplers.shape == (2, 2, 4, 16)


@pytest.mark.parametrize("made", [from_process, from_thread, lambda b, s: feed(b, s, CPU)])
def test_batches_come_in_order_whoever_makes_them(batches, made):
    for step, batch in zip((2, 5, 7), made(batches, [2, 5, 7]), strict=True):
        assert torch.equal(batch.patches, batches[step].patches)


def test_a_feed_that_is_left_early_ends_its_thread(batches):
    import threading

    before = threading.active_count()
    ready = from_thread(batches, range(1000))
    next(ready)
    ready.close()
    assert threading.active_count() == before


def test_an_error_while_making_a_batch_is_raised_where_it_is_wanted():
    class Broken:
        def __getitem__(self, step):
            raise ValueError("no such picture")

    with pytest.raises(ValueError, match="no such picture"):
        next(from_thread(Broken(), [0]))


def test_pictures_that_are_too_small_are_left_out(folder):
    assert len(load_photos([folder])) == 2


def test_several_folders_are_read(folder):
    assert len(load_photos([folder, folder])) == 4


def test_no_photographs_is_an_error_that_says_what_is_wanted(tmp_path):
    with pytest.raises(NothingToDoError, match="no images"):
        load_photos([tmp_path])


@pytest.mark.parametrize("threads", [1, 4])
def test_cuts_are_the_same_however_many_threads_cut(folder, threads):
    photos = load_photos([folder])
    torch.set_num_threads(threads)
    try:
        cuts = photos.batch(8, 128, rng(3))
    finally:
        torch.set_num_threads(1)
    assert cuts.shape == (8, 3, 128, 128)
    assert torch.equal(cuts, photos.batch(8, 128, rng(3)))


def test_some_cuts_are_as_they_are_some_larger_and_some_smaller():
    cuts = [random_cut((2000, 2000), 256, rng(seed)) for seed in range(400)]
    heights = np.array([cut.height for cut in cuts])
    assert 0.15 < (heights == 256).mean() < 0.35
    assert 0.08 < (heights < 256).mean() < 0.25
    assert heights.min() >= 256 / 1.6 - 1
    assert 0.5 < (heights > 256).mean() < 0.7


def test_a_pair_is_cut_at_the_same_place(pair_folders):
    drawn = load_pairs(*pair_folders, task="rain").draw(6, 256, rng())
    assert drawn.picture.shape == (6, 3, 256, 256)
    difference = (drawn.target - drawn.picture) * 255.0
    torch.testing.assert_close(difference, torch.full_like(difference, 40.0), atol=1.01, rtol=0)
    assert set(load_pairs(*pair_folders, task="rain").draw(40, 256, rng()).task.tolist()) == {
        0,
        TASKS.index("rain"),
    }


def test_pairs_are_mixed_with_synthetic_pictures_in_the_given_share(folder, pair_folders):
    synthetic = Synthetic(load_photos([folder]), Mix({"identity": 1.0}))
    source = Blended(synthetic, load_pairs(*pair_folders, task="auto"), 0.25)
    names = [name for seed in range(25) for name in source.draw(4, 64, rng(seed)).names]
    assert set(names) == {"own", "identity"}
    assert 10 <= names.count("own") <= 40


def test_a_stage_may_want_other_shares_of_the_degradations(folder, pair_folders):
    synthetic = Synthetic(load_photos([folder]), Mix({"gaussian": 1.0}, tone_jitter=0.0))
    for source in (synthetic, Blended(synthetic, load_pairs(*pair_folders, task="lowlight"), 0.5)):
        changed = source.mixed({"rain": 1.0})
        names = set(source.draw(20, 64, rng()).names), set(changed.draw(20, 64, rng()).names)
        assert names in [({"gaussian"}, {"rain"}), ({"gaussian", "own"}, {"rain", "own"})]


def test_pairs_of_different_sizes_and_folders_without_pairs_are_refused(pair_folders, tmp_path):
    small = np.zeros((256, 256, 3), np.uint8)
    assert cv2.imwrite(str(pair_folders[1] / "1.png"), small)
    with pytest.raises(PlanError, match="differ in size"):
        load_pairs(*pair_folders, task="auto")
    for folder in pair_folders:
        for file in folder.iterdir():
            assert cv2.imwrite(str(file), small[:20, :20])
    with pytest.raises(NothingToDoError, match="no pairs"):
        load_pairs(*pair_folders, task="auto")


def test_a_pool_is_dealt_out_whole_each_patch_once(folder):
    stage = StageRecipe(steps=9, batch_size=3, patches=4, patch=64, per_step=2)
    source = Synthetic(load_photos([folder]), Mix({"gaussian": 1.0}))
    pool = Batches(source, stage, 3, CPU)[0]
    assert stage.parts == 6
    parts = [pool.dealt(part, stage.parts) for part in range(stage.parts)]
    assert all(part.patches.shape == (2, 3, 64, 64) for part in parts)
    assert torch.equal(torch.cat([part.patches for part in parts]), pool.patches / 255.0)
    assert sorted(torch.cat([part.owner for part in parts]).tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert any(len(set(part.owner.tolist())) == 2 for part in parts)  # images are mixed


def test_patches_come_from_their_pictures_and_their_samplers_fit(folder):
    stage = StageRecipe(steps=9, batch_size=3, image_sizes=(256,), patches=8, patch=64, per_step=2)
    source = Synthetic(load_photos([folder]), Mix({"identity": 1.0}))
    pool = Batches(source, stage, 3, CPU)[0]
    # The image is its own thumbnail, so means of its cells are a prior that can be compared.
    cells = torch.nn.functional.avg_pool2d(pool.clean, 16)
    ours = sample_prior(cells[pool.owner], pool.samplers)
    theirs = torch.nn.functional.avg_pool2d(pool.patches / 255.0, 16)
    assert (ours - theirs).abs().mean() < 0.25 * theirs.std()


def test_wide_pools_have_a_quarter_of_the_patches_and_as_many_steps(folder):
    stage = StageRecipe(steps=9, batch_size=2, patches=8, patch=64, per_step=4, wide=1.0)
    source = Synthetic(load_photos([folder]), Mix({"rain": 1.0}))
    pool = Batches(source, stage, 3, CPU)[0]
    assert pool.patches.shape == (4, 3, 128, 128)
    assert pool.dealt(3, stage.parts).patches.shape == (1, 3, 128, 128)


def test_what_is_told_is_the_truth_with_some_doubt_or_nothing():
    present = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [-1.0] * 6]).repeat(200, 1)
    told = truth_told(present, 0.5, rng())
    assert (told[1::2] == -1.0).all()
    known = told[::2]
    silent = (known == -1.0).all(1)
    assert 0.35 < silent.float().mean() < 0.65
    assert (known[~silent, 0] >= 0.5).all()
    assert (known[~silent, 1:] <= 0.5).all()
    assert known[~silent, 1:].max() > 0.2


def test_grids_are_moved_to_fitting_ones_only_where_tones_are_shifted():
    present = torch.zeros(300, 6)
    present[::3, KINDS.index("haze")] = 1.0
    present[1::3, KINDS.index("noise")] = 1.0
    shares = fitted_shares(present, 0.5, rng())
    assert (shares[1::3] == 0.0).all()
    assert (shares[2::3] == 0.0).all()
    assert 0.3 < (shares[::3] > 0.0).float().mean() < 0.7
    assert shares[shares > 0.0].min() >= 0.6


def test_training_samples_the_prior_as_inference_does():
    from varfix.engine.restoration.prior_maps import sample_prior as crop_prior

    maps = torch.rand(6, 16, 16)
    rows, columns = sampler(torch.tensor([96, 208]), 128, 448)
    ours = rows @ maps @ columns.T
    theirs = crop_prior(maps.numpy(), (448, 448), (96, 208), (128, 128), 16)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-5, rtol=1e-5)
