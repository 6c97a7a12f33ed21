"""Every error tells people what happened, programs a stable code, and the shell a status."""

import re

import pytest

from varfix.engine import errors
from varfix.engine.errors import ExitCode, NonFiniteError, VarfixError


def tree(base: type[VarfixError]) -> list[type[VarfixError]]:
    return [base, *(cls for child in base.__subclasses__() for cls in tree(child))]


CLASSES = tree(VarfixError)

EXIT_CODES = {
    "ConfigError": 2,
    "PlanError": 2,
    "NothingToDoError": 3,
    "ModelError": 4,
    "DeviceError": 5,
    "HostMemoryError": 5,
    "OutputError": 6,
    "ItemError": 1,
    "Interrupted": 130,
}


def drawn_in_docstring() -> dict[str, str]:
    found = {}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.fullmatch(r"\s{6,}(\w+)\s+(?:\d+\s+)?(\w+)", line):
            found[match[1]] = match[2]
    return found


def test_the_tree_in_the_docstring_is_the_tree():
    real = {cls.__name__: cls.code for cls in CLASSES if cls is not VarfixError}
    assert drawn_in_docstring() == real


@pytest.mark.parametrize("name, status", EXIT_CODES.items())
def test_a_branch_shares_its_exit_code(name, status):
    for cls in tree(getattr(errors, name)):
        assert cls.exit_code == status, cls


def test_every_branch_is_covered():
    assert {cls.__name__ for cls in VarfixError.__subclasses__()} == set(EXIT_CODES)


def test_codes_are_unique():
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_is_its_message(cls):
    error = cls("what went wrong", hint="what to do")
    assert (str(error), error.message, error.hint) == ("what went wrong",) * 2 + ("what to do",)
    assert cls("x").hint == ""


def test_a_reworded_error_is_a_copy_of_the_same_kind():
    error = NonFiniteError("NaN", hint="try fp32", tile=3)
    changed = error.reworded(message="a.png: NaN")
    assert (str(changed), changed.message, changed.hint) == ("a.png: NaN", "a.png: NaN", "try fp32")
    assert (type(changed), changed.tile) == (NonFiniteError, 3)
    assert error.reworded(hint="").hint == ""
    assert (str(error), error.hint) == ("NaN", "try fp32")


def test_exit_codes_match_the_signals():
    assert (ExitCode.SIGINT, ExitCode.SIGPIPE, ExitCode.SIGTERM) == (128 + 2, 128 + 13, 128 + 15)
