"""OutputCache on disk: found by content, written whole, and never taken for those of other networks."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from ctsr_lightning.cache.cached_prompt import CachedPrompt
from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.images import content_key, quantize

MADE_WITH = {"student": "S 1", "fidelity": "T 1", "scale": "4", "prompt": "P 1"}


def images(count: int = 3, side: int = 6) -> torch.Tensor:
    return quantize(torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def cache(tmp_path: Path) -> OutputCache:
    """Records of three images, in which z_0 is the image's mean and the prompt its number."""
    made = OutputCache(tmp_path / "cache")
    made.open(MADE_WITH, {"pool": 3, "seed": 5})
    for number, image in enumerate(images()):
        made.write(image, {"z_0": image.mean(dim=(1, 2)), "prompt": torch.full((2, 6), float(number))})
    return made


def test_the_key_is_the_same_everywhere() -> None:
    image = torch.arange(48).view(3, 4, 4) / 255.0
    assert content_key(image) == "ca12fabeb30d073b994f139fc8197a69"  # caches that exist must be found again
    assert content_key(image) == content_key(image.double())
    assert content_key(image) == content_key(image + 1e-7)  # rounding of float32
    assert content_key(image) == content_key(image.clone().permute(1, 2, 0).contiguous().permute(2, 0, 1))


def test_another_image_has_another_key() -> None:
    image = images(1)[0]
    level = image.clone()
    level[1, 2, 3] += 1 / 255 if level[1, 2, 3] < 0.5 else -1 / 255
    others = [image.flip(-1), image[:, 1:, :], image.reshape(3, 4, 9), image.transpose(1, 2), level]
    assert len({content_key(other) for other in [image, *others]}) == 6


def test_images_of_16_bits_count_by_16_bits() -> None:
    deep = torch.randint(0, 65536, (3, 5, 5), generator=torch.Generator().manual_seed(1)) / 65535.0
    step = deep.clone()
    step[0, 0, 0] += 1 / 65535 if step[0, 0, 0] < 0.5 else -1 / 65535
    assert len({content_key(x) for x in (deep, step, quantize(deep))}) == 3
    assert content_key(deep) == content_key(deep + 1e-7)
    eight = torch.randint(0, 256, (3, 5, 5), generator=torch.Generator().manual_seed(1))
    assert content_key(eight * 257 / 65535.0) == content_key(eight / 255.0)  # an 8-bit image in a 16-bit file


def test_records_come_back_in_any_batch(cache: OutputCache) -> None:
    lq = images()
    for order in ([0, 1, 2], [2, 0], [1]):
        z_0, prompt = cache.read(lq[order], "z_0", "prompt")
        assert torch.equal(z_0, torch.stack([image.mean(dim=(1, 2)) for image in lq[order]]))
        assert prompt[:, 0, 0].tolist() == order
    assert len(cache) == 3


def test_making_one_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("glob", "is_file", "read_text", "iterdir"):
        monkeypatch.setattr(Path, name, None)
    OutputCache(tmp_path / "nowhere")


def test_an_unknown_image_is_explained(cache: OutputCache) -> None:
    with pytest.raises(
        ValueError, match=r"cached output for this image of 6x6 pixels in '.*cache' \(it holds 3\)"
    ) as err:
        cache.read(images().flip(-1), "z_0")
    assert "made with pool 3, seed 5" in str(err.value)
    assert "Or run `ctsr cache` again" in str(err.value)


def test_a_record_that_lacks_something_is_explained(cache: OutputCache) -> None:
    with pytest.raises(ValueError, match=r"Expected z_0, fidelity of an image of 6x6 .* found prompt, z_0 only"):
        cache.read(images(), "z_0", "fidelity")


def test_missing_records(cache: OutputCache) -> None:
    lq = torch.cat([images(), images().flip(-1)])
    assert cache.missing(lq, ["z_0"]) == [3, 4, 5]
    assert cache.missing(lq, ["z_0", "fidelity"]) == [0, 1, 2, 3, 4, 5]
    path = cache._file(content_key(lq[1]))
    path.write_bytes(path.read_bytes()[:-3])
    path.with_name(f".{path.stem}.0.part.safetensors").write_bytes(b"half")
    assert cache.missing(lq[:3], ["z_0"]) == [1]
    cache.write(lq[1], {"z_0": torch.ones(3)})  # a damaged record is replaced
    assert torch.equal(cache.read(lq[1:2], "z_0")[0], torch.ones(1, 3))
    assert len(cache) == 3


def test_records_grow(cache: OutputCache) -> None:
    lq = images()
    cache.write(lq[0], {"fidelity": torch.zeros(3, 2, 2, dtype=torch.uint8), "z_0": torch.zeros(3)})
    fidelity, z_0, prompt = cache.read(lq[:1], "fidelity", "z_0", "prompt")
    assert fidelity.dtype == torch.uint8
    assert not z_0.any()
    assert not prompt.any()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interruption_leaves_nothing(
    cache: OutputCache, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(path: Path, content: bytes) -> None:
        path.touch()
        raise error

    monkeypatch.setattr(Path, "write_bytes", stop)
    before = sorted(cache.folder.rglob("*.*"))
    with pytest.raises(type(error)) as raised:
        cache.write(images().flip(-1)[0], {"z_0": torch.zeros(3)})
    assert sorted(cache.folder.rglob("*.*")) == before
    if isinstance(error, OSError):
        assert str(raised.value.filename).endswith(".safetensors")


def test_outputs_of_other_networks_are_refused(cache: OutputCache) -> None:
    cache.check({"student": "S 1"})
    cache.open(MADE_WITH, {"pool": 9})
    assert cache.description()["data"] == {"pool": 9}
    other = {**MADE_WITH, "student": "S 2", "precision": "bfloat16"}
    for refuse in (cache.check, lambda cache_signature: cache.open(cache_signature, {})):
        with pytest.raises(ValueError, match=r"student: 'S 1', not 'S 2'; precision: 'nothing', not 'bfloat16'"):
            refuse(other)


def test_a_folder_that_is_no_cache_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a cache of `ctsr cache` in .* found no cache.json"):
        OutputCache(tmp_path).check(MADE_WITH)
    (tmp_path / "cache.json").write_text("{}")
    with pytest.raises(ValueError, match="Expected the description of a cache"):
        OutputCache(tmp_path).check(MADE_WITH)
    (tmp_path / "cache.json").write_text(json.dumps({"format": 9, "cache_signature": {}, "data": {}}))
    with pytest.raises(ValueError, match=r"Expected a cache of format 1 .* found 9"):
        OutputCache(tmp_path).check(MADE_WITH)


def test_a_cached_prompt_is_found_by_the_image(cache: OutputCache) -> None:
    prompt = CachedPrompt(cache.folder)
    assert prompt(images()[[2, 1]], ["any", "names"])[:, 0, 0].tolist() == [2, 1]
    assert prompt.varies
    assert not prompt.state_dict()
    assert prompt.stands_for == "P 1"
    assert prompt.double()(images()).dtype == torch.float64
    with pytest.raises(ValueError, match="no cached output for this image"):
        prompt(images().flip(-1))
