"""Reading every kind of file, rounding in one place, writing what was read."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ctsr_lightning.images import (
    UnreadableImageError,
    enlarge,
    image_grid,
    image_size,
    list_images,
    pad_to_multiple,
    quantize,
    read_image,
    read_pixels,
    resize_bicubic,
    rgb_to_y,
    to_uint8,
    upsample,
    write_image,
)


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def _as_numpy(image):
    return image.permute(1, 2, 0).numpy()


def test_eight_bits_are_exact(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 6, 9)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(_as_numpy(image), rgb.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(to_uint8(image), rgb)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), rgb)


def test_grey_becomes_three_equal_channels(tmp_path, rgb):
    Image.fromarray(rgb[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(to_uint8(read_image(tmp_path / "a.png")), rgb[..., :1].repeat(3, axis=2))


def test_sixteen_bits_keep_their_precision(tmp_path):
    levels = np.array([[0, 1, 257], [1000, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_allclose(_as_numpy(image)[..., 1], levels / 65535, rtol=1e-6)
    assert read_pixels(tmp_path / "a.png").dtype == np.float32


def test_alpha_is_composited_over_white(tmp_path, rgb):
    alpha = np.zeros((6, 9, 1), dtype=np.uint8)
    alpha[:, :3], alpha[:, 3:6] = 255, 51
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "a.png")
    image = _as_numpy(read_image(tmp_path / "a.png"))
    np.testing.assert_allclose(image[:, :3], rgb[:, :3] / 255, atol=1e-6)
    np.testing.assert_allclose(image[:, 3:6], 0.2 * rgb[:, 3:6] / 255 + 0.8, atol=1e-6)
    np.testing.assert_array_equal(image[:, 6:], 1.0)


def test_opaque_alpha_stays_at_eight_bits(tmp_path, rgb):
    opaque = np.concatenate([rgb, np.full((6, 9, 1), 255, dtype=np.uint8)], axis=2)
    Image.fromarray(opaque).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), rgb)


@pytest.mark.parametrize(
    ("orientation", "turn"), [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, None), (8, None)]
)
def test_exif_orientation_is_applied(tmp_path, rgb, orientation, turn):
    turn = turn or {6: lambda a: np.rot90(a, -1), 8: lambda a: np.rot90(a, 1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(to_uint8(read_image(tmp_path / "a.png")), turn(rgb))
    assert image_size(tmp_path / "a.png") == turn(rgb).shape[:2]


@pytest.mark.parametrize("mode", ["P", "CMYK", "1", "LA", "L"])
def test_other_modes_are_read(tmp_path, rgb, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    source = Image.fromarray(rgb).convert(mode)
    source.save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(to_uint8(image), np.asarray(source.convert("RGB")))


def test_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    for read in (read_image, image_size):
        with pytest.raises(UnreadableImageError, match=r"a\.jpg': it is no image"):
            read(tmp_path / "a.jpg")


def test_truncated_file_shows_when_decoding(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert image_size(path) == (64, 64)
        with pytest.raises(UnreadableImageError, match=f"a.{suffix}' as an image"):
            read_image(path)


def test_bomb_and_float_images_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError, match="no defined range"):
        read_image(tmp_path / "a.tif")
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "b.png").write_bytes(png + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    with pytest.raises(UnreadableImageError, match=r"b\.png"):
        read_image(tmp_path / "b.png")


def test_missing_file_and_folder_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        read_image(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        read_image(tmp_path)


def test_listing_is_recursive_sorted_and_leaves_other_files_out(tmp_path, rgb):
    for name in ("b.PNG", "a/c.jpg", "a/.hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rgb).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == ["a/c.jpg", "b.PNG"]


def test_listing_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        list_images(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="found none"):
        list_images(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="found a file"):
        list_images(tmp_path / "file")


def test_quantize_rounds_to_the_nearest_level_and_clips():
    image = torch.tensor([-0.2, 0.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1.3])
    np.testing.assert_array_equal(quantize(image), torch.tensor([0.0, 0.0, 0.0, 1 / 255, 1.0, 1.0]))
    np.testing.assert_array_equal(quantize(quantize(image)), quantize(image))


def test_writing_then_reading_gives_the_image_back(tmp_path):
    image = quantize(torch.rand(3, 5, 7))
    write_image(tmp_path / "new" / "a.png", image)
    assert torch.equal(read_image(tmp_path / "new" / "a.png"), image)
    write_image(tmp_path / "a.jpg", torch.full((3, 16, 16), 0.5))
    assert (read_image(tmp_path / "a.jpg") - 0.5).abs().max() < 2 / 255


def test_luma_of_black_white_and_primaries():
    colours = torch.tensor([[0.0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 0, 1]])[:, None]
    expected = np.array([16, 235, 81.481, 144.553, 40.966]) / 255
    np.testing.assert_allclose(rgb_to_y(colours)[0, 0], expected, atol=1e-6)


def test_grid_has_white_gaps():
    black = torch.zeros(3, 2, 3)
    grid = image_grid([[black, black], [black]], gap=1)
    assert grid.shape == (3, 5, 7)
    assert grid.sum() == 3 * (5 * 7 - 3 * 6)


@pytest.mark.parametrize("size", [(27, 14), (18, 28), (5, 4), (9, 7)])
def test_bicubic_is_pillows(size):
    image = torch.rand(1, 3, 9, 7)
    for channel, found in zip(image[0], resize_bicubic(image, size)[0], strict=True):
        resized = Image.fromarray(channel.numpy()).resize(size[::-1], Image.Resampling.BICUBIC)  # 32-bit float
        np.testing.assert_allclose(found.numpy(), np.asarray(resized).clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_enlargements_are_that_bicubic(scale, dtype):
    lq = torch.rand(2, 3, 9, 7, dtype=dtype)
    size = (9 * scale, 7 * scale)
    by_factor = F.interpolate(lq, scale_factor=scale, mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.equal(upsample(lq, scale), by_factor)
    assert torch.equal(upsample(lq, scale), resize_bicubic(lq, size))
    assert torch.equal(enlarge(lq, torch.zeros(2, 3, *size)), upsample(lq.float(), scale))
    nearest = enlarge(lq, torch.zeros(2, 3, *size), "nearest")
    assert torch.equal(nearest[..., ::scale, ::scale], lq.float())
    assert upsample(lq, 1) is lq


def test_padding_reflects_where_it_can():
    image = torch.rand(1, 3, 11, 14)
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 5), (0, 2)), mode="reflect")
    np.testing.assert_array_equal(pad_to_multiple(image, 8).numpy(), expected)
    few = pad_to_multiple(image[..., :4, :], 8)  # four rows cannot be reflected by four
    assert torch.equal(few[..., 4:, :14], image[..., 3:4, :].expand(1, 3, 4, 14))
    assert torch.equal(few[..., :4, 14:], image[..., :4, [12, 11]])
    assert pad_to_multiple(few, 8) is few


def test_padding_has_a_least_size():
    row = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(1, 1, 1, 5).expand(1, 1, 5, 5)
    assert pad_to_multiple(row, 4, least=2)[0, 0, 7].tolist() == [1, 2, 3, 4, 5, 4, 3, 2]
    assert pad_to_multiple(row[..., :2, :3], 4, least=2)[0, 0, 7].tolist() == [1, 2, 3, 3, 3, 3, 3, 3]
    assert torch.equal(pad_to_multiple(row[..., :4, :4], 2, least=2), row[..., :4, :4])
    assert pad_to_multiple(row[..., :1, :4], 4, least=2).shape == (1, 1, 8, 8)
