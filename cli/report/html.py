"""The HTML report: one file that needs no other file and no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from string import Template
from typing import IO, Final

from msgspec import UNSET

from varfix.cli.findings_text import counts_text
from varfix.cli.report.rows import Previews, ReportRow, RunReport, copy_spool
from varfix.cli.run_stats import SKIPS, duration

# Limits for browsers: images with previews, bytes of previews, lines of a table.
SHOWN: Final = 200
BYTES: Final = 32 << 20
ROWS: Final = 5000
# A larger shift of tone is flagged.
TONE_SHIFT: Final = 0.01

# Kinds of damage that are less likely are not shown, unless they were treated.
LIKELY: Final = 0.1

_ZOOM: Final = '<label class="zoom"><input type="checkbox" autocomplete="off">actual size</label>'
_VERDICTS: Final = {
    "ok": "all restored",
    "partial": "some failed",
    "failed": "failed",
    "stopped": "stopped",
}


class HtmlWriter:
    """Writes failures, preview cards and table lines to temporary files as HTML."""

    def __init__(self, failures: IO[bytes], cards: IO[bytes], rows: IO[bytes]) -> None:
        self._spools = {"failures": failures, "cards": cards, "rows": rows}
        self._counts = dict.fromkeys(self._spools, 0)
        self._seen = 0
        self._bytes = 0
        self._judged = False
        self._shifted = 0

    def wants_previews(self, report: RunReport) -> bool:
        """Return True for every image of a small run, and for evenly spaced ones of a large run."""
        self._seen += 1
        items = report.plan.items if report.plan else 0
        stride = -(-items // SHOWN) or 1
        return (self._seen - 1) % stride == 0 and self._bytes < BYTES

    def add(self, row: ReportRow, previews: Previews | None) -> None:
        """Append an image to the temporary files."""
        self._judged |= row.found is not None
        self._shifted += _is_shifted(row)
        if row.status == "failed":
            self._put("failures", _failure(row))
        else:
            self._put("rows", _row(row))
        if previews is not None and row.status == "restored":
            self._bytes += previews.size
            self._put("cards", _card(row, previews))

    def compose(self, report: RunReport, out: IO[bytes]) -> None:
        """Fill the template and insert the temporary files."""
        template = files("varfix.cli.report").joinpath("report.html").read_text(encoding="utf-8")
        rest = Template(template).substitute(_page_values(report, self._shifted) | self._notes())
        for name, spool in self._spools.items():
            before, _, rest = rest.partition(f"<!--{name}-->")
            out.write(before.encode())
            copy_spool(spool, out)
        out.write(rest.encode())

    def _put(self, name: str, piece: str) -> None:
        self._counts[name] += 1
        if self._counts[name] <= ROWS:
            self._spools[name].write(piece.encode("utf-8", "backslashreplace"))

    def _notes(self) -> dict[str, str]:
        counts = self._counts
        notes = {f"hide_{name}": "" if count else "hidden" for name, count in counts.items()}
        cards = f"{counts['cards']} of {self._seen} restored images, evenly spaced; "
        if counts["cards"] == self._seen:
            cards = ""
        notes["judged"] = "judged" if self._judged else "unjudged"
        notes["cards_note"] = f"{cards}drag, or select an image and press the arrow keys"
        notes["failed_note"] = _limited(counts["failures"])
        notes["rows_note"] = _limited(counts["rows"])
        return notes


def _limited(count: int) -> str:
    if count <= ROWS:
        return f"{count:,}"
    return f"the first {ROWS:,} of {count:,}; --report FILE.csv or FILE.json lists all of them"


def _page_values(report: RunReport, shifted: int) -> dict[str, str]:
    heading, end = report.heading, report.end
    status = end.status if end else "stopped"
    return {
        "title": escape(f"varfix: {heading.source}"),
        "began": escape(report.began.replace("T", " ").replace("+00:00", " UTC")),
        "status": status,
        "verdict": _VERDICTS[status],
        "source": escape(heading.source),
        "target": escape(heading.target),
        "facts": "".join(_fact(name, value) for name, value in _run(report)),
        "tiles": "".join(_tile(name, value) for name, value in _tiles(report, shifted)),
        "hide_warnings": "" if report.warnings else "hidden",
        "warnings": "".join(f"<p>{escape(warning.message)}</p>" for warning in report.warnings),
        "settings": "".join(_settings(report)),
        "version": escape(report.start.version if report.start else ""),
    }


def _run(report: RunReport) -> Iterator[tuple[str, str]]:
    """Yield model, device and version, as far as they are known."""
    yield "Preset", report.heading.preset
    start = report.start
    if start is None:
        return
    yield "Model", start.model.name
    yield "Device", f"{start.device.used} ({start.device.provider}, {start.device.precision})"
    yield "Tile", str(start.tile)
    yield "Batch", str(start.batch)
    yield "Strength", report.heading.settings.get("strength", "")
    if report.end is not None and report.end.applied is not UNSET:
        yield "Treated", counts_text(report.end.applied)


def _fact(name: str, value: str) -> str:
    return f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>"


def _tiles(report: RunReport, shifted: int) -> Iterator[tuple[str, str]]:
    end = report.end
    if end is None:
        yield "broken off", "&ndash;"
        return
    yield "restored", f"{end.ok:,}"
    yield "skipped", f"{end.skipped:,}"
    yield "failed", f"{end.failed:,}"
    if shifted:
        yield f"tone moved over {TONE_SHIFT:.0%}", f"{shifted:,}"
    yield "time", duration(end.seconds)
    yield "images a second", f"{end.per_second:.2f}"


def _tile(name: str, value: str) -> str:
    alarm = ' class="failed"' if name == "failed" and value != "0" else ""
    return f"<div><b{alarm}>{value}</b><span>{name}</span></div>"


def _settings(report: RunReport) -> Iterable[str]:
    origins = report.heading.origins
    for key, value in report.heading.settings.items():
        cells = (f"<code>{escape(key)}</code>", escape(value), escape(origins.get(key, "")))
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _failure(row: ReportRow) -> str:
    hint = f'<p class="soft">{escape(row.hint)}</p>' if row.hint else ""
    # The message names the image for readers who see no other column.
    reason = (row.message or "").partition(f"{row.src}: ")[2] or row.message or ""
    return (
        f'<tr><td class="name">{escape(row.src)}</td>'
        f"<td>{escape(reason)}{hint}</td>"
        f"<td><code>{escape(row.code or '')}</code></td></tr>\n"
    )


def _row(row: ReportRow) -> str:
    outcome = (
        "restored"
        if row.status == "restored"
        else f"skipped ({SKIPS.get(row.code or '', row.code)})"
    )
    cells = [
        f'<td class="name">{escape(row.src)}</td>',
        f"<td>{escape(outcome)}</td>",
        f'<td class="num">{_size(row)}</td>',
        f'<td class="num">{_weight(row.bytes)}</td>',
        f'<td class="num">{"" if row.seconds is None else f"{row.seconds:.2f}"}</td>',
        f'<td class="num">{_tone(row)}</td>',
        f"<td>{_stack(row)}</td>",
        f'<td class="findings">{_findings(row)}</td>',
    ]
    return f"<tr{_sort_keys(row)}>{''.join(cells)}</tr>\n"


def _findings(row: ReportRow) -> str:
    """Return the likely kinds of damage in percent, the most likely first, treated ones bold."""
    applied = row.applied or ()
    found = sorted((row.found or {}).items(), key=lambda entry: -entry[1])
    shown = [(kind, p) for kind, p in found if p >= LIKELY or kind in applied]
    texts = [f"{escape(kind)}&nbsp;{p:.0%}" for kind, p in shown]
    marks = [kind in applied for kind, _ in shown]
    return " ".join(
        f"<b>{text}</b>" if mark else f"<span>{text}</span>"
        for text, mark in zip(texts, marks, strict=True)
    )


def _sort_keys(row: ReportRow) -> str:
    """Return attributes that the page sorts by: the probability of each kind of damage."""
    return "".join(f' data-{escape(kind)}="{p:.3f}"' for kind, p in (row.found or {}).items())


def _is_shifted(row: ReportRow) -> bool:
    return (row.tone_shift or 0.0) > TONE_SHIFT


def _tone(row: ReportRow) -> str:
    """Return the shift of tone in percent, flagged where it is large."""
    if row.tone_shift is None:
        return ""
    text = f"{row.tone_shift:.1%}"
    return f'<b class="failed">{text}</b>' if _is_shifted(row) else text


def _stack(row: ReportRow) -> str:
    """Return a bar of the three stages' shares of an image's time."""
    stages = {"decode": row.decode, "infer": row.infer, "encode": row.encode}
    total = sum(value or 0 for value in stages.values())
    if not total:
        return ""
    words = ", ".join(f"{name} {value or 0:.2f} s" for name, value in stages.items())
    parts = "".join(
        f'<i class="{name}" style="width:{100 * (value or 0) / total:.1f}%"></i>'
        for name, value in stages.items()
    )
    return f'<div class="stack" role="img" aria-label="{words}" title="{words}">{parts}</div>'


def _card(row: ReportRow, previews: Previews) -> str:
    name = escape(row.src)
    details = " &middot; ".join(part for part in (_size(row), f"{row.seconds or 0:.2f} s") if part)
    return (
        f'<figure class="pair"{_sort_keys(row)}><div class="frame">'
        f'<div class="whole">{_images(previews.whole)}</div>'
        f'<div class="detail">{_images(previews.detail)}</div>'
        f'<input type="range" min="0" max="100" step="2" value="50" autocomplete="off"'
        f' aria-label="{name}: before on the left, after on the right">'
        '<span class="bar"></span><span class="tag l">before</span><span class="tag r">after</span>'
        f'</div><figcaption><span class="name">{name}</span> <span class="soft">{details}</span>'
        f"{_ZOOM if previews.detail else ''}"
        f'<span class="findings">{_findings(row)}</span></figcaption></figure>\n'
    )


def _images(pair: tuple[bytes, bytes] | None) -> str:
    return "".join(
        f'<img alt="{alt}" decoding="async" src="data:image/jpeg;base64,{_base64(data)}">'
        for alt, data in zip(("before", "after"), pair or (), strict=False)
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _size(row: ReportRow) -> str:
    return f"{row.width}&times;{row.height}" if row.width and row.height else ""


def _weight(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
