"""The errors of varfix, as one tree; each class has an exit code and a stable `code`.

::

    VarfixError
      ConfigError                 2   config
      PlanError                   2   plan
        FormatLimitError              format_limit
        AlphaLostError                alpha_lost
        CollisionError                collision
      NothingToDoError            3   nothing_to_do
      ModelError                  4   model
        ModelMissingError             model_missing
        ModelContractError            model_contract
        ModelChecksumError            model_checksum
        ModelDownloadError            model_download
      DeviceError                 5   device
        DeviceUnavailableError        device_unavailable
        DeviceMemoryError             device_oom
      HostMemoryError             5   host_oom
      OutputError                 6   output
        DiskFullError                 disk_full
        OutputDeniedError             output_denied
        OutputLockedError             output_locked
        StoreError                    store
          StoreAccessError            store_access
          StoreUnreachableError       store_unreachable
      ItemError                   1   item
        DecodeError                   decode
          DecodeEmptyError            decode_empty
          DecodeTruncatedError        decode_truncated
          DecodeUnknownError          decode_unknown
          DecodeUnsupportedError      decode_unsupported
        SourceReadError               source_read
        NonFiniteError                model_nonfinite
        EncodeError                   encode_failed
        TakenError                    output_taken
        WorkerLostError               worker_lost
      Interrupted               130   interrupted

`code` strings are the stable interface (events, reports); messages may change between versions.
An `ItemError` costs one image; every other class ends the run.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar, Self


class ExitCode(IntEnum):
    """Exit code of the process."""

    OK = 0
    PARTIAL = 1
    USAGE = 2
    NOTHING = 3
    MODEL = 4
    DEVICE = 5
    OUTPUT = 6
    SIGINT = 130
    SIGPIPE = 141
    SIGTERM = 143


class VarfixError(Exception):
    """An expected failure, with a message for users and a code for programs.

    Attributes:
        message: What failed and where; also `str(error)`.
        hint: What to do next; empty if the message is enough.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.PARTIAL
    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def reworded(self, *, message: str | None = None, hint: str | None = None) -> Self:
        """Return a copy with another message or hint; an error itself never changes."""
        changed = copy.copy(self)
        if message is not None:
            changed.args, changed.message = (message,), message
        if hint is not None:
            changed.hint = hint
        return changed


class ConfigError(VarfixError):
    """A preset, option or environment variable is invalid."""

    exit_code = ExitCode.USAGE
    code = "config"


class PlanError(VarfixError):
    """The requested run cannot write correct files; raised before any work."""

    exit_code = ExitCode.USAGE
    code = "plan"


class FormatLimitError(PlanError):
    """The image is larger than its output format allows."""

    code = "format_limit"


class AlphaLostError(PlanError):
    """The output format cannot store the transparency of an image."""

    code = "alpha_lost"


class CollisionError(PlanError):
    """Two sources would have the same result file."""

    code = "collision"


class NothingToDoError(VarfixError):
    """There is no input to restore.

    Attributes:
        ignored: Names that were found and do not count.
    """

    exit_code = ExitCode.NOTHING
    code = "nothing_to_do"

    def __init__(self, message: str, *, hint: str = "", ignored: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.ignored = tuple(ignored)


class ModelError(VarfixError):
    """The model cannot be used."""

    exit_code = ExitCode.MODEL
    code = "model"


class ModelMissingError(ModelError):
    """There is no model of this name, or no file at this path."""

    code = "model_missing"


class ModelContractError(ModelError):
    """The inputs, outputs or card of a graph do not fit the model contract (engine/README.md)."""

    code = "model_contract"


class ModelChecksumError(ModelError):
    """The digest of a model file differs from the expected one."""

    code = "model_checksum"


class ModelDownloadError(ModelError):
    """A model file could not be downloaded completely."""

    code = "model_download"


class DeviceError(VarfixError):
    """The compute device cannot run the model."""

    exit_code = ExitCode.DEVICE
    code = "device"


class DeviceUnavailableError(DeviceError):
    """The requested device cannot be used on this machine."""

    code = "device_unavailable"


class DeviceMemoryError(DeviceError):
    """The device is out of memory even at batch 1."""

    code = "device_oom"


class HostMemoryError(VarfixError):
    """The image does not fit in main memory."""

    exit_code = ExitCode.DEVICE
    code = "host_oom"


class OutputError(VarfixError):
    """Results cannot be stored."""

    exit_code = ExitCode.OUTPUT
    code = "output"


class DiskFullError(OutputError):
    """The destination has no space left."""

    code = "disk_full"


class OutputDeniedError(OutputError):
    """Access to the destination is denied."""

    code = "output_denied"


class OutputLockedError(OutputError):
    """Another run has locked the destination."""

    code = "output_locked"


class StoreError(OutputError):
    """A request to an object store failed."""

    code = "store"


class StoreAccessError(StoreError):
    """The store denies access: the credentials are missing, invalid or expired."""

    code = "store_access"


class StoreUnreachableError(StoreError):
    """The store does not respond."""

    code = "store_unreachable"


class ItemError(VarfixError):
    """One item failed; the run continues."""

    exit_code = ExitCode.PARTIAL
    code = "item"


class DecodeError(ItemError):
    """The source cannot be decoded."""

    code = "decode"


class DecodeEmptyError(DecodeError):
    """The source has no bytes."""

    code = "decode_empty"


class DecodeTruncatedError(DecodeError):
    """The source is truncated or damaged."""

    code = "decode_truncated"


class DecodeUnknownError(DecodeError):
    """The source is not in a format that varfix reads."""

    code = "decode_unknown"


class DecodeUnsupportedError(DecodeError):
    """The source is an image or video of a type that varfix does not restore."""

    code = "decode_unsupported"


class SourceReadError(ItemError):
    """The file of the source cannot be read."""

    code = "source_read"


class NonFiniteError(ItemError):
    """The model produced NaN or infinity even in fp32.

    Attributes:
        tile: Index of the first such tile in the batch; None without tiles.
    """

    code = "model_nonfinite"

    def __init__(self, message: str, *, hint: str = "", tile: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.tile = tile


class EncodeError(ItemError):
    """The result cannot be written in the output format."""

    code = "encode_failed"


class TakenError(ItemError):
    """A file that varfix did not write appeared at the path of the result."""

    code = "output_taken"


class WorkerLostError(ItemError):
    """Several workers of a cluster were lost while they restored the item."""

    code = "worker_lost"


class Interrupted(VarfixError):  # noqa: N818 (an event the user caused, not a fault)
    """The user or the system requested that the run stops."""

    exit_code = ExitCode.SIGINT
    code = "interrupted"
