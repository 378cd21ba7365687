"""The training loop: end to end, all rate levels at once, each steered to its bits per pixel."""

from __future__ import annotations

import copy
import csv
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dlfc.evaluate.lpips import Lpips
from dlfc.model.bottleneck import at_level
from dlfc.model.dlf import DLF, Reconstruction
from dlfc.train.data import Crops, load_photos, to_tensor
from dlfc.train.recipe import Recipe
from dlfc.train.state import misfit, read_state
from dlfc.train.warmstart import warm_start

LPIPS_JITTER = 8  # random margin cut before LPIPS, so that no texture can lock to the stride of its first layer


TOKEN_SHARPNESS = 150.0  # of the softmax over codes: the cosines of neighbouring codes differ by about 0.01

# Parts that start from data: small weights that a common learning rate would wash away, and what picks tokens, which
# would move them between codes faster than everything that reads them could follow (the codebook then collapses).
SLOW_PARTS = ("base.", "codebook.", "encoder.to_token.")


class RateController:
    """One lambda per level, raised while the level spends more than its target and lowered while it spends less."""

    def __init__(self, target_bpp: tuple[float, ...], first_lambda: float, rate: float) -> None:
        self.log_target = torch.tensor(target_bpp).log()
        self.log_lambda = math.log(first_lambda) - 0.7 * (self.log_target - self.log_target[len(target_bpp) // 2])
        self.rate = rate

    def weight(self, level: Tensor) -> Tensor:
        """Lambda at each `level` (B,), interpolated in its logarithm."""
        return at_level(self.log_lambda[:, None], level).squeeze(1).exp()

    def update(self, level: Tensor, bpp: Tensor) -> None:
        """Steer by the bits per pixel that each sample took."""
        excess = bpp.clamp(min=1e-4).log() - at_level(self.log_target[:, None], level).squeeze(1)
        nearness = (1 - (level[:, None] - torch.arange(len(self.log_lambda))).abs()).clamp(min=0)
        pull = (nearness * excess[:, None].clamp(-1, 1)).sum(0) / nearness.sum(0).clamp(min=1)
        self.log_lambda = (self.log_lambda + self.rate * pull).clamp(-5.0, 6.0)


@dataclass(frozen=True)
class Losses:
    """The terms of one batch; `bpp` per sample, the rest scalars."""

    total: Tensor
    mse: Tensor
    lpips: Tensor
    bpp: Tensor


def token_bpp(model: DLF) -> float:
    """What tokens cost at a flat rate, in bits per pixel."""
    config = model.config
    return config.tokens_per_tile * math.log2(config.codebook_size) / config.tile_px**2


def losses(model: DLF, lpips: Lpips, recipe: Recipe, x: Tensor, level: Tensor, weight: Tensor) -> Losses:
    """Rate-distortion loss of a batch `x` B 3 H W at `level` (B,), with the rate weighted by `weight` (B,)."""
    with torch.autocast(x.device.type, torch.bfloat16):
        out: Reconstruction = model(x, level)
    target, image = x * 0.5 + 0.5, out.image.float() * 0.5 + 0.5
    mse = F.mse_loss(image, target)
    top, left = (int(v) for v in torch.randint(LPIPS_JITTER, (2,)))
    with torch.autocast(x.device.type, torch.bfloat16):
        perceptual = lpips(image[:, :, top:, left:], target[:, :, top:, left:]).mean()
    bpp = out.quantised.bits.flatten(1).sum(1) / (x.shape[2] * x.shape[3])
    unit = F.normalize(out.token_inputs.float(), dim=-1)
    codes = model.codebook.lookup(out.tokens)
    commitment = recipe.commitment_weight * _distance(unit, codes.detach()) + _distance(unit.detach(), codes)
    total = recipe.mse_weight * mse + recipe.lpips_weight * perceptual + (weight * bpp).mean() + commitment
    if out.base is not None and model.base is not None:
        nearness = torch.softmax(TOKEN_SHARPNESS * unit @ F.normalize(model.codebook.entries, dim=-1).T, -1)
        soft = model.base.soft_token_image(nearness, x.shape[2], x.shape[3])
        total = total + recipe.base_weight * F.mse_loss(out.base * 0.5 + 0.5, target)
        total = total + recipe.token_weight * F.mse_loss(soft * 0.5 + 0.5, target)
    return Losses(total, mse.detach(), perceptual.detach(), (bpp + token_bpp(model)).detach())


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of vectors in the last dimension."""
    return (a - b).square().sum(-1).mean()


class Trainer:
    """One run in one folder: `state.pt` to resume from, `log.csv`, `validation.csv`."""

    def __init__(self, recipe: Recipe, data: Path, metrics: Path, out: Path, validation: Path | None) -> None:
        self.recipe, self.out = recipe, out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        photos = load_photos(data, min_side_px=recipe.crop_px)
        self.crops = Crops(photos, recipe.crop_px, recipe.seed, self.device)
        self.validation = load_photos(validation, min_side_px=2 * recipe.crop_px, limit=8) if validation else []
        self.lpips = Lpips(metrics, "alex").to(self.device)
        self.judge = Lpips(metrics, "squeeze").to(self.device)
        self.model = DLF(recipe.model).to(self.device)
        self.controller = RateController(recipe.target_bpp, recipe.first_lambda, recipe.controller_rate)
        if self.model.base is not None:
            self.model.base.token_in.requires_grad_(False)  # tiny weights that any step would wash away
        slow = [p for n, p in self.model.named_parameters() if n.startswith(SLOW_PARTS)]
        rest = [p for n, p in self.model.named_parameters() if not n.startswith(SLOW_PARTS)]
        groups = [{"params": rest, "part": 1.0}, {"params": slow, "part": recipe.base_rate}]
        self.optimizer = torch.optim.AdamW(groups, recipe.learning_rate, (0.9, 0.98), weight_decay=0.0)
        self.step = 0
        out.mkdir(parents=True, exist_ok=True)
        if (out / "state.pt").exists():
            self.averaged = copy.deepcopy(self.model).eval()
            self._resume()
        else:
            self.model.cpu()
            sample = self.crops.batch(recipe.warmstart_crops).cpu()
            warm_start(self.model, sample, list(recipe.target_bpp))
            self.model.to(self.device)
            self.averaged = copy.deepcopy(self.model).eval()

    def start_from(self, state: Path) -> None:
        """Take the averaged weights of another run; the optimiser starts afresh."""
        weights = read_state(state)
        try:
            self.model.load_state_dict(weights["averaged"])
            self.averaged.load_state_dict(weights["averaged"])
            self.controller.log_lambda = weights["log_lambda"]
        except (RuntimeError, KeyError) as error:
            raise misfit(state, error) from error

    def _resume(self) -> None:
        path = self.out / "state.pt"
        state = read_state(path)
        try:
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.controller.log_lambda = state["log_lambda"]
            self.crops.random.bit_generator.state = state["crops"]
            torch.set_rng_state(state["random"])
            self.step = state["step"]
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise misfit(path, error) from error

    def save(self) -> None:
        """Write the state to resume from, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "log_lambda": self.controller.log_lambda,
            "crops": self.crops.random.bit_generator.state,
            "random": torch.get_rng_state(),
            "step": self.step,
        }
        partial = self.out / "state.pt.part"
        torch.save(state, partial)
        partial.replace(self.out / "state.pt")

    def _rate(self) -> float:
        r = self.recipe
        if self.step < r.warmup_steps:
            return r.learning_rate * (self.step + 1) / r.warmup_steps
        part = min(1.0, (self.step - r.warmup_steps) / max(1, r.steps - r.warmup_steps))
        return r.learning_rate * (r.final_rate + (1 - r.final_rate) * 0.5 * (1 + math.cos(math.pi * part)))

    def train_step(self) -> Losses:
        """One batch: each sample at a level drawn evenly from the whole scale."""
        self.model.train()
        x = self.crops.batch(self.recipe.batch).contiguous(memory_format=torch.channels_last)
        top = self.recipe.model.levels - 1
        level = (torch.arange(len(x)) + torch.rand(len(x))) / len(x) * top  # stratified
        weight = self.controller.weight(level).to(self.device)
        result = losses(self.model, self.lpips, self.recipe, x, level.to(self.device), weight)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate() * group["part"]
        self.optimizer.zero_grad(set_to_none=True)
        result.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        if self.step >= self.recipe.warmup_steps:
            self.controller.update(level, result.bpp.cpu())
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - keep)
        self.step += 1
        return result

    @torch.no_grad()
    def validate(self) -> list[dict[str, float]]:
        """Mean bpp, PSNR and LPIPS of the averaged weights on the validation photos, one row per level."""
        rows = []
        for level in range(self.recipe.model.levels):
            sums = torch.zeros(4)
            for photo in self.validation:
                x = to_tensor(photo[None]).to(self.device)
                out = self.averaged(x, torch.tensor([float(level)], device=self.device))
                image, target = out.image.clamp(-1, 1) * 0.5 + 0.5, x * 0.5 + 0.5
                bpp = float(out.quantised.bits.sum()) / (x.shape[2] * x.shape[3]) + token_bpp(self.averaged)
                psnr = -10 * math.log10(float(F.mse_loss(image, target)))
                distances = float(self.lpips(image, target)), float(self.judge(image, target))
                sums += torch.tensor([bpp, psnr, *distances])
            names = ("bpp", "psnr", "lpips_alex", "lpips_squeeze")
            means = (sums / len(self.validation)).tolist()
            rows.append({"step": self.step, "level": level, **dict(zip(names, means, strict=True))})
        return rows

    def run(self, *, save_seconds: float = 300.0, validate_seconds: float = 900.0, log_steps: int = 20) -> None:
        """Train to the recipe's last step; prints one line for each `log_steps`."""
        last_save = last_validation = time.monotonic()
        window: list[Losses] = []
        since, since_step = time.monotonic(), self.step
        while self.step < self.recipe.steps:
            window.append(self.train_step())
            now = time.monotonic()
            if self.step % log_steps == 0:
                speed = (self.step - since_step) * self.recipe.batch / (now - since)
                self._log(window, speed)
                window, since, since_step = [], now, self.step
            if now - last_save > save_seconds:
                self.save()
                last_save = now
            if self.validation and now - last_validation > validate_seconds:
                self._report(self.validate())
                last_validation = since = time.monotonic()
                since_step = self.step
        self.save()
        if self.validation:
            self._report(self.validate())

    def _log(self, window: list[Losses], images_per_second: float) -> None:
        mean = {
            k: float(torch.stack([getattr(w, k).detach() for w in window]).mean())
            for k in ("total", "mse", "lpips", "bpp")
        }
        left = (self.recipe.steps - self.step) * self.recipe.batch / max(images_per_second, 1e-6)
        lambdas = [round(v, 3) for v in self.controller.log_lambda.exp().tolist()]
        row = {"step": self.step, **mean, "psnr": -10 * math.log10(mean["mse"]), "images_per_second": images_per_second}
        _append(self.out / "log.csv", row)
        print(
            f"step {self.step}/{self.recipe.steps}  loss {mean['total']:.4f}  psnr {row['psnr']:.2f} dB  "
            f"lpips {mean['lpips']:.4f}  bpp {mean['bpp']:.4f}  lambda {lambdas}  "
            f"{images_per_second:.1f} images/s  {left / 60:.0f} min left",
            flush=True,
        )

    def _report(self, rows: list[dict[str, float]]) -> None:
        for row in rows:
            _append(self.out / "validation.csv", row)
            print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)


def _append(path: Path, row: dict[str, float]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)
