"""The two plain codecs: exact examples, and what they are as baselines."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.laws.codecs.members import pictures
from tokenry.codecs import DctCodec, DctCodecConfig, MuLawCodec, MuLawCodecConfig
from tokenry.tokens import Codes, InputError


def psnr(codec: DctCodec, codes: Codes, x: Tensor) -> float:
    with torch.no_grad():
        return float(10 * torch.log10(4 / (codec.decode(codes).clamp(-1, 1) - x).square().mean()))


def test_a_grey_picture_takes_its_first_coefficient_only() -> None:
    codec = DctCodec(DctCodecConfig(patch=4, levels=(255, 3, 3), bands=2))
    x = torch.full((1, 3, 8, 12), 0.3)
    codes = codec.encode(x)
    assert isinstance(codes, Codes)
    assert codes.ids.shape == (1, 2 * 2 * 3, 1)
    assert codes.scales == ((1, 2, 3), (1, 2, 3))
    assert codec.quantizer.digits(codes.ids)[0, :, 1:].unique().tolist() == [1]  # the middle of three levels
    torch.testing.assert_close(codec.decode(codes).detach(), x, rtol=0, atol=0.02)


def test_many_levels_for_every_coefficient_give_the_picture_back() -> None:
    codec = DctCodec(DctCodecConfig(patch=2, levels=(1023,) * 2, bands=6))
    x = pictures(2, 0)
    codec.fit(x)
    assert psnr(codec, codec.encode(x), x) > 35  # type: ignore[arg-type]


def test_fitting_is_worth_more_than_a_decibel() -> None:
    codec, x = DctCodec(DctCodecConfig(patch=8, bands=2)), pictures(16, 1)
    before = psnr(codec, codec.encode(x), x)  # type: ignore[arg-type]
    codec.fit(pictures(64, 2))
    after = psnr(codec, codec.encode(x), x)  # type: ignore[arg-type]
    assert after > before + 1


def test_a_block_cannot_have_more_coefficients_than_pixels_nor_codes_another_size() -> None:
    with pytest.raises(InputError, match="3 bands of 6 coefficients are 18, of the 12 that a block has"):
        DctCodec(DctCodecConfig(patch=2))
    codec, x = DctCodec(DctCodecConfig()), torch.zeros(1, 3, 8, 16)
    assert codec.decode(codec.encode(x), size=(8, 16)).shape == x.shape
    with pytest.raises(InputError, match=r"8 x 16 pixels, not of \(16, 16\)"):
        codec.decode(codec.encode(x), size=(16, 16))


def test_pictures_of_several_sizes_are_decoded_one_by_one() -> None:
    codec = DctCodec(DctCodecConfig(bands=1))
    ids = torch.zeros(2, 2, 1, dtype=torch.long)
    grids = torch.tensor([[1, 1, 2], [1, 2, 1]])
    both = Codes(ids, torch.tensor([2, 2]), codec.quantizer.sizes, grids, None, codec.fingerprint())
    with pytest.raises(InputError, match="Decode them one by one"):
        codec.decode(both)


def test_mu_law_by_hand() -> None:
    codec = MuLawCodec(MuLawCodecConfig(bits=8))
    x = torch.tensor([[[-1.0, -0.01, 0.01, 0.5, 1.0, 2.0]]])
    codes = codec.encode(x)
    assert isinstance(codes, Codes)
    # 128 + 128 ln(1 + 255 * 0.5) / ln(256) = 240.07; 0.01 -> 157.2
    assert codes.ids.flatten().tolist() == [0, 98, 157, 240, 255, 255]
    assert codes.grid is not None
    assert codes.grid.tolist() == [[6, 1, 1]]
    back = codec.decode(codes).detach()
    torch.testing.assert_close(back, x.clamp(max=1), rtol=0.03, atol=1e-3)


def test_mu_law_fits_its_range_to_what_is_loud() -> None:
    codec, x = MuLawCodec(MuLawCodecConfig()), torch.tensor([[[-0.003, 0.002, 0.0]]])
    codec.fit(x)
    assert float(codec.peak.detach()) == 2.0**-8
    torch.testing.assert_close(codec.decode(codec.encode(x)).detach(), x, rtol=0.03, atol=1e-5)
    with pytest.raises(InputError, match="1 to 16 bits, got 0"):
        MuLawCodec(MuLawCodecConfig(bits=0))


def test_a_fingerprint_follows_weights_settings_and_class() -> None:
    codec = DctCodec(DctCodecConfig()).eval()
    known = codec.fingerprint()
    assert len(known) == 16
    assert DctCodec(DctCodecConfig()).fingerprint() == known
    assert DctCodec(DctCodecConfig(levels=(8, 8, 8, 5, 5, 6))).fingerprint() != known
    with torch.no_grad():
        codec.spread[0] *= 2
    assert codec.fingerprint() != known
    with torch.no_grad():
        codec.spread[0] /= 2
    assert codec.fingerprint() == known
    codec.train()
    codec.spread.data[0] *= 2
    assert codec.fingerprint() != known
