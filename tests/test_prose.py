"""Messages, hints, help texts and the README follow the conventions of CONTRIBUTING."""

import ast
import re
from pathlib import Path

import click
import pytest

from varfix.cli.main import COMMANDS, main
from varfix.engine import errors

ROOT = Path(__file__).parents[1]
ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.VarfixError)
}
# First words that keep their capital: names and formats.
NAMES = re.compile(
    r"(CPU|GPU|CUDA|Ray|ONNX|PyTorch|PNG|JPEG|JPG|WebP|TIFF|AVIF|BMP|HEIC|HEIF|JXL|GIF|DST|SRC|TARGET|"
    r"HDR|ICC|XMP|EXIF|IPTC|CMYK|YAML|VarFormer|RestoreVAR|FFmpeg|KEY|NUL|Windows|SHA|URL|RGB)"
)
WORDS = ["picture", "pictures", "photograph", "photographs", "colour", "colours", "licence", "licences", "told", "twin", "twins", "squash", "squashed", "steadied", "absurd", "gone-on", "a-way-out", "of-it", "half-precision", "lies-beside", "by-hand", "varfix-broke", "another-varfix-is"]
FORBIDDEN = re.compile(
    r"\b(" + "|".join(word.replace("-", " ") for word in WORDS) + r")\b", re.IGNORECASE
)


def texts(node):
    """Yield the literal texts of an expression, with `…` for each value put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)


def calls():
    """Yield path, line, and the name, first argument and hint of each error that is created."""
    for layer in ("engine", "onnx", "cli"):
        for path in sorted((ROOT / layer).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = node.func if isinstance(node, ast.Call) else None
                if isinstance(name, ast.Name) and name.id in ERRORS:
                    yield f"{path.relative_to(ROOT)}:{name.lineno}", node


def messages():
    return [(at, text) for at, node in calls() for arg in node.args[:1] for text in texts(arg)]


def hints():
    return [
        (at, text)
        for at, node in calls()
        for keyword in node.keywords
        if keyword.arg == "hint"
        for text in texts(keyword.value)
        if text
    ]


def convention(text):
    """Return what is wrong with a message or hint."""
    wrong = []
    if text[0].isupper() and not NAMES.match(text):
        wrong.append("begins with a capital")
    if text.rstrip().endswith(".") and not text.endswith("..."):
        wrong.append("ends with a period")
    wrong += [f'contains "{found[0]}"' for found in FORBIDDEN.finditer(text)]
    return wrong


@pytest.mark.parametrize("kind", [messages, hints])
def test_messages_and_hints_follow_the_convention(kind):
    found = kind()
    assert len(found) > 40
    assert [(at, text, wrong) for at, text in found if (wrong := convention(text))] == []


def pages(command, context):
    yield command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            yield from pages(child, click.Context(child, info_name=name, parent=context))


def test_help_pages_avoid_the_word_list():
    found = list(pages(main, click.Context(main, info_name="varfix")))
    assert len(found) > len(COMMANDS)
    assert [word[0] for text in found for word in FORBIDDEN.finditer(text)] == []


@pytest.mark.parametrize("name", ["README.md", "cli/README.md", "onnx/models/README.md"])
def test_documents_avoid_the_word_list(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`|\([^)]*\)|tests/pictures", "", text, flags=re.DOTALL)
    assert [found[0] for found in FORBIDDEN.finditer(prose)] == []
