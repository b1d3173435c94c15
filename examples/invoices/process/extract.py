"""The process invoices: number, supplier, date and total of an invoice's text."""

from __future__ import annotations

import re

from writ import Context, task, tool

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@tool(name="archive.store")
def store(number: str | None) -> str:
    """Files the invoice; here it has nowhere to go."""
    return f"stored {number}"


@task(name="invoices.extract")
def extract(ctx: Context, text: str) -> dict[str, str | float | None]:
    """What the invoice says; None for what is not found."""
    found: dict[str, str | float | None] = {
        "number": first(r"(?:Invoice|Rechnung)\s+(?:No\.|Nr\.|#)\s*([A-Z0-9-]+)", text),
        "supplier": first(r"(?:From|Von):\s*(.+)", text),
        "date": date(text),
        "total": total(text),
    }
    store(first(r"(?:No\.|Nr\.|#)\s*([A-Z0-9-]+)", text))
    ctx.log.info("read invoice %s", found["number"])
    return found


def first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1].strip() if match else None


def date(text: str) -> str | None:
    """As 2026-11-02, from `2 Nov 2026` or `02.11.2026`."""
    if match := re.search(r"(\d{1,2})\.(\d{2})\.(\d{4})", text):
        day, month, year = match.groups()
        return f"{year}-{month}-{int(day):02}"
    if match := re.search(r"(\d{1,2}) ([A-Z][a-z]{2}) (\d{4})", text):
        day, name, year = match.groups()
        return f"{year}-{MONTHS.index(name.lower()) + 1:02}-{int(day):02}"
    return None


def total(text: str) -> float | None:
    """What is to be paid, whichever sign stands before the cents."""
    written = first(r"(?:Total due|Zu zahlen):\s*(?:EUR\s*)?([\d.,]+)", text)
    return None if written is None else amount(written)


def amount(written: str) -> float:
    """`1,234.50` and `1.234,50` are the same amount."""
    whole, cents = written[:-3], written[-2:]
    return float(re.sub(r"[.,]", "", whole) + "." + cents)
