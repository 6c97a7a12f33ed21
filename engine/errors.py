"""Everything varfix refuses or fails at, as one tree; each class knows its exit code.

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

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the process tells the shell."""

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
    """An expected failure, with a text for people and a code for programs.

    Attributes:
        message: What went wrong and where; also `str(error)`.
        hint: What to do next, or an empty string when the message already says it.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.PARTIAL
    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(VarfixError):
    """A preset, option or environment variable is not understood."""

    exit_code = ExitCode.USAGE
    code = "config"


class PlanError(VarfixError):
    """The run as asked for cannot give correct files, found before any work."""

    exit_code = ExitCode.USAGE
    code = "plan"


class FormatLimitError(PlanError):
    """The image is larger than its output format can hold."""

    code = "format_limit"


class AlphaLostError(PlanError):
    """The output format would silently drop transparency."""

    code = "alpha_lost"


class CollisionError(PlanError):
    """Two sources would become the same file."""

    code = "collision"


class NothingToDoError(VarfixError):
    """No readable input matched."""

    exit_code = ExitCode.NOTHING
    code = "nothing_to_do"


class ModelError(VarfixError):
    """The model cannot be used."""

    exit_code = ExitCode.MODEL
    code = "model"


class ModelMissingError(ModelError):
    """No model of this name, or no file at this path."""

    code = "model_missing"


class ModelContractError(ModelError):
    """The graph's inputs, outputs or card are not what varfix runs."""

    code = "model_contract"


class ModelChecksumError(ModelError):
    """The file's bytes are not the released ones."""

    code = "model_checksum"


class ModelDownloadError(ModelError):
    """A model's file could not be fetched, or not all of it."""

    code = "model_download"


class DeviceError(VarfixError):
    """The compute device cannot do the work."""

    exit_code = ExitCode.DEVICE
    code = "device"


class DeviceUnavailableError(DeviceError):
    """The device asked for by name is not usable here."""

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
    """No space left at the destination."""

    code = "disk_full"


class OutputDeniedError(OutputError):
    """The destination may not be written."""

    code = "output_denied"


class OutputLockedError(OutputError):
    """Another run holds the destination."""

    code = "output_locked"


class StoreError(OutputError):
    """An object store, of sources or results, does not do what is asked of it."""

    code = "store"


class StoreAccessError(StoreError):
    """The store lets nobody in with these credentials: there are none, or they have expired."""

    code = "store_access"


class StoreUnreachableError(StoreError):
    """The store does not answer."""

    code = "store_unreachable"


class ItemError(VarfixError):
    """One image failed; the others go on."""

    exit_code = ExitCode.PARTIAL
    code = "item"


class DecodeError(ItemError):
    """The source's bytes did not become an image."""

    code = "decode"


class DecodeEmptyError(DecodeError):
    """The source has no bytes."""

    code = "decode_empty"


class DecodeTruncatedError(DecodeError):
    """The source ends early or is damaged inside."""

    code = "decode_truncated"


class DecodeUnknownError(DecodeError):
    """The source is not an image that varfix knows."""

    code = "decode_unknown"


class DecodeUnsupportedError(DecodeError):
    """The source is an image of a kind varfix does not restore."""

    code = "decode_unsupported"


class SourceReadError(ItemError):
    """The source could not be read from disk."""

    code = "source_read"


class NonFiniteError(ItemError):
    """The model produced NaN or infinity even in fp32.

    Attributes:
        tile: Number of the first bad tile among those passed, None where there are no tiles.
    """

    code = "model_nonfinite"

    def __init__(self, message: str, *, hint: str = "", tile: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.tile = tile


class EncodeError(ItemError):
    """The result could not be written in the output format."""

    code = "encode_failed"


class TakenError(ItemError):
    """A file that varfix did not write has appeared where the result was to go."""

    code = "output_taken"


class WorkerLostError(ItemError):
    """Workers of a cluster were lost over it, time and again."""

    code = "worker_lost"


class Interrupted(VarfixError):  # noqa: N818 (an event the user caused, not a fault)
    """The user or the system asked the run to stop."""

    exit_code = ExitCode.SIGINT
    code = "interrupted"
