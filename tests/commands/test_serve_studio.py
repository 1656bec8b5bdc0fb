"""What `ctsr serve` does with photos, without a browser."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ctsr_lightning.cli import main
from ctsr_lightning.commands.serve import recorder
from ctsr_lightning.inference.control_map import automatic_map, fit_map
from ctsr_lightning.inference.photos import Photo
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.serve.card import card_html, degraded, examples
from ctsr_lightning.serve.painted import Painted, automatic_cells
from ctsr_lightning.serve.photos import GoneError, HeldPhoto, PhotoStore
from ctsr_lightning.serve.studio import Studio, TooLargeError, safe_name


def file(width: int = 12, height: int = 8, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A random image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    found = io.BytesIO()
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels).save(found, kind)
    return found.getvalue()


def image(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def studio(stage2: str) -> Studio:
    restorer = Restorer.from_pretrained(stage2, "cpu", tile=8)
    return Studio(restorer, recorder(stage2, "float32", None), max_bytes=10_000, max_pixels=400)


def restored(studio: Studio, data: bytes, name: str = "a.png", **options: Any) -> str:
    key = studio.take(data, name, **options)
    assert list(studio.restore(key))[-1]["seconds"] > 0
    return key


def test_progress_counts_the_tiles(studio: Studio) -> None:
    key = studio.take(file(20, 8), "a.png")
    found = list(studio.restore(key))
    total = studio.restorer.tiles(8, 20, 2)
    assert total == 18  # 3 for the networks, 2 x 3 for the ends, and as many for the statistics
    assert [one["done"] for one in found] == [*range(total + 1), total]
    assert {one["total"] for one in found} == {total}
    assert [(one["done"], one["total"]) for one in studio.restore(key)] == [(0, 0), (0, 0)]  # it was done
    assert [one["done"] for one in studio.restore(key, "adain")] == [*range(13), 12]  # both ends anew


def test_what_is_computed_equals_the_restorer(studio: Studio) -> None:
    data = file()
    key = restored(studio, data)
    lq = torch.from_numpy(image(data) / np.float32(255)).permute(2, 0, 1)
    for t, color in ((0.0, "none"), (0.3, "wavelet")):
        studio.restorer.color = color
        expected = studio.restorer(lq, t).mul(255).round().permute(1, 2, 0).numpy()
        shown, seconds = studio.image(key, t, color)
        assert (image(shown) == expected).all()
        assert seconds > 0
    assert image(studio.enlarged(key)).shape == (32, 48, 3)


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG")])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_downloads_are_what_upscale_writes(
    studio: Studio, stage2: str, tmp_path: Path, mode: str, kind: str, suffix: str
) -> None:
    (tmp_path / "a.b.png").write_bytes(data := file(mode=mode, kind=kind))
    main(["upscale", str(tmp_path / "a.b.png"), str(tmp_path / "out"), "--checkpoint", stage2, "--device", "cpu",
          "--tile", "8", "--control", "0.5", "--color", "adain", "--format", suffix])  # fmt: skip
    name, found, _ = studio.file(restored(studio, data, "a.b.png"), suffix, 0.5, "adain")
    assert name == f"a.b.{suffix}"
    assert found == (tmp_path / "out" / name).read_bytes()


def test_a_map_holds_where_it_is_painted(studio: Studio) -> None:
    cells = np.zeros((4, 6, 2), np.uint8)
    cells[:, :3, 0] = 255
    painted = Painted(6, 4, cells.tobytes())
    t = painted.control(0.2, (32, 48))
    assert t.shape == (32, 48)
    assert t[:, :16].eq(1.0).all()
    assert torch.allclose(t[:, 32:], torch.tensor(0.2))
    cells[...] = (0, 255)
    assert Painted(6, 4, cells.tobytes()).control(0.7, (8, 8)).eq(0.0).all()
    key = restored(studio, file(16, 8))
    cells[:, 3:] = 0
    ends = [image(studio.image(key, end, "none")[0]).astype(int) for end in (0.0, 1.0)]
    mixed = image(studio.image(key, 1.0, "none", Painted(6, 4, cells.tobytes()))[0]).astype(int)
    assert abs(mixed[:, -16:] - ends[1][:, -16:]).max() <= 1
    assert abs(mixed[:, :16] - ends[0][:, :16]).mean() < 0.2 * abs(ends[1][:, :16] - ends[0][:, :16]).mean()
    _, data, _ = studio.file(key, "png", 1.0, "none", painted)
    assert f"t={painted.name} " in Image.open(io.BytesIO(data)).getexif()[11]
    with pytest.raises(ValueError, match="Expected a map of two bytes a cell"):
        Painted(6, 4, b"xx").control(0.0, (8, 8))
    with pytest.raises(ValueError, match="Expected a map"):
        Painted(0, 0, b"").control(0.0, (8, 8))


def test_the_automatic_map_as_cells(studio: Studio) -> None:
    photo = studio.store.get(studio.take(file(16, 8), "a.png")).photo
    cells = np.frombuffer(automatic_cells(photo, 64, 32), np.uint8).reshape(32, 64)
    expected = fit_map(automatic_map(photo.colours[None]), (32, 64))[0, 0]
    assert abs(cells / 255.0 - expected.numpy()).max() <= 0.5 / 255.0 + 1e-6
    assert cells.min() < cells.max()
    for width, height in ((0, 5), (5, 1025)):
        with pytest.raises(ValueError, match=f"Expected a map of 1 to 1024 cells a side, found {width}x{height}"):
            automatic_cells(photo, width, height)


def test_files_and_photos_beyond_the_limits(studio: Studio) -> None:
    with pytest.raises(ValueError, match=r"at most 0\.01 MB, found 0\.0 MB"):
        studio.take(bytes(10_001), "a.png")
    with pytest.raises(ValueError, match=r"Cannot read 'a\.png': it is no image") as error:
        studio.take(b"no image", "../../a.png")
    assert "/" not in str(error.value)
    with pytest.raises(TooLargeError, match="30 × 20 pixels"):
        studio.take(file(30, 20), "a.png")
    with pytest.raises(ValueError, match="one of shrink and middle, found 'all'"):
        studio.take(file(30, 20), "a.png", "all")  # type: ignore[arg-type]
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    studio.max_bytes = 1 << 20
    for part in ("", "shrink"):
        with pytest.raises(ValueError, match=r"9000 × 9000 pixels, 81\.0 million\. Photos of up to 50 million"):
            studio.take(bomb.getvalue(), "bomb.png", part)
    assert len(studio.store) == 0


def test_parts_of_large_photos(studio: Studio) -> None:
    data = file(30, 20, mode="RGBA")
    middle = studio.store.get(studio.take(data, "a.png", "middle"))
    assert middle.photo.colours.shape == (3, 16, 24)
    alpha = torch.from_numpy(image(data)[2:18, 3:27, 3] / np.float32(255))
    assert middle.photo.picture.alpha is not None
    assert torch.equal(middle.photo.picture.alpha[0], alpha)
    shrunk = studio.store.get(studio.take(data, "a.png", "shrink"))
    assert shrunk.photo.colours.shape == (3, 16, 24)
    assert shrunk.photo.picture.notes == ("it was made smaller, 24 × 16 of its 30 × 20 pixels",)
    key = restored(studio, data, part="shrink")
    assert Image.open(io.BytesIO(studio.file(key, "png", 0.0, "none")[1])).getexif()[11].endswith(":shrink")
    assert studio.store.get(studio.take(file(), "a.png", "shrink")).photo.colours.shape == (3, 8, 12)


def test_requests_out_of_order_and_of_nobody(studio: Studio) -> None:
    key = studio.take(file(), "a.png")
    with pytest.raises(ValueError, match="restoration has not ended"):
        studio.image(key, 0.0, "none")
    with pytest.raises(ValueError, match="png or jpg, found 'exe'"):
        studio.file(key, "exe", 0.0, "none")  # type: ignore[arg-type]
    steps = studio.restore(key)
    next(steps)
    studio.store.drop(key)
    for work in (lambda: studio.enlarged(key), lambda: next(studio.restore(key))):
        with pytest.raises(GoneError, match="no longer held here"):
            work()
    with suppress(GoneError):  # whoever leaves stops the computation, unless that was faster
        assert list(steps)[-1]["done"] == studio.restorer.tiles(8, 12, 2)


def test_closing_ends_what_is_computed(studio: Studio) -> None:
    key = studio.take(file(20, 20), "a.png")
    steps = studio.restore(key)
    next(steps)
    studio.close()
    assert not studio._computing.locked()
    with pytest.raises(GoneError):  # the rest of its tiles
        list(steps)
    assert len(studio.store) == 0


def test_the_store_stays_within_its_limit() -> None:
    def held(size: int) -> HeldPhoto:
        from ctsr_lightning.images import Picture

        return HeldPhoto("a", b"", Photo.of(Picture(torch.zeros(3, 1, size))))

    store = PhotoStore(4 * 3 * 100)
    first, second = store.add(held(40)), store.add(held(40))
    store.get(first)  # now the second is unused for longest
    third = store.add(held(40))
    assert store.get(first)
    assert store.get(third)
    with pytest.raises(GoneError):
        store.get(second)
    alone = store.add(held(1000))
    assert len(store) == 1
    assert store.get(alone).size == 12_000
    store.drop(alone)
    store.drop(alone)
    assert len(store) == 0


@pytest.mark.parametrize(
    ("name", "safe"),
    [("a.jpg", "a.jpg"), ("../b/c d.png", "c d.png"), ("C:\\x\\y.tif", "y.tif"), ("..", "photo"), ("", "photo"),
     ("a\n<b>.png", "ab.png"), ("x" * 300 + ".jpeg", "x" * 90 + ".jpeg"), ("ü.png", "ü.png")],
)  # fmt: skip
def test_safe_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_the_card_and_the_examples(stage2: str, tmp_path: Path) -> None:
    restorer = Restorer.from_pretrained(stage2, "cpu")
    restorer.source = tmp_path / "stage2" / "weights.safetensors"
    (tmp_path / "README.md").write_text("---\nlicense: x\n---\n# A card\n<script>x</script>\n\n| a |\n|---|\n| 1 |\n")
    card = card_html(restorer)
    assert "<h1>A card</h1>" in card
    assert "<td>1</td>" in card
    assert "license" not in card
    assert "<script>" not in card
    assert "enlarges by 4, t, also painted" in card
    pytest.importorskip("skimage")
    found = examples()
    assert list(found) == ["chelsea.jpg", "coffee.jpg"]
    assert max(image(found["chelsea.jpg"]).shape) == 128
    Image.new("RGB", (300, 150)).save(tmp_path / "a.png")
    assert image(degraded(tmp_path / "a.png")).shape == (64, 128, 3)


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["serve"])
    assert "pip install 'ctsr-lightning[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["max_mb", "max_pixels", "memory_mb"])
def test_limits_above_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    with pytest.raises(SystemExit):
        main(["serve", f"--{option}", "0"])
    assert f"Expected a --{option} above 0" in capsys.readouterr().err
