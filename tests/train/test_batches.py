"""Training images: clean images, pairs, and the batches that are created from them."""

import cv2
import numpy as np
import pytest
import torch

from varfix.engine.errors import NothingToDoError, PlanError
from varfix.engine.models.card import TASKS
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.train.data.batches import (
    Batches,
    draw_given_scores,
    fitted_shares,
    sampling_matrix,
)
from varfix.engine.train.data.pairs import load_pairs
from varfix.engine.train.data.photos import load_photos, random_crop
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
        for name, image in (("input", noise - 40), ("target", noise)):
            (tmp_path / name).mkdir(exist_ok=True)
            assert cv2.imwrite(str(tmp_path / name / f"{number}.png"), image)
    return tmp_path / "input", tmp_path / "target"


def test_equal_numbers_give_equal_batches(batches):
    first, again, other = batches[4], batches[4], batches[5]
    assert torch.equal(first.patches, again.patches)
    assert not torch.equal(first.patches, other.patches)
    assert first.patches.shape == (2, 3, 64, 64)
    assert first.sampling.shape == (2, 2, 4, 16)


@pytest.mark.parametrize("prefetch", [from_process, from_thread, lambda b, s: feed(b, s, CPU)])
def test_batches_are_in_order_from_process_and_thread(batches, prefetch):
    for step, batch in zip((2, 5, 7), prefetch(batches, [2, 5, 7]), strict=True):
        assert torch.equal(batch.patches, batches[step].patches)


def test_closing_a_feed_early_ends_its_thread(batches):
    import threading

    before = threading.active_count()
    ready = from_thread(batches, range(1000))
    next(ready)
    ready.close()
    assert threading.active_count() <= before  # threads of earlier tests may end meanwhile


def test_an_error_in_a_batch_is_raised_in_the_consumer():
    class Broken:
        def __getitem__(self, step):
            raise ValueError("no such image")

    with pytest.raises(ValueError, match="no such image"):
        next(from_thread(Broken(), [0]))


def test_images_that_are_too_small_are_omitted(folder):
    assert len(load_photos([folder])) == 2


def test_several_folders_are_read(folder):
    assert len(load_photos([folder, folder])) == 4


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(NothingToDoError, match="no images"):
        load_photos([tmp_path])


@pytest.mark.parametrize("threads", [1, 4])
def test_crops_do_not_depend_on_the_number_of_threads(folder, threads):
    photos = load_photos([folder])
    torch.set_num_threads(threads)
    try:
        crops = photos.batch(8, 128, rng(3))
    finally:
        torch.set_num_threads(1)
    assert crops.shape == (8, 3, 128, 128)
    assert torch.equal(crops, photos.batch(8, 128, rng(3)))


def test_crops_keep_their_scale_or_are_shrunk_or_enlarged():
    crops = [random_crop((2000, 2000), 256, rng(seed)) for seed in range(400)]
    heights = np.array([crop.height for crop in crops])
    assert 0.15 < (heights == 256).mean() < 0.35
    assert 0.08 < (heights < 256).mean() < 0.25
    assert heights.min() >= 256 / 1.6 - 1
    assert 0.5 < (heights > 256).mean() < 0.7


def test_both_images_of_a_pair_have_the_same_crop(pair_folders):
    drawn = load_pairs(*pair_folders, task="rain").draw(6, 256, rng())
    assert drawn.image.shape == (6, 3, 256, 256)
    difference = (drawn.target - drawn.image) * 255.0
    torch.testing.assert_close(difference, torch.full_like(difference, 40.0), atol=1.01, rtol=0)
    assert set(load_pairs(*pair_folders, task="rain").draw(40, 256, rng()).task.tolist()) == {
        0,
        TASKS.index("rain"),
    }


def test_pairs_have_the_given_share_among_synthetic_images(folder, pair_folders):
    synthetic = Synthetic(load_photos([folder]), Mix({"identity": 1.0}))
    source = Blended(synthetic, load_pairs(*pair_folders, task="auto"), 0.25)
    names = [name for seed in range(25) for name in source.draw(4, 64, rng(seed)).names]
    assert set(names) == {"own", "identity"}
    assert 10 <= names.count("own") <= 40


