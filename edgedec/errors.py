"""Every error that edgedec raises on purpose.

    EdgedecError                 the base: one line, what was found and what to do
    ├── UsageError               a call or an option makes no sense (the command line exits with 2)
    ├── InputError               the prompt or text cannot be used: empty, too long, not UTF-8
    ├── UnsupportedError         a model type, field, tensor format or capability we do not have
    ├── CheckpointError          a source checkpoint is broken: truncated, missing, wrong shape, NaN
    ├── BundleError              a bundle is broken: manifest, size, hash, a path leaving it
    ├── StateError               a saved session does not belong to this model or runtime
    ├── DeviceError              the device asked for is not there
    ├── WriteError               the result cannot be written: read-only, disk full, exists already
    └── MissingExtraError        an optional package is needed; names the extra to install

A message is one sentence or two, readable without a traceback. The command line prints it and
exits with 1.
"""

from __future__ import annotations


class EdgedecError(Exception):
    """The base of every error that a user may see."""


class UsageError(EdgedecError):
    """A call or an option makes no sense."""


class InputError(EdgedecError):
    """The prompt or the text cannot be used."""


class UnsupportedError(EdgedecError):
    """Something well formed that this version cannot do."""


class CheckpointError(EdgedecError):
    """A source checkpoint is incomplete or damaged."""


class BundleError(EdgedecError):
    """A bundle is incomplete, damaged, or not safe to open."""


class StateError(EdgedecError):
    """A saved session state does not fit this model, runtime or version."""


class DeviceError(EdgedecError):
    """The device asked for is not available."""


class WriteError(EdgedecError):
    """The result cannot be written where it was asked for."""


class MissingExtraError(EdgedecError):
    """An optional dependency is not installed."""

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        super().__init__(f"{purpose} needs the package {package}: pip install 'edgedec[{extra}]'")
