"""All errors of dlfc in one place; the command line prints them as one line."""

from dlfc.formats.errors import DlfcError, FormatError, LimitError, UnsupportedVersionError

__all__ = ["DlfcError", "FormatError", "ImageError", "LimitError", "ModelError", "UnsupportedVersionError"]


class ModelError(DlfcError):
    """A model is unknown, missing, damaged or does not fit the file."""


class ImageError(DlfcError):
    """The input is not a picture that can be read, or the output cannot be written in that form."""
