"""Reports of what an evaluation found."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree

from writ.evaluation.report import html, junit, markdown, regressions
from writ.evaluation.run import Evaluation, Side
from writ.orchestrator.statistics import judge, stability
from writ.schemas.evaluations import Better, Dimension, Measured

HOSTILE = '<script>alert("1")</script>|\x1b[31m'
ITEMS = ("fine", "worst", "worse", "better", "lost")


def found(name: str = "invoices@candidate") -> Evaluation:
    exact = Measured(
        Dimension("exact"),
        ((1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (1.0, None)),
        ((1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (0.0, 1.0), (1.0, 1.0)),
    )
    cost = Measured(
        Dimension("cost", better=Better.LOWER, relative=True, maximum=50.0),
        ((10.0, 10.0),) * 4 + ((90.0, 90.0),),
        ((10.0, 10.0),) * 5,
    )
    measured = (exact, cost)
    return Evaluation(
        plan="fields",
        plan_digest="p" * 64,
        data="invoices",
        data_digest="d" * 64,
        candidate=Side(name, "c" * 64, {}),
        baseline=Side("invoices@live", "b" * 64, {}),
        repeats=2,
        items=ITEMS,
        measured=measured,
        verdict=judge(measured),
        stability={"exact": stability(ITEMS, exact.candidate)},
        faults=("scoring job sc-1: it broke",),
    )


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_the_worst_regressions_come_first_in_whatever_dimension() -> None:
    assert [(each.item, each.dimension) for each in regressions(found())] == [
        ("lost", "cost"),
        ("worst", "exact"),
        ("worse", "exact"),
        ("better", "exact"),
    ]


def test_the_summary_names_verdicts_numbers_and_items() -> None:
    said = markdown(found())
    assert said.startswith("## ✘ fail: invoices@candidate against invoices@live on fields")
    assert "| exact | ? inconclusive | 0.7 | 0.9 | " in said
    assert "- `worst` exact: 1 to 0" in said
    assert "1 items are flaky in exact: worse" in said
    assert "Missing: scoring job sc-1: it broke" in said


def test_ci_reads_a_case_for_each_dimension() -> None:
    suite = ElementTree.fromstring(junit(found()))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "1")
    exact, cost = suite
    assert exact.find("error") is not None
    assert cost.find("failure") is not None


def test_the_page_shows_items_and_runs_nothing() -> None:
    page = "".join(html(found(HOSTILE)))
    read = _Tags()
    read.feed(page)
    assert "script" not in read.tags
    assert "svg" in read.tags
    assert "&lt;script&gt;" in page
    assert page.index("<td>worst<td>") < page.index("<td>worse<td>") < page.index("<td>better<td>")
    assert "http" not in page
