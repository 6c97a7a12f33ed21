"""Training on a GPU: batches are created there, and no operation falls back to the CPU."""

import json
from collections import Counter

import pytest
import torch

from varfix.engine.train.data.batches import Batches
from varfix.engine.train.data.photos import load_photos
from varfix.engine.train.data.prefetch import feed
from varfix.engine.train.data.source import Synthetic
from varfix.engine.train.degradations.mix import DEGRADATIONS, Mix, degrade
from varfix.engine.train.recipes.recipe import StageRecipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a CUDA device"),
]
STAGE = StageRecipe(steps=4, batch_size=2, patches=1, patch=64)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_degradation_stays_on_the_device(name):
    clean = torch.rand(4, 3, 128, 128, device="cuda")
    damaged = degrade(clean, Mix({name: 1.0}), torch.Generator("cuda").manual_seed(1))
    assert damaged.image.device == damaged.task.device == clean.device
    assert torch.isfinite(damaged.image).all()


def test_batches_are_prefetched_by_a_thread_and_reproducible(folder):
    device = torch.device("cuda")
    source = Synthetic(load_photos([folder]), Mix({"rain": 1.0, "haze": 1.0}))
    batches = Batches(source, STAGE, 3, device)
    for step, batch in enumerate(feed(batches, range(4), device)):
        assert torch.equal(batch.patches, batches[step].patches)
        assert batch.thumbnail.device.type == "cuda"


def test_a_run_on_a_gpu_resumes_and_ends(folder, tmp_path, tiny, weights):
    tiny.trainer(folder, tmp_path, *tiny.ONLY_VQVAE).run()
    tiny.trainer(folder, tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = {"vqvae": 3, "prior": 3, "heads": 4, "judge": 4, "restorer": 5}
    assert Counter(line["stage"] for line in lines) == expected
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())
