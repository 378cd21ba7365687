"""Which models there are: the bundled ones and those in the user's model folder. Loads no weights and no torch.

A model is two files: `NAME.safetensors` and its description `NAME.json`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlfc.errors import ModelError
from dlfc.files import save

DEFAULT_MODEL = "small"
MODELS_DIR_VARIABLE = "DLFC_MODELS_DIR"
MODEL_ID_BYTES = 4
_MAX_DESCRIPTION_BYTES = 1 << 16
_BUNDLED = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be loaded: its name, where its weights lie, and what identifies them."""

    name: str
    weights: Path
    fingerprint: str  # SHA-256 of the weights that matter, hexadecimal
    parameters: int
    levels: int

    def __post_init__(self) -> None:
        """Refuse, with ValueError, what no model has: a name that cannot be printed, numbers that are none."""
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            raise ValueError("the name is not a line of text")
        if not isinstance(self.fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", self.fingerprint):
            raise ValueError("the fingerprint is not a SHA-256")
        if type(self.parameters) is not int or type(self.levels) is not int or min(self.parameters, self.levels) < 1:
            raise ValueError("parameters and levels are not numbers from 1 up")

    @property
    def model_id(self) -> bytes:
        """What a file says of its model: the first bytes of the fingerprint."""
        return bytes.fromhex(self.fingerprint)[:MODEL_ID_BYTES]

    @property
    def bundled(self) -> bool:
        """Whether the model came with dlfc."""
        return self.weights.parent == _BUNDLED

    @property
    def description(self) -> Path:
        """The file beside the weights that holds these fields."""
        return self.weights.with_suffix(".json")

    def save(self) -> None:
        """Write the description beside the weights."""
        fields = {k: v for k, v in asdict(self).items() if k != "weights"}
        save(str(self.description), (json.dumps(fields, indent=1) + "\n").encode(), overwrite=True)


def user_models_dir() -> Path:
    """The user's model folder: $DLFC_MODELS_DIR, or dlfc/models in the platform's data folder; it need not exist."""
    chosen = os.environ.get(MODELS_DIR_VARIABLE)
    if chosen:
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "dlfc" / "models"


def scan(models_dir: Path | None = None) -> tuple[list[ModelEntry], dict[str, ModelError]]:
    """All models, bundled ones first, and by name what is wrong with descriptions that cannot be read."""
    found: list[ModelEntry] = []
    problems: dict[str, ModelError] = {}
    for folder in (_BUNDLED, models_dir or user_models_dir()):
        for path in sorted(folder.glob("*.json")):
            try:
                found.append(read_entry(path.with_suffix(".safetensors")))
            except ModelError as error:
                problems[path.stem] = error
    return found, problems


def entries(models_dir: Path | None = None) -> list[ModelEntry]:
    """All models whose descriptions can be read, bundled ones first."""
    return scan(models_dir)[0]


def read_entry(weights: Path) -> ModelEntry:
    """The entry of a weights file that has its description beside it; ModelError if that is missing or damaged."""
    description = weights.with_suffix(".json")
    try:
        entry = ModelEntry(weights=weights, **_read_json(description))
    except OSError as error:
        if not weights.exists():
            raise ModelError(f"{weights}: no such weights file") from error
        raise ModelError(f"{description}: cannot read the model's description: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{description}: not a model description: {error}") from error
    return entry


def _read_json(path: Path) -> Any:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        text = file.read(_MAX_DESCRIPTION_BYTES + 1)
    if len(text) > _MAX_DESCRIPTION_BYTES:
        raise ValueError(f"it has more than {_MAX_DESCRIPTION_BYTES} bytes")
    return json.loads(text)


def find(model: str | bytes | None = None, models_dir: Path | None = None) -> ModelEntry:
    """The model of a name, of a path to a weights file, or of a 4-byte model id; None is the default model.

    Raises ModelError, which says what models there are.
    """
    known, problems = scan(models_dir)
    if isinstance(model, bytes):
        for entry in known:
            if entry.model_id == model:
                return entry
        raise ModelError(
            f"the file was made with model {model.hex()}, which is not installed; "
            f"put its weights into {models_dir or user_models_dir()} with 'dlfc models import', or name them with -m"
        )
    name = model or DEFAULT_MODEL
    if name.endswith(".safetensors"):
        return read_entry(Path(name))
    for entry in known:
        if entry.name == name:
            return entry
    if name in problems:
        raise problems[name]
    raise ModelError(f"no model {name!r}; there are: {', '.join(entry.name for entry in known) or 'none'}")


def name_of(model_id: bytes, models_dir: Path | None = None) -> str | None:
    """The name of the installed model that `model_id` stands for, or None."""
    for entry in entries(models_dir):
        if entry.model_id == model_id:
            return entry.name
    return None
