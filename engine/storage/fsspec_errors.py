"""Converts errors of fsspec and its libraries to errors of varfix.

Errors are recognized by the store's error code and by class names, not by types: each kind of store
has its own library, and none of them needs to be installed.
"""

from __future__ import annotations

import builtins
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from varfix.engine.errors import (
    EncodeError,
    OutputDeniedError,
    SourceReadError,
    StoreAccessError,
    StoreError,
    StoreUnreachableError,
    VarfixError,
)
from varfix.engine.storage.addresses import redact

_EXPIRED: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidToken",
        "RequestExpired",
        "TokenRefreshRequired",
    }
)
_REFUSED: Final = frozenset(
    {
        "AccountProblem",
        "AuthorizationHeaderMalformed",
        "InvalidAccessKeyId",
        "InvalidSecurity",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
_ABSENT: Final = frozenset(
    {
        "CredentialRetrievalError",
        "DefaultCredentialsError",
        "LoginRefreshRequired",
        "MetadataRetrievalError",
        "NoAuthTokenError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "RefreshError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)
_UNREACHABLE: Final = frozenset(
    {
        "ClientConnectorError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "ProxyConnectionError",
        "SSLError",
    }
)
_SLOW: Final = frozenset({"FSTimeoutError", "ReadTimeoutError", "TimeoutError"})
_NAMELESS: Final = frozenset({"KeyTooLongError", "InvalidURI", "ParamValidationError"})
_AGAIN: Final = "run the same command again; finished results are kept"


def code_of(error: BaseException) -> str:
    """Return the error code of the store; empty if it sent none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict) and isinstance(response.get("Error"), dict):
            return str(response["Error"].get("Code", ""))
        seen = seen.__cause__
    return ""


def _names(error: BaseException) -> set[str]:
    """Return the class names of an error and of its causes."""
    names: set[str] = set()
    seen: BaseException | None = error
    while seen is not None:
        names.update(kind.__name__ for kind in type(seen).__mro__)
        seen = seen.__cause__
    return names


def _fatal(error: Exception, place: str) -> StoreError | None:
    """Return the error that ends the run; None when it concerns one item only."""
    code, names = code_of(error), _names(error)
    if code in _EXPIRED or "expired" in str(error).lower():
        return StoreAccessError(
            f"{place}: the credentials have expired", hint=f"renew them and {_AGAIN}"
        )
    if code in _REFUSED:
        return StoreAccessError(
            f"{place}: the credentials are refused ({code})", hint=f"correct them and {_AGAIN}"
        )
    if names & _ABSENT:
        return StoreAccessError(
            f"{place}: no valid credentials",
            hint="for S3: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if names & _UNREACHABLE or isinstance(error, builtins.ConnectionError):
        return StoreUnreachableError(f"{place}: the store does not answer", hint=_AGAIN)
    if code == "NoSuchBucket":
        return StoreError(f"{place}: no such bucket", hint="create it, or name another bucket")
    return None


def _reason(error: Exception) -> str:
    if _names(error) & _SLOW:
        return "no response in time"
    text = redact(str(error)).strip() or type(error).__name__
    return " ".join(text.split())


@contextmanager
def translate_store_errors(place: str) -> Iterator[None]:
    """Translate errors of requests that concern the store as a whole.

    Args:
        place: The store's address for messages.
    """
    try:
        yield
    except VarfixError:
        raise
    except Exception as error:
        fatal = _fatal(error, place)
        if fatal is None and isinstance(error, PermissionError):
            fatal = StoreAccessError(
                f"{place}: access denied", hint="allow this account to list, read and write there"
            )
        raise fatal or StoreError(f"{place}: {_reason(error)}", hint=_AGAIN) from error


@contextmanager
def translate_read_errors(place: str) -> Iterator[None]:
    """Translate errors of reading one source."""
    try:
        yield
    except VarfixError:
        raise
    except Exception as error:
        fatal = _fatal(error, place)
        if fatal is not None:
            raise fatal from error
        if isinstance(error, FileNotFoundError):
            raise SourceReadError("cannot be read (no such file)") from error
        if isinstance(error, PermissionError):
            raise SourceReadError("cannot be read (access denied)") from error
        raise SourceReadError(f"cannot be read ({_reason(error)})", hint=_AGAIN) from error


@contextmanager
def translate_write_errors(place: str, name: str) -> Iterator[None]:
    """Translate errors of writing one result.

    `FileExistsError` passes: its meaning depends on the existing object.
    """
    try:
        yield
    except (VarfixError, FileExistsError):
        raise
    except Exception as error:
        fatal = _fatal(error, place)
        if fatal is not None:
            raise fatal from error
        unnamed = isinstance(error, UnicodeError) or _names(error) & _NAMELESS
        if unnamed or getattr(error, "errno", None) == errno.ENAMETOOLONG:
            raise EncodeError(
                f"cannot be written as {name} (the store does not allow this name)",
                hint="give it another name",
            ) from error
        if isinstance(error, PermissionError):
            raise OutputDeniedError(f"{place}/{name}: access denied") from error
        raise StoreError(f"{place}/{name}: {_reason(error)}", hint=_AGAIN) from error
