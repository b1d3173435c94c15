"""What the gates say of a release as a small picture, for a page that links to it."""

from __future__ import annotations

from typing import Final
from xml.sax.saxutils import escape

from writ.schemas.evaluations import Outcome
from writ.schemas.releasing import GatesTold

_COLOURS: Final = {Outcome.PASS: "#1a7f37", Outcome.FAIL: "#b42318", Outcome.INCONCLUSIVE: "#8a5a00"}
"""Each has a contrast of more than 4.5 to white."""

_EACH: Final = 6.6
_MARGIN: Final = 12


def badge(told: GatesTold) -> bytes:
    """An SVG of one line: which release, at which version, and the verdict of its gates."""
    name = f"{told.process}@{told.release}"
    verdict = f"{told.version} {told.outcome.value}" if told.release != told.version else told.outcome.value
    left, right = (round(len(text) * _EACH) + _MARGIN for text in (name, verdict))
    label = escape(f"{name}: {verdict}", {'"': "&quot;"})
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img"'
        f' aria-label="{label}"><title>{label}</title>'
        f'<rect width="{left}" height="20" fill="#444"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{_COLOURS[told.outcome]}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f"{_text(name, left / 2, left)}{_text(verdict, left + right / 2, right)}</g></svg>\n"
    ).encode()


def _text(text: str, middle: float, width: int) -> str:
    return f'<text x="{middle:g}" y="14" textLength="{width - _MARGIN}">{escape(text)}</text>'
