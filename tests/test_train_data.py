"""Photos in one buffer, and crops gathered from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dlfc.errors import ImageError
from dlfc.train.data import Crops, Photos
from dlfc.train.variety import Variety


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_crops_are_gathered_from_the_photo_that_they_start_in() -> None:
    arrays = [noise(20, 30, 1), noise(25, 18, 2)]
    photos = Photos(arrays)
    top, left, size = 3, 5, 8
    starts = np.array([top * 30 + left, 20 * 30 + top * 18 + left])
    plain, mirrored = photos.gather(starts, np.array([30, 18]), np.array([False, True]), size)
    assert np.array_equal(plain, arrays[0][top : top + size, left : left + size])
    assert np.array_equal(mirrored, arrays[1][top : top + size, left : left + size][:, ::-1])


def test_many_crops_are_gathered_in_chunks() -> None:
    photos = Photos([noise(16, 16, 3)])
    batch = Crops(photos, 16, seed=0).batch(150)
    assert len(batch.unique(dim=0)) == 2  # the photo and its mirror image


def test_photos_are_shrunk_and_those_too_small_for_a_crop_left_out() -> None:
    flat = [np.full((40, 60, 3), 50, np.uint8), np.full((20, 20, 3), 200, np.uint8)]
    photos = Photos(flat, scales=(1.0, 0.5))
    assert photos.shapes.tolist() == [[[40, 60], [20, 30]], [[20, 20], [10, 10]]]
    crops = Crops(photos, 16, seed=0)
    assert [each.tolist() for each in crops.scales] == [[0, 1], [0]]
    values = set(((crops.batch(40) + 1) * 127.5).round().unique().int().tolist())
    assert values == {50, 200}
    assert set(((Crops(photos, 30, seed=0).batch(9) + 1) * 127.5).round().unique().int().tolist()) == {50}
    with pytest.raises(ImageError, match="50 pixels"):
        Crops(photos, 50, seed=0)


def test_shrinking_keeps_smooth_pictures_and_removes_what_is_too_fine() -> None:
    y, x = np.mgrid[:64, :64]
    smooth = np.repeat((x + y)[..., None], 3, 2).astype(np.uint8)
    stripes = np.repeat((x % 2 * 255)[..., None], 3, 2).astype(np.uint8)
    photos = Photos([smooth, stripes], scales=(0.5,))
    half = photos.pixels.view(2, 32, 32, 3).float()
    expected = torch.from_numpy(smooth.reshape(32, 2, 32, 2, 3).mean((1, 3)))
    assert (half[0, 4:-4, 4:-4] - expected[4:-4, 4:-4]).abs().max() <= 1
    assert (half[1, :, 4:-4] - 127.5).abs().max() < 20


def test_a_stage_draws_only_the_scales_that_it_asks_for() -> None:
    photos = Photos([noise(40, 40, 4)], scales=(1.0, 0.5))
    assert [each.tolist() for each in Crops(photos, 16, seed=0, scales=(0.5,)).scales] == [[1]]


def test_processes_that_share_a_batch_draw_the_same_and_make_their_part() -> None:
    photos = Photos([noise(40, 50, 5), noise(50, 40, 6)])
    whole = Crops(photos, 16, seed=3)
    first, second = Crops(photos, 16, seed=3), Crops(photos, 16, seed=3)
    for _ in range(2):
        batch = whole.batch(6)
        assert torch.equal(batch[:3], first.batch(6, slice(0, 3)))
        assert torch.equal(batch[3:], second.batch(6, slice(3, 6)))


def test_a_share_of_crops_is_recoloured_and_grey_stays_grey() -> None:
    photos = Photos([noise(16, 16, 7), np.full((16, 16, 3), 90, np.uint8)])
    plain = Crops(photos, 16, seed=3).batch(1)
    variety = Variety(recoloured=1.0)
    changed = variety.apply(plain.clone(), [variety.draw(np.random.default_rng(1))])
    assert not torch.equal(changed, plain)
    assert changed.abs().max() <= 1
    grey = torch.full((1, 3, 16, 16), -0.2)
    after = variety.apply(grey.clone(), [variety.draw(np.random.default_rng(1))])
    assert torch.allclose(after, after.mean().expand_as(after), atol=1e-5)


def test_an_even_background_hides_a_part() -> None:
    variety = Variety(evened=1.0)
    x = torch.from_numpy(noise(64, 64, 8)).permute(2, 0, 1)[None] / 127.5 - 1
    changed = variety.apply(x.clone(), [variety.draw(np.random.default_rng(2))])
    hidden = (changed != x).any(1).float().mean()
    assert 0.1 < hidden <= 1
    assert changed.var() < x.var()


def test_a_frame_hides_a_narrow_rim_and_nothing_else() -> None:
    variety = Variety(framed=1.0)
    x = torch.from_numpy(noise(64, 64, 9)).permute(2, 0, 1)[None] / 127.5 - 1
    change = variety.draw(np.random.default_rng(0))
    assert change.frame is not None
    left, top, right, bottom = change.frame
    assert 0 < max(change.frame) <= 8
    changed = variety.apply(x.clone(), [change])
    inside = slice(top, 64 - bottom), slice(left, 64 - right)
    assert torch.equal(changed[0, :, *inside], x[0, :, *inside])
    rim = torch.ones(64, 64, dtype=torch.bool)
    rim[inside] = False
    assert (changed[0][:, rim] == changed[0][:, rim][:, :1]).all()


def test_an_enlarged_part_fills_the_crop() -> None:
    variety = Variety(enlarged=1.0)
    slope = torch.linspace(-0.5, 0.5, 64).expand(1, 3, 64, 64)  # to the right
    for seed in range(20):
        change = variety.draw(np.random.default_rng(seed))
        assert change.window is not None
        part, above, left = change.window
        assert 0.5 <= part <= 1
        assert max(above, left) + part <= 1
        changed = variety.apply(slope.clone(), [change])
        assert changed.shape == slope.shape
        inside = changed[0, 0, 32, 8:-8]
        assert (inside[-1] - inside[0]).item() == pytest.approx(part * 47 / 63, rel=0.05)


def test_a_calmed_crop_keeps_its_colour_and_half_of_its_contrast() -> None:
    variety = Variety(calmed=1.0)
    x = torch.from_numpy(noise(64, 64, 10)).permute(2, 0, 1)[None] / 127.5 - 1
    changed = variety.apply(x.clone(), [variety.draw(np.random.default_rng(4))])
    assert torch.allclose(changed.mean((2, 3)), x.mean((2, 3)), atol=1e-5)
    assert 0.5 <= changed.std() / x.std() < 1


def test_a_background_out_of_focus_lies_behind_sharp_parts() -> None:
    variety = Variety(defocused=1.0)
    x = torch.from_numpy(noise(64, 64, 11)).permute(2, 0, 1)[None] / 127.5 - 1
    kept, still = [], []
    for seed in range(8):
        change = variety.draw(np.random.default_rng(seed))
        assert 5 <= change.means <= 32
        changed = variety.apply(x.clone(), [replace(change, means=5)])
        distance = (changed - x).abs().mean(1)
        kept.append((distance < 0.02).float().mean().item())
        difference = (changed[..., 1:] - changed[..., :-1]).abs().mean(1)
        still.append((difference < 0.1).float().mean().item())
    assert 0.1 < np.mean(kept) < 0.9  # some parts are those of the photo
    assert 0.1 < np.mean(still) < 0.9  # where others hide it there is no noise


def test_variety_is_shared_between_processes() -> None:
    photos = Photos([noise(40, 50, 5), noise(50, 40, 6)])
    whole, second = (Crops(photos, 16, seed=3, variety=Variety(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)) for _ in range(2))
    for _ in range(2):
        assert torch.equal(whole.batch(6)[3:], second.batch(6, slice(3, 6)))
