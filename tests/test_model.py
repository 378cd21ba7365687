"""The network: shapes, tiles, window attention, the four passes, rate levels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import PUBLISHED_TINY, TINY, make_network, photo
from torch import Tensor

from dlfc import raw
from dlfc.entropy.prior import ONE, FourPasses, IntegerPrior, to_integers
from dlfc.entropy.tables import scale_thresholds
from dlfc.model import dlf
from dlfc.model.base import LinearBase, cut_patches, join_patches
from dlfc.model.bottleneck import SKIP_SCALE, Bottleneck, at_level, gaussian_bits, pass_masks
from dlfc.model.config import PAPER, DLFConfig
from dlfc.model.detail import WindowAttention
from dlfc.model.dlf import Codebook, as_floats, pad_to_tiles
from dlfc.model.generator import Generator
from dlfc.model.vit import Exchange, cut_tiles, join_tiles
from dlfc.tensors import padded


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, PUBLISHED_TINY], ids=["with a linear base", "as published"])
def test_every_part_has_the_shape_that_its_description_names(config: DLFConfig) -> None:
    tall, wide = 1, 2
    x = noise(1, 3, tall * config.tile_px, wide * config.tile_px).clamp(-1, 1)
    cells = tall * config.grid, wide * config.grid
    with torch.inference_mode():
        out = make_network(config)(x, torch.tensor([0.0]))
    tiles, tokens = tall * wide, config.tokens_per_tile
    assert out.tokens.shape == (tiles, tokens)
    assert out.token_inputs.shape == (tiles, tokens, config.token_dim)
    assert out.detail.shape == (1, config.detail_dim, cells[0] // 2, cells[1] // 2)
    assert out.detail_hat.shape == out.detail.shape
    for part in (out.quantised.symbols, out.quantised.scales, out.quantised.values, out.quantised.bits):
        assert part.shape == (1, config.latent_dim, cells[0] // 2, cells[1] // 2)
    assert out.semantic_map.shape == (1, *cells, config.width)
    assert out.detail_map.shape == (1, *cells, config.detail_dim)
    assert out.logits.shape == (1, *cells, config.mixture_size)
    assert out.latent.shape == (1, config.mixture_dim, *cells)
    assert out.image.shape == x.shape
    assert (out.base is None) == (config.base_components == 0)
    assert out.base is None or out.base.shape == x.shape


def test_the_picture_that_forward_gives_is_the_one_that_reconstruct_gives() -> None:
    network, level = make_network(), torch.tensor([1.5])
    with torch.inference_mode():
        out = network(noise(1, 3, 128, 64).clamp(-1, 1), level)
        again = network.reconstruct(out.tokens, out.quantised.values * out.quantised.step, level)
    torch.testing.assert_close(again, out.image, rtol=0, atol=1e-5)


def test_tokens_detail_and_level_all_reach_the_picture() -> None:
    network = make_network()
    tokens, latent = torch.zeros(1, 8, dtype=torch.long), noise(1, 8, 2, 2)
    with torch.inference_mode():
        first = network.reconstruct(tokens, latent, torch.tensor([0.0]))
        assert not torch.allclose(first, network.reconstruct(tokens + 1, latent, torch.tensor([0.0])), atol=1e-4)
        assert not torch.allclose(first, network.reconstruct(tokens, -latent, torch.tensor([0.0])), atol=1e-4)
        network.bottleneck.decode_gain[1] = 3.0
        assert not torch.allclose(first, network.reconstruct(tokens, latent, torch.tensor([1.0])), atol=1e-4)


def test_a_side_that_is_no_multiple_of_a_tile_is_padded_by_replication() -> None:
    x = noise(1, 3, 65, 40)
    padded = pad_to_tiles(x, 64)
    assert padded.shape == (1, 3, 128, 64)
    assert torch.equal(padded[:, :, :65, :40], x)
    assert torch.equal(padded[:, :, 65:, :40], x[:, :, 64:].expand(-1, -1, 63, -1))
    assert torch.equal(padded[:, :, :65, 40:], x[:, :, :, 39:].expand(-1, -1, -1, 24))
    assert torch.equal(padded[:, :, 65:, 40:], x[:, :, 64:, 39:].expand(-1, -1, 63, 24))


def test_forward_of_an_odd_size_equals_forward_of_its_padding_cut_back() -> None:
    network, x = make_network(), noise(1, 3, 50, 70).clamp(-1, 1)
    with torch.inference_mode():
        small = network(x, torch.tensor([1.0])).image
        whole = network(pad_to_tiles(x, 64), torch.tensor([1.0])).image
    assert small.shape == x.shape
    assert torch.equal(small, whole[:, :, :50, :70])


# --- configuration ------------------------------------------------------------------------------------------------


def test_a_configuration_comes_back_from_its_dictionary() -> None:
    for config in (TINY, PUBLISHED_TINY, PAPER):
        assert DLFConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"latent_dim": 10}, "multiple of 4"),
        ({"closed_levels": 3}, "below levels"),
        ({"generator_mult": (1, 2)}, "patch grid"),
        ({"base_region_px": (16, 16)}, "one region per token"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(TINY, **change)  # type: ignore[arg-type]


def test_an_unknown_field_of_a_configuration_is_refused() -> None:
    with pytest.raises(TypeError):
        DLFConfig.from_dict({**TINY.to_dict(), "wdith": 3})


# --- tiles and patches --------------------------------------------------------------------------------------------


def test_tiles_that_are_cut_and_joined_give_the_map_again() -> None:
    x = noise(2, 8, 12, 5)
    assert torch.equal(join_tiles(cut_tiles(x, 4), 4, 8, 12), x)


def test_tiles_and_the_cells_in_them_stand_in_raster_order() -> None:
    rows, cols = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    tiles = cut_tiles(torch.stack([rows, cols], -1)[None].float(), 4)
    assert tiles.shape == (6, 16, 2)
    assert tiles[1, 0].tolist() == [0, 4]  # the second tile is to the right of the first
    assert tiles[3, 0].tolist() == [4, 0]
    assert tiles[0, 5].tolist() == [1, 1]


def test_patches_that_are_cut_and_joined_give_the_picture_again() -> None:
    x = noise(2, 3, 8, 12)
    assert torch.equal(join_patches(cut_patches(x, 2, 4), 2, 4), x)
    assert torch.equal(cut_patches(x, 2, 4)[1, 3, 2], x[1, :, 6:8, 8:12].reshape(-1))


def test_each_token_of_the_linear_base_paints_its_own_region() -> None:
    base = LinearBase(TINY).requires_grad_(False)
    tokens = torch.zeros(4, 8, dtype=torch.long)  # 2x2 tiles of 4x2 regions of 16x32 pixels
    before = base.token_image(tokens, 128, 128)
    tokens[3, 5] = 7  # third row, right column of the last tile
    changed = (base.token_image(tokens, 128, 128) != before).any(1)[0]
    assert changed.nonzero().min(0).values.tolist() == [64 + 32, 64 + 32]
    assert changed.nonzero().max(0).values.tolist() == [64 + 47, 64 + 63]


def test_the_linear_base_reads_a_token_from_the_region_that_it_paints() -> None:
    base = LinearBase(TINY).requires_grad_(False)
    x = torch.zeros(1, 3, 128, 128)
    before = base.tokens(x)
    x[:, :, 96:112, 96:128] = 1
    changed = (base.tokens(x) != before).any(-1).nonzero()
    assert changed.tolist() == [[3, 5]]


# --- attention ----------------------------------------------------------------------------------------------------


def plain_window_attention(layer: WindowAttention, x: Tensor) -> Tensor:
    """What `layer` computes, cell by cell, from the definition: no rolling, no tiles, no masks."""
    _, h, w, c = x.shape
    side, shift = layer.window, layer.window // 2 if layer.shifted else 0
    out = torch.zeros_like(x)
    heads, dim = layer.heads, c // layer.heads
    cells = [(row, col) for row in range(h) for col in range(w)]

    def window_of(row: int, col: int) -> tuple[int, int]:
        return (row - shift) // side, (col - shift) // side  # those at the border are smaller, none wraps around

    def place(row: int, col: int) -> int:
        return (row - shift) % side * side + (col - shift) % side

    q, k, v = layer.qkv(x[0]).view(h, w, 3, heads, dim).permute(2, 0, 1, 3, 4)
    for row, col in cells:
        mates = [cell for cell in cells if window_of(*cell) == window_of(row, col)]
        bias = []
        for other_row, other_col in mates:
            if layer.relative:
                bias.append(layer.bias[other_row - row + side - 1, other_col - col + side - 1])
            else:
                bias.append(layer.bias[place(row, col), place(other_row, other_col)])
        for head in range(heads):
            keys = torch.stack([k[r, s, head] for r, s in mates])
            values = torch.stack([v[r, s, head] for r, s in mates])
            weights = torch.softmax(keys @ q[row, col, head] / dim**0.5 + torch.stack(bias), 0)
            out[0, row, col, head * dim : (head + 1) * dim] = weights @ values
    return layer.out(out)


@pytest.mark.parametrize("relative", [False, True], ids=["pair table", "offset table"])
@pytest.mark.parametrize("shifted", [False, True], ids=["plain", "shifted"])
@pytest.mark.parametrize("size", [(4, 4), (8, 12)])
def test_window_attention_equals_its_definition(shifted: bool, relative: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    layer = WindowAttention(8, 4, 4, shifted=shifted, relative=relative).requires_grad_(False).double()
    layer.bias.normal_()
    x = noise(1, *size, 8).double()
    torch.testing.assert_close(layer(x), plain_window_attention(layer, x), rtol=0, atol=1e-12)


def test_window_attention_treats_the_maps_of_a_batch_apart() -> None:
    torch.manual_seed(1)
    layer = WindowAttention(8, 4, 4, shifted=True, relative=False).requires_grad_(False).double()
    layer.bias.normal_()
    x = noise(3, 8, 12, 8).double()
    torch.testing.assert_close(layer(x), torch.cat([layer(one[None]) for one in x]), rtol=0, atol=1e-12)


def test_training_works_after_pictures_were_coded_in_the_same_process() -> None:
    layer = WindowAttention(8, 4, 2, shifted=True, relative=True)  # a window size that no other test caches
    with torch.inference_mode():
        layer(noise(1, 4, 4, 8))
    layer(noise(1, 4, 4, 8)).sum().backward()
    assert layer.bias.grad is not None


def test_an_exchange_changes_the_tokens_of_a_tile_by_the_detail_of_that_tile_alone() -> None:
    torch.manual_seed(0)
    exchange = Exchange(6, 8, 4, 3, 2, 1).requires_grad_(False)
    exchange.semantic_add.weight.normal_()
    semantic, detail = noise(2, 3, 6), noise(1, 2, 4, 8)
    before, before_map = exchange(semantic, detail)
    detail[:, :, 2:] = noise(1, 2, 2, 8, seed=1)
    after, after_map = exchange(semantic, detail)
    assert torch.allclose(before[0], after[0], atol=1e-6)
    assert not torch.allclose(before[1], after[1], atol=1e-2)
    assert torch.allclose(before_map[:, :, :2], after_map[:, :, :2], atol=1e-6)


def test_the_semantic_side_of_an_exchange_starts_at_zero() -> None:
    semantic = noise(2, 3, 6)
    assert torch.equal(Exchange(6, 8, 4, 3, 2, 1)(semantic, noise(1, 2, 4, 8))[0], semantic)


# --- tokens -------------------------------------------------------------------------------------------------------


def test_the_nearest_code_is_the_one_of_the_smallest_angle_and_the_first_of_equals() -> None:
    codebook = Codebook(5, 3).requires_grad_(False)
    codebook.entries.copy_(torch.tensor([[9.0, 9, 0], [2, 0, 0], [0, 0, 1], [5, 0, 0], [0, -1, 0]]))
    assert codebook.nearest(torch.tensor([[3.0, 0.1, 0], [0, 0, 0.2], [0, -7, 0]])).tolist() == [1, 2, 4]
    torch.testing.assert_close(codebook.lookup(torch.tensor([0])), torch.tensor([[0.5**0.5, 0.5**0.5, 0]]))


def test_the_published_reshape_mixes_positions_and_channels_and_the_other_does_not() -> None:
    for published in (False, True):
        network = make_network(replace(TINY, published_reshape=published))
        latent: list[Tensor] = []
        network.encoder.norm_out.register_forward_hook(lambda module, args, out, to=latent: to.append(out))
        z, _ = network.encoder(network.encoder.embed(noise(1, 3, 64, 64)))
        t, n, width = latent[0].shape
        plain = latent[0].reshape(t, width, n).mT if published else latent[0]
        torch.testing.assert_close(z, F.linear(plain, network.encoder.to_token.weight, network.encoder.to_token.bias))


# --- the bottleneck -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (6, 10)])
def test_the_four_passes_cover_every_value_once(size: tuple[int, int]) -> None:
    masks = pass_masks(8, *size)
    assert torch.equal(masks.sum(0), torch.ones(8, *size, dtype=torch.long))


def test_each_pass_holds_one_channel_group_per_position() -> None:
    groups = pass_masks(8, 4, 4)[:, ::2]  # pass, group, rows, columns
    assert torch.equal(groups.sum(1), torch.ones(4, 4, 4, dtype=torch.long))
    first_cells = groups[:, :, :2, :2].flatten(2).long().argmax(2)  # the 2x2 position of each group, by pass
    assert first_cells.tolist() == [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [1, 0, 3, 2]]


def test_levels_are_interpolated_linearly_and_meet_the_rows() -> None:
    rows = torch.tensor([[0.0, 10], [2, 20], [8, 0]])
    level = torch.tensor([0.0, 0.5, 1.0, 1.25, 2.0])
    expected = [[0, 10], [1, 15], [2, 20], [3.5, 15], [8, 0]]
    assert at_level(rows, level).tolist() == expected
    assert at_level(rows[:1], torch.tensor([0.0])).tolist() == [[0, 10]]


def test_gaussian_bits_are_those_of_the_probability_of_the_bin() -> None:
    scale = 1.5
    normal = torch.distributions.Normal(0.0, scale)
    x = torch.tensor([-3.0, 0.0, 1.0, 6.0])
    expected = -torch.log2(normal.cdf(x + 0.5) - normal.cdf(x - 0.5) + 1e-5)
    torch.testing.assert_close(gaussian_bits(x, torch.full_like(x, scale)), expected, rtol=1e-3, atol=1e-3)


SIZE = (12, 16)


def integer_prior(bottleneck: Bottleneck) -> IntegerPrior:
    return IntegerPrior(to_integers(bottleneck.prior), torch.device("cpu"))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_integer_prior_computes_what_the_float_prior_computes_within_rounding(level: int) -> None:
    bottleneck = make_network(seed=level).bottleneck
    integers, floats = integer_prior(bottleneck), bottleneck.prior
    with torch.inference_mode():
        whole = integers.start(100 * level, *SIZE)
        expected = floats.start(floats.vector[level : level + 1], *SIZE)
        for ours, theirs in zip(whole, expected, strict=True):
            torch.testing.assert_close(ours.float() / ONE, theirs[0], rtol=0, atol=0.004)
        for k in (1, 2, 3):
            known = noise(8, *SIZE, seed=k) * 3
            refined = integers.refine(k, (known * ONE).round().double(), whole[3])
            for mine, theirs in zip(refined, floats.refine(k, known[None], expected[3]), strict=True):
                assert theirs.std() > 0.2
                torch.testing.assert_close(mine.float() / ONE, theirs[0], rtol=0, atol=0.01)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_coding_gives_the_symbols_of_the_float_bottleneck_but_for_ties(level: int) -> None:
    equal = total = 0
    for seed in range(4):
        bottleneck = make_network(seed=seed).bottleneck
        y = noise(1, 8, *SIZE, seed=seed) * 2
        with torch.inference_mode():
            q = bottleneck.quantise(y, torch.tensor([float(level)]))
            thresholds = torch.from_numpy(scale_thresholds(ONE))
            passes = FourPasses(integer_prior(bottleneck), thresholds, 100 * level, SIZE, SIZE)
            for k, (mask, indices) in enumerate(zip(pass_masks(8, *SIZE), passes, strict=True)):
                symbols = torch.zeros(2, *SIZE)
                symbols[passes._coded] = torch.from_numpy(passes.residuals(y[0])).float()
                theirs = (q.symbols[0] * mask).view(4, 2, *SIZE).sum(0)
                equal, total = equal + int((symbols == theirs).sum()), total + symbols.numel()
                assert 0.05 < len(indices) / symbols.numel() < 0.98  # both kinds: coded, and skipped
                assert (theirs != 0).float().mean() > 0.1
                if k < 3:  # what a pass knows is the same on both sides, so that no tie spreads
                    earlier = pass_masks(8, *SIZE)[: k + 1].any(0)
                    passes._values = torch.where(earlier, (q.values[0] * ONE).round(), 0.0).double()
    assert equal / total > 0.999


def test_the_decoded_latent_is_near_that_of_the_float_bottleneck() -> None:
    bottleneck = make_network().bottleneck
    y = noise(1, 8, *SIZE) * 2
    with torch.inference_mode():
        q = bottleneck.quantise(y, torch.tensor([2.0]))
        passes = FourPasses(integer_prior(bottleneck), torch.from_numpy(scale_thresholds(ONE)), 200, SIZE, SIZE)
        for _ in passes:
            passes.accept(passes.residuals(y[0]))
    difference = passes.latent() - q.values * q.step
    assert difference.abs().quantile(0.99) < 0.01 * (q.values * q.step).std()


def test_in_training_symbols_are_rounded_and_gradients_pass_them() -> None:
    bottleneck = make_network().bottleneck.train()
    y = (noise(1, 8, 4, 4) * 5).requires_grad_()
    q = bottleneck.quantise(y, torch.tensor([0.0]))
    torch.testing.assert_close(q.symbols, q.symbols.round(), rtol=0, atol=1e-5)
    q.values.sum().backward()
    assert y.grad is not None
    assert (y.grad != 0).all()


def test_no_symbol_below_the_skip_scale_is_coded_outside_training() -> None:
    q = make_network().bottleneck.quantise(noise(1, 8, 6, 6) * 20, torch.tensor([1.0]))
    skipped = q.scales < SKIP_SCALE
    assert skipped.any()
    assert (q.symbols[skipped] == 0).all()
    assert (q.symbols[~skipped] != 0).any()


@pytest.mark.parametrize(
    ("mult", "noise_grids"), [((1, 1, 2), 0), ((1, 1, 2), 1), ((1, 1, 2), 3), ((2,), 0), ((2,), 1)]
)
def test_a_picture_in_bands_is_the_one_in_one_piece(
    mult: tuple[int, ...], noise_grids: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlfc.model.generator._NOISE_CELLS", 40)
    sizes = {"output_patch_px": TINY.patch_px // 2 ** (len(mult) - 1), "generator_blocks": 2}
    if noise_grids:
        sizes |= {"noise_channels": 3, "noise_grids": noise_grids}
    generator = Generator(replace(TINY, generator_mult=mult, **sizes)).eval()
    latent, base = noise(2, TINY.mixture_dim, 24, 4), noise(2, 3, 24 * TINY.patch_px, 4 * TINY.patch_px, seed=1)

    def bands(row_px: int) -> list[Tensor]:
        return list(generator.in_bands(latent, lambda top, bottom: base[:, :, top:bottom], row_px * 2 * base.shape[3]))

    with torch.inference_mode():
        whole, small = bands(10**6), bands(48)
        assert len(whole) == 1
        assert len(small) == 8
        torch.testing.assert_close(torch.cat(small, 2), whole[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[0], generator(latent, base), rtol=0, atol=1e-4)


def test_bytes_in_bands_are_analysed_as_floats_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    network, level = make_network(), torch.tensor([1.5, 0.25])
    pixels = torch.randint(256, (2, 3, 192, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inputs, features = network.analyse_tokens(as_floats(pixels))
        tokens = network.codebook.nearest(inputs)
        latent = network.analyse_detail(as_floats(pixels), features, tokens, level)
        picture = network.reconstruct(tokens, latent, level)
        monkeypatch.setattr(dlf, "BAND_PX", 1)
        found = network.analyse_tokens(pixels)
        torch.testing.assert_close(found, (inputs, features), rtol=0, atol=1e-5)
        torch.testing.assert_close(network.analyse_detail(pixels, features, tokens, level), latent, rtol=0, atol=1e-5)
        generator = network.generator
        monkeypatch.setattr(generator, "in_bands", partial(generator.in_bands, band_px=1))
        torch.testing.assert_close(network.reconstruct(tokens, latent, level), picture, rtol=0, atol=1e-5)


def test_a_picture_becomes_padded_bytes_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "STRIP_PX", 200)
    for size in ((65, 70), (64, 128), (1, 3), (300, 2)):
        image = photo(*size)
        given = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        found = padded(image, 64)
        assert found.size == size
        assert found.pixels.dtype == torch.uint8
        assert torch.equal(found.pixels.float(), pad_to_tiles(given.float(), 64))
        gray = image.convert("L")
        assert torch.equal(padded(gray, 64).pixels, padded(gray.convert("RGB"), 64).pixels)
