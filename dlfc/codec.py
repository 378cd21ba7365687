"""Pictures to .dlf bytes and back: the one place where image, model, entropy coder and format meet."""

from __future__ import annotations

import binascii
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
from dlfc.model.linear import can_pack
from dlfc.zoo import registry, store

Int32Array = npt.NDArray[np.int32]
PRECISION_VARIABLE = "DLFC_PRECISION"
_LARGE = 10**8  # parameters; smaller models are fast enough, and then every machine paints the same picture
_FREE_PX = 1 << 20  # padded pictures up to this size may come from nothing: they cost the decoder little
_SLACK_BITS = 64  # tokens whose shortest number is this much shorter than they cost come once in 2^64 pictures


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
        precision: str | None = None,
    ) -> Codec:
        """Load a model by name, by the path of its weights file or by the 4-byte id in a file; None is the default.

        `device` is auto (a GPU if there is one), cpu or cuda. With the `purpose` encode or decode, only what that
        needs is loaded. `precision` is float32, or bfloat16, which is about twice as fast on a CPU with instructions
        for it and moves pixels a little, or auto: bfloat16 for large models on such a CPU. None takes it from the
        variable DLFC_PRECISION, or is auto. Raises ModelError if there is no such model or device.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise ModelError(f"no device {device!r}; there are: auto, cpu, cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError("no CUDA device is available; use --device cpu")
        gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        entry = registry.find(model, models_dir)
        packed = _packs(precision or os.environ.get(PRECISION_VARIABLE) or "auto", entry, gpu)
        return cls(store.load(entry, torch.device("cuda" if gpu else "cpu"), purpose, packed=packed))

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

    def encode(self, image: Image.Image, *, quality: float = 50.0, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
        """The .dlf file of `image`, which is taken as RGB; `quality` from 0 to 100 counts in half steps.

        Readers refuse pictures of more than DEFAULT_MAX_PIXELS unless told otherwise. Raises LimitError if the picture
        is larger than `max_pixels` or than memory, ValueError if `quality` is out of range.
        """
        if self.model.part == "decode":
            raise ValueError("this codec was loaded for decoding only")
        if not 0 <= quality <= 100:
            raise ValueError(f"quality must be a number from 0 to 100, not {quality}")
        quality = nearest_quality(quality)
        width_px, height_px = image.size
        if width_px * height_px > max_pixels:
            raise LimitError(f"{width_px}x{height_px} pixels are more than the limit of {max_pixels}")
        self._check_padded(width_px, height_px, max_pixels)
        with _memory_for(width_px, height_px):
            return self._encode(image, quality)

    def _encode(self, image: Image.Image, quality: float) -> bytes:
        width_px, height_px = image.size
        network = self.model.network
        pixels = np.array(image.convert("RGB"))
        x = torch.from_numpy(pixels).to(self.model.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            x = pad_to_tiles(x, network.config.tile_px)
            inputs, features = network.analyse_tokens(x)
            tokens = network.codebook.nearest(inputs).view(inputs.shape[:2])
            semantic = self._pack_tokens(tokens)
            if self._too_short(semantic, tokens.shape[0]):  # they end in slots that begin at 0 and cost no bytes
                tokens[-1, -1] = _nearest_other(network.codebook.entries, int(tokens[-1, -1]))
                semantic = self._pack_tokens(tokens)
            latent = network.analyse_detail(x, features, tokens, self._level(quality))[0]
            detail = Encoder()
            check = _Check(self.fingerprint)
            check.add(_flat(tokens))
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
            semantic=semantic,
            detail=detail.finish(),
        )
        return pack(container)

    def decode(self, data: bytes, *, allow_partial: bool = False, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
        """The RGB picture in a .dlf file.

        With `allow_partial` a file that was cut after its semantic section gives a picture too. Raises FormatError if
        the file is damaged, LimitError if it is larger than `max_pixels` or than memory, ModelError if it names another
        model.
        """
        if self.model.part == "encode":
            raise ValueError("this codec was loaded for encoding only")
        container = unpack(data, max_pixels=max_pixels, allow_partial=allow_partial)
        if container.model_id != self.model_id:
            raise ModelError(
                f"the file was made with model {container.model_id.hex()}, "
                f"which is not {self.name!r} ({self.model_id.hex()})"
            )
        self._check_padded(container.width_px, container.height_px, max_pixels)
        with _memory_for(container.width_px, container.height_px), torch.inference_mode():
            tokens, latent = self._read_symbols(container)
            image = self.model.network.reconstruct(tokens, latent, self._level(container.quality))[0]
            image = image[:, : container.height_px, : container.width_px].clamp(-1, 1)
            pixels = ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
        return Image.fromarray(pixels)

    def _read_symbols(self, container: Container) -> tuple[Tensor, Tensor]:
        """Tokens T 32 and the latent times its step, 1 C H W; FormatError if a stream or the check does not fit."""
        config = self.model.network.config
        tiles = self._tiles(container.width_px, container.height_px)
        if self._too_short(container.semantic, tiles):
            raise FormatError("the semantic section is too short for a picture of this size; the file is damaged")
        semantic = Decoder(container.semantic)
        tokens = semantic.get(np.zeros(tiles * config.tokens_per_tile, np.int32), self.model.token_tables)
        semantic.finish()
        if tokens.min() < 0 or tokens.max() >= config.codebook_size:
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

    def _pack_tokens(self, tokens: Tensor) -> bytes:
        symbols, encoder = _flat(tokens), Encoder()
        encoder.put(symbols, np.zeros_like(symbols), self.model.token_tables)
        return encoder.finish()

    def _tiles(self, width_px: int, height_px: int) -> int:
        tile_px = self.model.network.config.tile_px
        return -(-width_px // tile_px) * -(-height_px // tile_px)

    def _too_short(self, semantic: bytes, tiles: int) -> bool:
        """Whether a large picture comes from next to nothing (SPEC.md, "Semantic-token section")."""
        config = self.model.network.config
        least_bits = tiles * config.tokens_per_tile * self.model.token_tables.least_bits
        return tiles * config.tile_px**2 > _FREE_PX and 8 * len(semantic) + _SLACK_BITS < least_bits

    def _check_padded(self, width_px: int, height_px: int, max_pixels: int) -> None:
        padded_px = self._tiles(width_px, height_px) * self.model.network.config.tile_px**2
        if padded_px > max(_FREE_PX, 2 * max_pixels):  # a strip may be padded to many times its pixels
            raise LimitError(f"{width_px}x{height_px} pixels make {padded_px} when padded to whole tiles, too many")

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


def _flat(tokens: Tensor) -> Int32Array:
    return tokens.to(torch.int32).cpu().numpy().reshape(-1)


def _nearest_other(entries: Tensor, token: int) -> int:
    """The token whose entry is nearest to that of `token`, but not it."""
    unit = torch.nn.functional.normalize(entries, dim=-1)
    alike = unit @ unit[token]
    alike[token] = -2.0
    return int(alike.argmax())


@contextmanager
def _memory_for(width_px: int, height_px: int) -> Iterator[None]:
    """Say in one line that memory does not suffice; torch says so in an error that means anything."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        out_of_memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        if not out_of_memory and "can't allocate memory" not in str(error):
            raise
        raise LimitError(f"not enough memory for a picture of {width_px}x{height_px} pixels") from error


