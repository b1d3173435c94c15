"""Invoices with known answers, drawn from a seed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SUPPLIERS = (
    "Nordlicht GmbH",
    "Ferris & Sons",
    "Atelier Blanc",
    "Kappa Tools",
    "Hafenkontor AG",
    "Oak Street Press",
)
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
HARD_EVERY = 20
"""One of so many invoices says what is to be paid in words that the first release does not know."""


def invoice(n: int, draw: random.Random) -> dict[str, Any]:
    """One item: an English or a German invoice, and what stands in it."""
    german = n % 2 == 1
    cents = draw.randint(105_000, 9_999_999)
    year, month, day = draw.randint(2024, 2026), draw.randint(1, 12), draw.randint(1, 28)
    number, supplier = f"{draw.choice('ABCDEF')}-{draw.randint(10_000, 99_999)}", draw.choice(SUPPLIERS)
    amount = f"{cents / 100:,.2f}"
    if german:
        amount = amount.translate(str.maketrans(",.", ".,"))
    due = "Zu zahlen" if german else "Total due"
    if n % HARD_EVERY == HARD_EVERY - 1:
        due = "Offener Betrag" if german else "Balance"
    lines = [
        f"Rechnung Nr. {number}" if german else f"Invoice No. {number}",
        f"{'Von' if german else 'From'}: {supplier}",
        f"{day:02}.{month:02}.{year}" if german else f"{day} {MONTHS[month - 1]} {year}",
        *(f"{draw.randint(1, 9)} x item {draw.randint(100, 999)}" for _ in range(draw.randint(1, 4))),
        f"{due}: EUR {amount}",
    ]
    expected = {
        "number": number,
        "supplier": supplier,
        "date": f"{year}-{month:02}-{day:02}",
        "total": cents / 100,
    }
    tags = ["german" if german else "english"]
    return {"id": f"invoice-{n}", "input": {"text": "\n".join(lines)}, "expected": expected, "tags": tags}


def write(path: Path, count: int, seed: int) -> None:
    """A data set of so many invoices."""
    draw = random.Random(seed)
    path.write_text("".join(json.dumps(invoice(n, draw)) + "\n" for n in range(count)), encoding="utf-8")
