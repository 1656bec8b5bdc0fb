"""Both codecs."""

import math

import pytest
import torch
from safetensors.torch import save_file

from ctsr_lightning.codecs import KLCodec, NanoCodec
from ctsr_lightning.codecs.codec import signed_to_unit, unit_to_signed
from ctsr_lightning.codecs.nano_codec import channel_gains, cosine_basis
from ctsr_lightning.images import read_image
from helpers import tiny


@pytest.mark.parametrize("channels", [1, 4, 12, 48])
def test_cosine_filters_are_orthonormal(channels):
    rows = cosine_basis(channels).double().flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(channels, dtype=torch.float64), rtol=0, atol=1e-6)


def test_first_three_filters_are_patch_means():
    means = cosine_basis(48).mean(dim=(2, 3)).norm(dim=1)
    assert sorted(torch.nonzero(means > 1e-6).flatten().tolist()) == [0, 1, 2]
    assert (channel_gains(48)[:3] < channel_gains(48)[3:].min()).all()


@pytest.mark.parametrize("channels", [0, 49])
def test_impossible_channel_counts_are_refused(channels):
    with pytest.raises(ValueError, match="1 to 48 channels"):
        NanoCodec(channels, 8)


@pytest.mark.parametrize("channels", [3, 24, 48])
def test_constant_latents_decode_to_a_constant_image_whatever_the_weights(channels):
    codec = NanoCodec(channels, 8, (8, 8, 8)).double()
    for parameter in codec.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    latent = torch.randn(2, channels, 1, 1, dtype=torch.float64).expand(2, channels, 6, 7)
    image = codec.decode(latent)
    assert image.shape == (2, 3, 24, 28)
    assert image.std(dim=1).min() > 1e-3  # a colour, not nothing
    torch.testing.assert_close(image, image[..., :1, :1].expand_as(image), rtol=0, atol=1e-12)


def test_a_shift_of_the_latent_shifts_colours_only_before_training():
    codec, generator = NanoCodec(24, 8).double(), torch.Generator().manual_seed(0)
    latent, shift = (torch.randn(1, 24, s, s, generator=generator, dtype=torch.float64) for s in (8, 1))
    change = codec.decode(latent + shift) - codec.decode(latent)
    torch.testing.assert_close(change, change[..., :1, :1].expand_as(change), rtol=0, atol=1e-12)


def test_one_patch_of_mid_frequencies_comes_back_weaker_by_its_share_in_the_local_mean():
    # The synthesis takes the mean over 3x3 patches off every coefficient that is no patch mean: 8/9 of a lone one stay.
    codec = NanoCodec(48, 8).double()
    latent = torch.zeros(1, 48, 5, 5, dtype=torch.float64)
    latent[0, 20, 2, 2] = 1.0
    own = codec.decode(latent)[0, :, 8:12, 8:12]
    basis = cosine_basis(48)[20].double() / channel_gains(48)[20].double()
    torch.testing.assert_close(own, basis * 8 / 9, rtol=0, atol=1e-6)


def test_patch_means_alone_keep_a_smooth_image():
    y, x = torch.meshgrid(torch.linspace(0, math.pi, 64), torch.linspace(0, math.pi, 64), indexing="ij")
    image = (0.8 * x.cos() * y.cos() + 0.2 * torch.stack([x.sin(), y.sin(), (x + y).cos()]))[None]
    codec = NanoCodec(channels=3, width=8)
    error = (codec.decode(codec.encode(image)) - image).square().mean()
    assert 10 * math.log10(4.0 / error.item()) > 45.0  # peak to peak is 2


def test_latent_has_the_promised_grid():
    assert NanoCodec(channels=7, width=8).encode(torch.zeros(2, 3, 16, 24)).shape == (2, 7, 4, 6)


def test_patches_overlap():
    # Which pixels answer to the latent at (3, 3), whose own patch is 12..15?
    latent = torch.randn(1, 4, 8, 8, requires_grad=True)
    row = NanoCodec(4, 8).decode(latent)[0, :, 12].sum(dim=0)
    reached = [
        column for column in range(32)
        if torch.autograd.grad(row[column], latent, retain_graph=True)[0][0, :, 3, 3].abs().sum() > 0
    ]  # fmt: skip
    assert reached == list(range(8, 20))


def test_encoder_correction_sees_across_patches():
    codec, image = tiny.nano_codec(), torch.rand(1, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(codec.encode(image)[0, :, 3, 3].sum(), image)
    columns = torch.nonzero(gradient.abs().sum(dim=(0, 1, 2))).flatten()
    assert columns.min() < 12
    assert columns.max() > 15


def test_nano_codec_has_no_posterior_to_sample():
    with pytest.raises(ValueError, match="sample=False"):
        NanoCodec(4, 8).encode(torch.zeros(1, 3, 8, 8), sample=True)


def test_kl_latent_is_the_scaled_mode_of_the_posterior():
    autoencoder = tiny.autoencoder()
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    codec = KLCodec(autoencoder)
    moments = autoencoder.quant_conv(autoencoder.encoder(image))
    torch.testing.assert_close(codec.encode(image), 0.18215 * moments[:, :4])
    assert (codec.factor, codec.channels) == (4, 4)


def test_kl_sample_has_the_spread_of_the_posterior():
    autoencoder = tiny.autoencoder()
    image, codec = torch.rand(1, 3, 16, 16) * 2 - 1, KLCodec(autoencoder)
    _, log_variance = autoencoder.quant_conv(autoencoder.encoder(image)).chunk(2, dim=1)
    torch.manual_seed(5)
    drawn = codec.encode(image, sample=True)
    torch.manual_seed(5)
    noise = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(drawn - codec.encode(image), 0.18215 * (0.5 * log_variance).exp() * noise)


def test_kl_decoder_undoes_the_scaling():
    autoencoder, latent = tiny.autoencoder(), torch.randn(1, 4, 4, 4)
    expected = autoencoder.decoder(autoencoder.post_quant_conv(latent / 0.18215))
    torch.testing.assert_close(KLCodec(autoencoder).decode(latent), expected)


def test_ranges_map_onto_each_other():
    image = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    assert unit_to_signed(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1.0, 0.0, 1.0]
    torch.testing.assert_close(signed_to_unit(unit_to_signed(image)), image, rtol=0, atol=1e-15)
    assert signed_to_unit(torch.tensor([3.0]).bfloat16()).dtype == torch.float32
    assert signed_to_unit(torch.tensor([3.0])).item() == 2.0


def test_codec_weights_come_back(tmp_path):
    trained = tiny.nano_codec()
    save_file({f"codec.{k}": v for k, v in trained.state_dict().items()}, tmp_path / "weights.safetensors")
    loaded = NanoCodec(4, 8, weights=tmp_path / "weights.safetensors")
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded.encode(image), trained.encode(image))


def test_sample_photo_survives_twelve_channels():
    skimage = pytest.importorskip("skimage")
    from pathlib import Path

    photo = read_image(Path(skimage.__file__).parent / "data" / "astronaut.png")[None, :, :256, :256] * 2 - 1
    codec = NanoCodec(channels=12, width=8)
    error = (codec.decode(codec.encode(photo)) - photo).square().mean()
    assert 10 * math.log10(4.0 / error.item()) > 28.0