def test_a_stage_can_have_other_shares_of_the_degradations(folder, pair_folders):
    synthetic = Synthetic(load_photos([folder]), Mix({"gaussian": 1.0}, tone_jitter=0.0))
    for source in (synthetic, Blended(synthetic, load_pairs(*pair_folders, task="lowlight"), 0.5)):
        changed = source.mixed({"rain": 1.0})
        names = set(source.draw(20, 64, rng()).names), set(changed.draw(20, 64, rng()).names)
        assert names in [({"gaussian"}, {"rain"}), ({"gaussian", "own"}, {"rain", "own"})]


def test_pairs_of_different_sizes_and_folders_without_pairs_are_rejected(pair_folders, tmp_path):
    small = np.zeros((256, 256, 3), np.uint8)
    assert cv2.imwrite(str(pair_folders[1] / "1.png"), small)
    with pytest.raises(PlanError, match="differ in size"):
        load_pairs(*pair_folders, task="auto")
    for folder in pair_folders:
        for file in folder.iterdir():
            assert cv2.imwrite(str(file), small[:20, :20])
    with pytest.raises(NothingToDoError, match="no pairs"):
        load_pairs(*pair_folders, task="auto")


def test_each_patch_of_a_pool_is_in_one_batch(folder):
    stage = StageRecipe(steps=9, batch_size=3, patches=4, patch=64, per_step=2)
    source = Synthetic(load_photos([folder]), Mix({"gaussian": 1.0}))
    pool = Batches(source, stage, 3, CPU)[0]
    assert stage.parts == 6
    parts = [pool.split(part, stage.parts) for part in range(stage.parts)]
    assert all(part.patches.shape == (2, 3, 64, 64) for part in parts)
    assert torch.equal(torch.cat([part.patches for part in parts]), pool.patches / 255.0)
    assert sorted(torch.cat([part.owner for part in parts]).tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert any(len(set(part.owner.tolist())) == 2 for part in parts)  # images are mixed


def test_sampling_matrices_match_the_places_of_patches(folder):
    stage = StageRecipe(steps=9, batch_size=3, image_sizes=(256,), patches=8, patch=64, per_step=2)
    source = Synthetic(load_photos([folder]), Mix({"identity": 1.0}))
    pool = Batches(source, stage, 3, CPU)[0]
    # The image is its own thumbnail, so means of its cells are a prior that can be compared.
    cells = torch.nn.functional.avg_pool2d(pool.clean, 16)
    ours = sample_prior(cells[pool.owner], pool.sampling)
    theirs = torch.nn.functional.avg_pool2d(pool.patches / 255.0, 16)
    assert (ours - theirs).abs().mean() < 0.25 * theirs.std()


def test_wide_pools_have_a_quarter_of_the_patches_and_as_many_steps(folder):
    stage = StageRecipe(steps=9, batch_size=2, patches=8, patch=64, per_step=4, wide=1.0)
    source = Synthetic(load_photos([folder]), Mix({"rain": 1.0}))
    pool = Batches(source, stage, 3, CPU)[0]
    assert pool.patches.shape == (4, 3, 128, 128)
    assert pool.split(3, stage.parts).patches.shape == (1, 3, 128, 128)


def test_given_scores_are_perturbed_true_ones_or_none():
    present = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [-1.0] * 6]).repeat(200, 1)
    given = draw_given_scores(present, 0.5, rng())
    assert (given[1::2] == -1.0).all()
    known = given[::2]
    hidden = (known == -1.0).all(1)
    assert 0.35 < hidden.float().mean() < 0.65
    assert (known[~hidden, 0] >= 0.5).all()
    assert (known[~hidden, 1:] <= 0.5).all()
    assert known[~hidden, 1:].max() > 0.2


def test_grids_are_fitted_only_where_tones_are_shifted():
    present = torch.zeros(300, 6)
    present[::3, KINDS.index("haze")] = 1.0
    present[1::3, KINDS.index("noise")] = 1.0
    shares = fitted_shares(present, 0.5, rng())
    assert (shares[1::3] == 0.0).all()
    assert (shares[2::3] == 0.0).all()
    assert 0.3 < (shares[::3] > 0.0).float().mean() < 0.7
    assert shares[shares > 0.0].min() >= 0.6


def test_training_and_inference_sample_the_prior_alike():
    from varfix.engine.restoration.prior_maps import sample_prior as sample_prior_as_inference

    maps = torch.rand(6, 16, 16)
    rows, columns = sampling_matrix(torch.tensor([96, 208]), 128, 448)
    ours = rows @ maps @ columns.T
    theirs = sample_prior_as_inference(maps.numpy(), (448, 448), (96, 208), (128, 128), 16)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-5, rtol=1e-5)