def _packs(precision: str, entry: registry.ModelEntry, gpu: bool) -> bool:
    """Whether to hold the weights of linear layers and convolutions in 16 bits."""
    if precision == "auto":
        return not gpu and entry.parameters >= _LARGE and can_pack()
    if precision not in ("float32", "bfloat16"):
        raise ModelError(f"no precision {precision!r}; there are: auto, float32, bfloat16")
    if precision == "bfloat16" and (gpu or not can_pack()):
        raise ModelError("bfloat16 needs a CPU with instructions for it; use float32 or auto")
    return precision == "bfloat16"


class _Check:
    """CRC-16 over the model's fingerprint and all symbols, each as four bytes, little endian."""

    def __init__(self, fingerprint: bytes) -> None:
        self.value = binascii.crc_hqx(fingerprint, 0xFFFF)

    def add(self, symbols: Int32Array) -> None:
        self.value = binascii.crc_hqx(symbols.astype("<i4").tobytes(), self.value)


class _CutStream:
    """Reads of a detail stream what is certain whatever the lost bytes were, and takes all the rest as 0."""

    def __init__(self, data: bytes) -> None:
        self._decoder = Decoder(data)  # stands after the last certain symbol
        self._ended = False

    def get(self, indices: Int32Array, model: store.LoadedModel) -> Int32Array:
        symbols = np.zeros_like(indices)
        at, count = 0, 0 if self._ended else len(indices)
        while count and at < len(indices):  # as many as are certain, found by halving
            ahead = self._decoder.copy()
            try:
                part = ahead.get(indices[at : at + count], model.detail_tables)
            except FormatError:
                part = None
            if part is None or ahead.overrun:
                count //= 2
            else:
                symbols[at : at + len(part)] = part
                self._decoder, at = ahead, at + len(part)
        self._ended = at < len(indices)
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
