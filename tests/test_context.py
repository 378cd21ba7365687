"""A detail prior that sees tokens: floats and integers agree, it begins as one that does not, and files need tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import SEEING, TINY, install, make_network, photo

from dlfc.codec import Codec
from dlfc.entropy.prior import ONE, IntegerPrior, check_integers, to_integers
from dlfc.errors import FormatError, ModelError
from dlfc.formats import pack, unpack
from dlfc.model.base import by_region
from dlfc.model.bottleneck import DetailPrior
from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF
from dlfc.tensors import as_integers
from dlfc.train.export import place_levels
from dlfc.train.growth import widen_latent, with_context
from dlfc.train.warmstart import warm_start

PLAIN = replace(SEEING, prior_context=0)
SIZE = (8, 12)  # of cells; regions are one cell high and two wide


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "seeing", SEEING)
    return Codec.load("seeing", device="cpu", models_dir=folder)


def regions(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, SEEING.codebook_size, (8, 6)))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_integers_say_of_tokens_what_floats_say_within_rounding(level: int) -> None:
    floats = make_network(SEEING, seed=level).bottleneck.prior
    integers = IntegerPrior(to_integers(floats), torch.device("cpu"))
    with torch.inference_mode():
        ours = integers.start(100 * level, *SIZE, regions())
        theirs = floats.start(floats.vector[level : level + 1], *SIZE, regions()[None])
    others = integers.start(100 * level, *SIZE, regions(1))
    for mine, yours, other in zip(ours[1:], theirs[1:], others[1:], strict=True):
        torch.testing.assert_close(mine.float() / ONE, yours[0], rtol=0, atol=0.01)
        assert (mine - other).abs().mean() / ONE > 0.05
    assert torch.equal(ours[0], others[0])  # the step is the same for all tokens
    restored = integers.as_floats(SEEING)
    again = restored.start(restored.vector[level : level + 1], *SIZE, regions()[None])
    torch.testing.assert_close(again, theirs, rtol=0, atol=0.01)


def test_a_token_stands_for_the_cells_of_its_region() -> None:
    context = make_network(SEEING).bottleneck.prior.context
    assert context is not None
    for module in (context.blocks, context.out):
        module.forward = lambda x: x  # type: ignore[method-assign]
    said = context.spread(context.codes[regions()][None].permute(0, 3, 1, 2))[0]  # parts and channels, 8, 6
    seen = context(torch.zeros(1, SEEING.latent_dim), regions()[None])[0]
    assert seen.shape == (SEEING.latent_dim, *SIZE)
    assert torch.equal(seen[:, 3, 4], said[: SEEING.latent_dim, 3, 2])
    assert torch.equal(seen[:, 3, 5], said[SEEING.latent_dim :, 3, 2])


def test_regions_of_many_pictures_lie_where_their_pixels_do() -> None:
    tokens = torch.arange(2 * 6 * 8).view(12, 8)  # two pictures of two by three tiles of four by two regions
    grid = by_region(SEEING, tokens, 128, 192)
    assert grid.shape == (2, 8, 6)
    assert grid[0, 0].tolist() == [0, 1, 8, 9, 16, 17]
    assert grid[1, 5].tolist() == [74, 75, 82, 83, 90, 91]


def test_a_network_that_is_given_a_context_goes_on_as_it_was() -> None:
    old, new = make_network(PLAIN), DLF(SEEING).eval()
    weights = with_context(old.state_dict(), new)
    assert with_context(weights, new) is weights
    new.load_state_dict(weights)
    x, level = torch.rand(2, 3, 64, 128) * 2 - 1, torch.tensor([0.5, 2.0])
    with torch.inference_mode():
        after, before = (network(x, level).quantised for network in (new, old))
        assert torch.equal(after.values, before.values)
        assert torch.equal(after.bits, before.bits)
    context = new.train().bottleneck.prior.context
    assert context is not None
    assert context.codes[:, :3].std() > 0.5
    new(x, level).quantised.bits.sum().backward()
    assert context.out.weight.grad is not None
    assert context.out.weight.grad.abs().sum() > 0


def test_a_latent_can_grow_and_its_prior_see_tokens_at_once() -> None:
    old, new = make_network(PLAIN), DLF(replace(SEEING, latent_dim=12)).eval()
    x, level = torch.rand(4, 3, 64, 64) * 2 - 1, torch.tensor([0.0, 0.5, 1.0, 2.0])
    widen_latent(with_context(old.state_dict(), new), new, x)
    kept = torch.arange(12).view(4, -1)[:, :2].reshape(-1)
    with torch.inference_mode():
        after, before = (network(x, level).quantised for network in (new, old))
    torch.testing.assert_close(after.scales[:, kept], before.scales, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.values[:, kept], before.values, rtol=1e-4, atol=1e-4)


def test_what_a_latent_grew_by_says_nothing_at_closed_levels() -> None:
    old, new = make_network(PLAIN), DLF(replace(PLAIN, latent_dim=12, closed_levels=1)).eval()
    x = torch.rand(4, 3, 64, 64) * 2 - 1
    widen_latent(old.state_dict(), new, x)
    assert new.base is not None
    new.base.log_gain.data[:, 2::3] += 3  # of the new channels, which then have much to say
    with torch.inference_mode():
        closed, between, whole = (new(x, torch.full((4,), level)).quantised for level in (0.0, 0.5, 1.0))
    assert not closed.symbols[:, 2::3].any()
    assert closed.symbols.any()
    assert 0 < between.symbols[:, 2::3].abs().sum() < whole.symbols[:, 2::3].abs().sum()
    new.train()
    assert new(x, torch.zeros(4)).quantised.bits[:, 2::3].sum() < new(x, torch.ones(4)).quantised.bits[:, 2::3].sum()
    place_levels(new, [0, 25, 110])
    assert new.bottleneck.opening is not None
    assert new.bottleneck.opening[:, 2].tolist() == [0, 0.5, 1]
    wider = DLF(replace(PLAIN, latent_dim=20, closed_levels=2)).eval()
    widen_latent(new.eval().state_dict(), wider, x)
    assert wider.bottleneck.opening is not None
    assert wider.bottleneck.opening[:, 2:4].tolist() == [[0, 0], [0.5, 0], [1, 1]]


def test_a_warm_start_tells_the_prior_what_tokens_are() -> None:
    model = DLF(SEEING)
    warm_start(model, torch.rand(60, 3, 64, 64) * 2 - 1, [0.01, 0.02, 0.04])
    context = model.bottleneck.prior.context
    assert context is not None
    assert torch.nn.functional.cosine_similarity(context.codes, model.codebook.entries[:, :3]).min() > 0.99


def test_files_become_the_symbols_that_were_coded(codec: Codec) -> None:
    pictures = [photo(*size, seed=at) for at, size in enumerate([(60, 50), (64, 64), (33, 40), (130, 70)])]
    files = codec.encode_many(pictures, quality=60)
    assert files == [codec.encode(picture, quality=60) for picture in pictures]
    for picture, data in zip(pictures, files, strict=True):
        assert codec.decode(data).size == picture.size
        tokens, latent = codec.symbols.read(unpack(data))
        analysis = codec.analyse([picture])[0]
        assert torch.equal(tokens, analysis.tokens)
        whole = codec.symbols.passes(60, *picture.size, analysis.tokens)
        assert latent.shape[2:] == whole._values.shape[1:]
    cut = codec.decode(files[3][:-2], allow_partial=True)
    assert cut.size == (130, 70)
    assert codec.decode(codec.encode(pictures[0], quality=60, effort=2)).size == (60, 50)


def test_detail_is_coded_for_its_own_tokens(codec: Codec) -> None:
    fields = unpack(codec.encode(photo(64, 64), quality=60))
    tokens = (codec.symbols.read(fields)[0] + 1) % SEEING.codebook_size
    others = codec.model.tokens.pack(as_integers(tokens), 1)
    with pytest.raises(FormatError):
        codec.decode(pack(replace(fields, semantic=others)))
    with pytest.raises(ValueError, match="needs the tokens"):
        codec.symbols.passes(60, 64, 64)


def test_integers_with_a_context_are_refused_where_the_prior_has_none() -> None:
    integers = to_integers(make_network(SEEING).bottleneck.prior)
    with pytest.raises(ModelError, match=r"context\.\w+.* is missing, unknown"):
        check_integers(integers, DetailPrior(PLAIN))
    integers["context.codes"][3, 1] = (1 << 26) + 1
    with pytest.raises(ModelError, match=r"context\.codes has values that are too large"):
        check_integers(integers, DetailPrior(SEEING))


@pytest.mark.parametrize(
    ("config", "changes"),
    [(TINY, {"prior_context": 3}), (SEEING, {"base_components": 0}), (PLAIN, {"prior_context": -1})],
)
def test_configurations_whose_prior_cannot_see_tokens_are_refused(config: DLFConfig, changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="prior"):
        replace(config, **changes)
