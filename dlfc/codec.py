"""Pictures to .dlf bytes and back: the one place where image, model, entropy coder and format meet."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dlfc.entropy.coder import Decoder, Encoder
from dlfc.entropy.prior import FourPasses
from dlfc.errors import FormatError, LimitError, ModelError
from dlfc.formats import DEFAULT_MAX_PIXELS, Container, nearest_quality, pack, unpack
from dlfc.model.dlf import Part, pad_to_tiles
from dlfc.zoo import registry, store

Int32Array = npt.NDArray[np.int32]
_PARTIAL_STEP = 32  # symbols taken at a time from a stream that was cut


@dataclass(frozen=True)
class Codec:
    """A loaded model as an image codec. Safe to use from several threads."""

    model: store.LoadedModel

    @classmethod
    def load(
        cls,
        model: str | bytes | None = None,
        *,
        device: str = "auto",
        models_dir: Path | None = None,
        purpose: Part = "both",
    ) -> Codec:
        """Load a model by name, by the path of its weights file or by the 4-byte id in a file; None is the default.

        `device` is auto (a GPU if there is one), cpu or cuda. With the `purpose` encode or decode, only what that
        needs is loaded. Raises ModelError if there is no such model or device.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise ModelError(f"no device {device!r}; there are: auto, cpu, cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError("no CUDA device is available; use --device cpu")
        gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        return cls(store.load(registry.find(model, models_dir), torch.device("cuda" if gpu else "cpu"), purpose))

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.entry.name

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the model's weights, 32 bytes."""
        return bytes.fromhex(self.model.entry.fingerprint)

    @property
    def model_id(self) -> bytes:
        """What files say of this model, 4 bytes."""
        return self.model.entry.model_id

    def encode(self, image: Image.Image, *, quality: float = 50.0) -> bytes:
        """The .dlf file of `image`, which is taken as RGB; `quality` from 0 to 100 counts in half steps.

        Raises LimitError if the picture is larger than readers accept, ValueError if `quality` is out of range.
        """
        if self.model.part == "decode":
            raise ValueError("this codec was loaded for decoding only")
        if not 0 <= quality <= 100:
            raise ValueError(f"quality must be a number from 0 to 100, not {quality}")
        quality = nearest_quality(quality)
        width_px, height_px = image.size
        if width_px * height_px > DEFAULT_MAX_PIXELS:
            raise LimitError(f"{width_px}x{height_px} pixels are more than the limit of {DEFAULT_MAX_PIXELS}")
        network = self.model.network
        pixels = np.array(image.convert("RGB"))
        x = torch.from_numpy(pixels).to(self.model.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            x = pad_to_tiles(x, network.config.tile_px)
            inputs, features = network.analyse_tokens(x)
            tokens = network.codebook.nearest(inputs).view(inputs.shape[:2])
            latent = network.analyse_detail(x, features, tokens, self._level(quality))[0]
            token_symbols = tokens.to(torch.int32).cpu().numpy().reshape(-1)
            semantic, detail = Encoder(), Encoder()
            semantic.put(token_symbols, np.zeros_like(token_symbols), self.model.token_tables)
            check = _Check(self.fingerprint)
            check.add(token_symbols)
            passes = self._passes(quality, width_px, height_px)
            for indices in passes:
                symbols = passes.residuals(latent)
                detail.put(symbols, indices, self.model.detail_tables)
                check.add(symbols)
                passes.accept(symbols)
        container = Container(
            model_id=self.model_id,
            width_px=width_px,
            height_px=height_px,
            quality=quality,
            symbol_check=check.value,
            semantic=semantic.finish(),
            detail=detail.finish(),
        )
        return pack(container)

    def decode(self, data: bytes, *, allow_partial: bool = False, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
        """The RGB picture in a .dlf file.

        With `allow_partial` a file that was cut after its semantic section gives a picture too. Raises FormatError if
        the file is damaged, LimitError if it is larger than `max_pixels`, ModelError if it names another model.
        """
        if self.model.part == "encode":
            raise ValueError("this codec was loaded for encoding only")
        container = unpack(data, max_pixels=max_pixels, allow_partial=allow_partial)
        if container.model_id != self.model_id:
            raise ModelError(
                f"the file was made with model {container.model_id.hex()}, "
                f"which is not {self.name!r} ({self.model_id.hex()})"
            )
        with torch.inference_mode():
            tokens, latent = self._read_symbols(container)
            image = self.model.network.reconstruct(tokens, latent, self._level(container.quality))[0]
        image = image[:, : container.height_px, : container.width_px].clamp(-1, 1)
        pixels = ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
        return Image.fromarray(pixels)

    def _read_symbols(self, container: Container) -> tuple[Tensor, Tensor]:
        """Tokens T 32 and the latent times its step, 1 C H W; FormatError if a stream or the check does not fit."""
        config = self.model.network.config
        tall, wide = (-(-side // config.tile_px) for side in (container.height_px, container.width_px))
        count = tall * wide * config.tokens_per_tile
        semantic = Decoder(container.semantic)
        tokens = semantic.get(np.zeros(count, np.int32), self.model.token_tables)
        semantic.finish()
        if count and (tokens.min() < 0 or tokens.max() >= config.codebook_size):
            raise FormatError("a token is outside the codebook; the file is damaged")
        check = _Check(self.fingerprint)
        check.add(tokens)
        passes = self._passes(container.quality, container.width_px, container.height_px)
        if container.complete:
            detail = Decoder(container.detail)
            for indices in passes:
                symbols = detail.get(indices, self.model.detail_tables)
                check.add(symbols)
                passes.accept(symbols)
            detail.finish()
            if check.value != container.symbol_check:
                raise FormatError("the decoded symbols do not match the file's check; file or decoder is damaged")
        else:
            reader = _CutStream(container.detail)
            for indices in passes:
                passes.accept(reader.get(indices, self.model))
        by_tile = torch.from_numpy(tokens).long().view(-1, config.tokens_per_tile)
        return by_tile.to(self.model.device), passes.latent()

    def _passes(self, quality: float, width_px: int, height_px: int) -> FourPasses:
        config = self.model.network.config
        per_tile = config.tile_px // config.cell_px
        size = tuple(-(-side // config.tile_px) * per_tile for side in (height_px, width_px))
        visible = tuple(-(-side // config.cell_px) for side in (height_px, width_px))
        return FourPasses(
            self.model.prior, self.model.thresholds, round(2 * quality), (size[0], size[1]), (visible[0], visible[1])
        )

    def _level(self, quality: float) -> Tensor:
        levels = self.model.network.config.levels
        return torch.tensor([quality / 100 * (levels - 1)], device=self.model.device)


class _Check:
    """CRC-16 over the model's fingerprint and all symbols, each as four bytes, little endian."""

    def __init__(self, fingerprint: bytes) -> None:
        self.value = binascii.crc_hqx(fingerprint, 0xFFFF)

    def add(self, symbols: Int32Array) -> None:
        self.value = binascii.crc_hqx(symbols.astype("<i4").tobytes(), self.value)


class _CutStream:
    """Reads a detail stream as far as its bytes go; what lies beyond is taken as 0."""

    def __init__(self, data: bytes) -> None:
        self._decoder: Decoder | None = Decoder(data)

    def get(self, indices: Int32Array, model: store.LoadedModel) -> Int32Array:
        symbols = np.zeros_like(indices)
        for at in range(0, len(indices), _PARTIAL_STEP):
            if self._decoder is None:
                break
            try:
                part = self._decoder.get(indices[at : at + _PARTIAL_STEP], model.detail_tables)
            except FormatError:
                part = None
            if part is None or self._decoder.overrun:
                self._decoder = None
            else:
                symbols[at : at + _PARTIAL_STEP] = part
        return symbols


@lru_cache(maxsize=4)
def _shared(model: str | bytes | None, device: str, purpose: Part) -> Codec:
    return Codec.load(model, device=device, purpose=purpose)


def encode(image: Image.Image, *, quality: float = 50.0, model: str | None = None, device: str = "auto") -> bytes:
    """The .dlf file of `image`; see `Codec.encode`. The model stays loaded for the next call."""
    return _shared(model, device, "encode").encode(image, quality=quality)


def decode(data: bytes, *, device: str = "auto", allow_partial: bool = False) -> Image.Image:
    """The RGB picture in a .dlf file; see `Codec.decode`. Its model is the one that the file names."""
    model_id = unpack(data, allow_partial=allow_partial).model_id
    return _shared(model_id, device, "decode").decode(data, allow_partial=allow_partial)
