import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.train.test_trainer import PAD, STAGE_2, trained, weights
from tests.train.tiny import SIZE, tiny_owl, tiny_stage

from open_owl.train.visual_cache import SHARDS, VisualFeatureCache


def pictures(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def cache(folder: Path, owl=None, max_gib: float = 1.0, precision: str = "cpu float32") -> VisualFeatureCache:
    return VisualFeatureCache((owl or tiny_owl()[0]).eval(), precision, folder, max_gib)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_cached_patches_are_those_that_the_encoder_gives(tmp_path):
    owl = tiny_owl()[0].eval()
    with torch.no_grad():
        expected = owl.model.read_patches(pictures())
    first, second = cache(tmp_path, owl), cache(tmp_path, owl)
    computed = first.patches(pictures())
    torch.testing.assert_close(computed, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(second.patches(pictures()), computed)
    assert (first.hits, first.misses, second.hits, second.misses) == (0, 3, 3, 0)


def test_what_is_kept_of_a_picture_does_not_depend_on_what_it_came_with(tmp_path):
    owl = tiny_owl()[0]
    together = cache(tmp_path / "a", owl).patches(pictures(5))
    alone = torch.cat([cache(tmp_path / "b", owl).patches(picture[None]) for picture in pictures(5)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("change", ["weights", "config", "precision", "pixels"])
def test_another_encoder_or_another_preprocessing_never_finds_the_old_features(tmp_path, change):
    cache(tmp_path).patches(pictures())
    owl, precision, pixels = tiny_owl()[0], "cpu float32", pictures()
    if change == "weights":
        next(owl.model.vision_model.parameters()).data[0] += 1e-3
    elif change == "config":
        owl.model.vision_model.config.layer_norm_eps = 1e-3
    elif change == "precision":
        precision = "cpu bfloat16"
    else:
        pixels = pixels + 1e-3
    changed = cache(tmp_path, owl, precision=precision)
    changed.patches(pixels)
    assert changed.misses == 3


def test_a_full_cache_computes_what_it_cannot_keep_and_throws_out_nothing_of_this_encoder(tmp_path):
    size = files_size(tmp_path / "probe", pictures(1))
    small = cache(tmp_path / "small", max_gib=2.5 * size * SHARDS / 2**30)
    for seed in range(300):
        small.patches(pictures(1, seed))
    for shard in (tmp_path / "small").iterdir():
        assert sum(file.stat().st_size for file in shard.iterdir()) <= 2.5 * size
    kept = files(tmp_path / "small")
    assert 150 < len(kept) < 300
    small.hits = small.misses = 0
    for seed in range(300):
        small.patches(pictures(1, seed))
    assert small.hits == len(kept)
    assert files(tmp_path / "small") == kept


def files_size(folder: Path, pixels: torch.Tensor) -> int:
    cache(folder).patches(pixels)
    return files(folder)[0].stat().st_size


def test_features_of_another_encoder_make_room_once_they_are_stale(tmp_path):
    size = files_size(tmp_path / "probe", pictures(1))
    room_for_one = 1.5 * size * SHARDS / 2**30
    cache(tmp_path, max_gib=room_for_one).patches(pictures(1))
    (old,) = (file for file in files(tmp_path) if "probe" not in file.parts)
    other = tiny_owl(seed=1)[0]
    cache(tmp_path, other, room_for_one).patches(pictures(1))
    assert old.exists(), "it may belong to a run that goes on"
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    cache(tmp_path, other, room_for_one).patches(pictures(1))
    assert not old.exists()
    again = cache(tmp_path, other, room_for_one)
    again.patches(pictures(1))
    assert again.hits == 1


@pytest.mark.parametrize("content", [b"", b"not tensors"])
def test_a_spoiled_file_is_computed_anew_and_replaced(tmp_path, content):
    expected = cache(tmp_path).patches(pictures(1))
    (file,) = files(tmp_path)
    file.write_bytes(content)
    assert torch.equal(cache(tmp_path).patches(pictures(1)), expected)
    assert file.stat().st_size > len(content)


WRITER = """
import sys, torch
from pathlib import Path
from tests.train.test_visual_cache import cache, pictures
mine = cache(Path(sys.argv[1]))
for seed in range(40):
    torch.save(mine.patches(pictures(2, seed)), f"{sys.argv[2]}-{seed}.pt")
"""


def test_processes_that_write_the_same_pictures_at_once_all_read_them_whole(tmp_path):
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "cache"), str(tmp_path / f"process{number}")],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        )
        for number in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    for seed in range(40):
        one, other = (torch.load(tmp_path / f"process{number}-{seed}.pt") for number in range(2))
        assert torch.equal(one, other)
    assert len(files(tmp_path / "cache")) == 80
    assert not list((tmp_path / "cache").rglob("writing-*"))


def test_a_stage_learns_the_same_with_and_without_the_cache_and_from_a_warm_one(tmp_path, monkeypatch):
    monkeypatch.setenv("OPEN_OWL_CACHE", str(tmp_path / "cache"))
    plain = weights(trained(tmp_path / "plain", STAGE_2))
    cold = trained(tmp_path / "cold", STAGE_2, cache_visual_features=True)
    assert cold.visual_cache.misses > 0
    warm = trained(tmp_path / "warm", STAGE_2, cache_visual_features=True)
    assert (warm.visual_cache.misses, warm.visual_cache.hits > 0) == (0, True)
    for name, weight in weights(cold).items():
        torch.testing.assert_close(weight, plain[name], atol=1e-5, rtol=1e-4)
        assert torch.equal(weights(warm)[name], weight), name


def test_features_of_an_encoder_that_learns_are_not_cached():
    with pytest.raises(ValueError, match="the vision model learns"):
        tiny_stage(
            learns={"vision_model": "full", "abstractor": "full", "language_model": "frozen"},
            cache_visual_features=True,
        )


def test_pictures_are_given_once(tmp_path):
    owl = tiny_owl()[0]
    with pytest.raises(ValueError, match="not as both"):
        owl(input_ids=torch.tensor([[PAD]]), pixel_values=pictures(1), image_patches=torch.zeros(1, 5, 16))


def test_a_disk_that_takes_nothing_costs_the_cache_and_not_the_run(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("open_owl.train.visual_cache.save_file", full)
    owl = tiny_owl()[0].eval()
    with torch.no_grad():
        expected = owl.model.read_patches(pictures())
    torch.testing.assert_close(cache(tmp_path, owl).patches(pictures()), expected, atol=1e-6, rtol=1e-5)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
