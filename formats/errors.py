"""Errors that a .dlf file can cause. The message is one sentence: what, where, what to do."""


class DlfcError(Exception):
    """Base of every error that dlfc raises on purpose."""


class FormatError(DlfcError):
    """The bytes are not a valid .dlf file: damaged, cut short, too long, or something else entirely."""


class UnsupportedVersionError(FormatError):
    """The file is of a format version, or holds a critical section, that this program does not know."""


class LimitError(DlfcError):
    """The picture is larger than the limit in force."""
