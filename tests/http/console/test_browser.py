"""The console in Debian's Chromium, on a real node with real jobs; the pictures land in artifacts/console."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from .visitors import HOSTILE_PAGES, JOB, LONG, PAGES, edited, token_of, window

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.http.conftest import Api

    from .visitors import Window

PICTURES = Path(__file__).parents[3] / "artifacts" / "console"
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
SIZES = {
    "desktop": (1280, "light"),
    "dark": (1280, "dark"),
    "phone": (390, "light"),
    "phone-dark": (390, "dark"),
}
TOUR = {"overview": "/console", "job": JOB}
"""Pages whose pictures are in the README."""

STALL_MS = 250
"""For so long nothing may hold the browser up."""

SHIFT_MAX = 0.1
"""How far what is read may be moved in all, in windows; more is called poor by those who measure it."""

_WATCH = """
window.held = 0; window.shifted = 0;
new PerformanceObserver(list => {
  for (const each of list.getEntries()) window.held = Math.max(window.held, each.duration);
}).observe({type: 'longtask', buffered: true});
new PerformanceObserver(list => {
  for (const each of list.getEntries()) if (!each.hadRecentInput) window.shifted += each.value;
}).observe({type: 'layout-shift', buffered: true});
"""


def test_the_tour(chromium: Browser, trade: Api) -> None:
    """Must hold: the README's tour shows real pictures. It comes first: later there is harm to be seen."""
    with window(chromium, trade) as found:
        found.sign_in(trade.token)
        for name, path in TOUR.items():
            found.go(path)
            is_live(found.page)
            picture(found.page, f"tour-{name}")
        assert found.complaints == []


@pytest.fixture(scope="module")
def desk(chromium: Browser, shop: Api) -> Iterator[Window]:
    """The owner at a desk."""
    with window(chromium, shop) as found:
        found.sign_in(shop.token)
        yield found


def picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def is_live(page: Page) -> None:
    page.wait_for_selector('#live[data-state="on"]')


def axe(page: Page, script: str) -> list[str]:
    """The violations that axe-core calls serious or critical."""
    page.evaluate(script)
    found: Any = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {[node['html'][:160] for node in each['nodes'][:3]]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.fixture(scope="module")
def axe_core() -> str | None:
    """The script of axe-core, installed where it is not beside this file."""
    npm = shutil.which("npm")
    if not AXE.exists() and npm is not None:
        subprocess.run(
            [npm, "install", "--silent", "--ignore-scripts", "--no-package-lock"],
            cwd=Path(__file__).parent,
            check=False,
            timeout=100,
        )
    return AXE.read_text(encoding="utf-8") if AXE.exists() else None


class Walked(NamedTuple):
    """What was found on each page at a size: how wide it is, and what axe-core calls serious or critical."""

    width: int
    wide: dict[str, int]
    faults: dict[str, list[str]] | None
    complaints: list[str]


@pytest.fixture(scope="module", params=SIZES)
def walked(request: pytest.FixtureRequest, chromium: Browser, shop: Api, axe_core: str | None) -> Walked:
    """Every page, looked at and photographed, at a desk and on a telephone, in light and in dark."""
    width, scheme = SIZES[request.param]
    faults: dict[str, list[str]] = {}
    wide: dict[str, int] = {}
    with window(chromium, shop, width, scheme) as found:
        found.page.goto(f"{found.base}/console/sign-in")
        if axe_core is not None:
            faults["sign-in"] = axe(found.page, axe_core)
        found.sign_in(shop.token)
        for name, path in PAGES.items():
            found.go(path)
            wide[name] = found.page.evaluate("document.documentElement.scrollWidth")
            picture(found.page, f"{name}-{request.param}")
            if axe_core is not None:
                found.page.evaluate(
                    "for (const each of document.querySelectorAll('main details:not(.act)')) each.open = true"
                )
                faults[name] = axe(found.page, axe_core)
        return Walked(width, wide, faults if axe_core is not None else None, found.complaints)


@pytest.mark.timeout(300)
def test_each_page_at_each_size(walked: Walked) -> None:
    """Must hold: each page is walked. None is wider than its window, and the browser complains of nothing."""
    assert walked.complaints == []
    assert {name: wide for name, wide in walked.wide.items() if wide > walked.width} == {}


def test_axe_finds_nothing_serious_on_any_page(walked: Walked) -> None:
    """Must hold: in light and in dark, at a desk and on a telephone, with all that is closed opened."""
    if walked.faults is None:
        pytest.skip("axe-core is not there, and npm could not get it: see package.json beside this file")
    assert {name: each for name, each in walked.faults.items() if each} == {}


def test_hostile_content_does_nothing(desk: Window) -> None:
    """Must hold. The title would tell of a script that ran, the console of one that was stopped."""
    for path in HOSTILE_PAGES.values():
        desk.page.goto(desk.base + path)
        assert "owned" not in desk.page.title().replace("document.title='owned'", "")
        assert desk.page.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
    complaints = [each for each in desk.complaints if "status of 4" not in each]  # of what is not there
    assert complaints == []
    desk.complaints.clear()


def test_a_failed_job_is_found_understood_redriven_and_watched(desk: Window, shop: Api) -> None:
    """Must hold. From the overview to the completed job, without asking for a page anew."""
    page = desk.page
    desk.go("/console")
    is_live(page)
    page.click("text=by cause")
    row = page.locator("tr", has_text="the scan is torn")
    assert row.locator("td").first.inner_text() == "3"
    row.locator("td a", has_text="3").click()
    page.click("a.id:has-text('inv-4')")
    assert "failed attempt 2 of max_attempts 2" in page.inner_text(".because")
    assert "ValueError: the scan is torn" in page.inner_text("#why-4")
    assert page.locator("svg.lanes a").count() >= 2, "both attempts are drawn"
    page.click(".events li:last-child summary")
    page.wait_for_selector(".events li:last-child pre:has-text('job_dead_lettered')")
    picture(page, "record-opened")
    (shop.directory / "mended").touch()
    page.click("summary:has-text('Redrive')")
    page.fill("#act-redrive-inv-4 input[name=reason]", "the scan was mended")
    page.click("#act-redrive-inv-4 button")
    page.wait_for_selector(".recorded:has-text('job_redriven')")
    page.wait_for_selector("h1 .s-completed")
    picture(page, "redriven")
    assert shop.get("/v1/queues/billing/jobs/inv-4").document["output"]["by"] == "attempt 1"
    (change,) = [
        each
        for each in shop.get("/v1/audit", job="inv-4").document["acts"]
        if each["event"] == "job_redriven"
    ]
    assert (change["actor"], change["reason"]) == ("owner", "the scan was mended")


def test_an_approval_is_given(desk: Window) -> None:
    """Must hold."""
    page = desk.page
    desk.go("/console/approvals")
    is_live(page)
    card = page.locator("li.card", has_text="settle 2 invoices?")
    card.locator("summary:has-text('Approve')").click()
    card.locator("textarea[name=data]").first.fill('{"sum": 12}')
    card.locator("#act-approve-settle input[name=reason]").fill("within budget")
    card.locator("#act-approve-settle button").click()
    page.wait_for_selector(".recorded:has-text('job_resumed')")
    page.wait_for_selector("h1 .s-completed")
    desk.go("/console/approvals")
    assert page.locator("li.card", has_text="settle 2 invoices?").count() == 0


def test_a_dead_letter_is_redriven_by_keyboard_alone_on_a_phone(chromium: Browser, shop: Api) -> None:
    """Must hold: at 390 pixels, by Tab, arrows and Enter, from the first page on."""
    (shop.directory / "mended").touch()
    with window(chromium, shop, 390) as found:
        page = found.page
        found.sign_in(shop.token)
        is_live(page)

        def to(name: str, limit: int = 120) -> None:
            """Presses Tab until what has the focus is named so."""
            for _ in range(limit):
                page.keyboard.press("Tab")
                focused = page.evaluate(
                    "(document.activeElement.getAttribute('aria-label')"
                    " || document.activeElement.innerText || document.activeElement.name || '').trim()"
                )
                if re.fullmatch(name, focused):
                    assert page.evaluate("document.activeElement.matches(':focus-visible')")
                    return
            raise AssertionError(f"no {name} comes by Tab")

        to("Menu")
        page.keyboard.press("Enter")
        to("Dead letters")
        page.keyboard.press("Enter")
        page.wait_for_selector("h1:has-text('Dead letters')")
        to("[0-9]+ dead")
        to(r"inv-\d|Redrive…")
        while page.evaluate("document.activeElement.innerText") == "Redrive…":
            break
        name = page.evaluate("document.activeElement.innerText")
        if name == "Redrive…":
            to(r"inv-\d")
            name = page.evaluate("document.activeElement.innerText")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"h1:has-text('{name}')")
        to("Redrive")
        page.keyboard.press("Enter")
        to("reason")
        page.keyboard.type("mended")
        picture(page, "redrive-phone")
        page.keyboard.press("Enter")
        page.wait_for_selector(".recorded:has-text('job_redriven')")
        page.wait_for_selector("h1 .s-completed")
        assert shop.ended("billing", name)["state"] == "completed"


def test_many_are_redriven_behind_a_confirmation(desk: Window, shop: Api) -> None:
    page = desk.page
    (shop.directory / "mended").touch()
    desk.go("/console/jobs?queue=billing&state=completed")
    for name in ("inv-1", "inv-2"):
        page.check(f"input[value='billing~{name}']")
    page.click("button:has-text('Rerun…')")
    assert "Rerun 2 jobs?" in page.inner_text("h1")
    page.fill("input[name=reason]", "once more")
    page.click("form.confirm button")
    page.wait_for_selector("h1 .tag:has-text('all done'), h1 .tag:not(.go)")
    assert page.inner_text("#done") == "2"
    assert shop.get("/v1/queues/billing/jobs/inv-1").document["round"] >= 2


def test_a_job_is_started_from_the_form_of_its_task(desk: Window, shop: Api) -> None:
    """Must hold: the fields are those of the task's schema, and what does not fit is told beside them."""
    page = desk.page
    desk.go("/console/start")
    page.click("a[href*='queue=mail'][href*='mail.send']")
    assert page.inner_text("form.start p.dim") == "Sends a mail."
    assert page.locator("select[name='in.kind'] option").all_inner_texts()[-2:] == ["invoice", "reminder"]
    assert page.get_attribute("input[name='in.copies']", "type") == "number"
    assert page.input_value("input[name='in.copies']") == "1"
    page.fill("input[name='in.to']", "ann@example.com")
    page.select_option("select[name='in.kind']", "reminder")
    page.fill("input[name='in.copies']", "3")
    page.click("text=Options")
    page.fill("input[name=id]", "not a name!")
    page.click("button:has-text('Start it')")
    page.wait_for_selector(".alarm:has-text('id')")
    assert page.input_value("input[name='in.to']") == "ann@example.com", "what was typed is kept"
    page.fill("input[name=id]", "from-form")
    page.click("button:has-text('Start it')")
    page.wait_for_selector("h1 .s-completed")
    assert shop.ended("mail", "from-form")["output"] == "3 times reminder to ann@example.com"


def test_a_long_history_is_read_without_a_stall(chromium: Browser, shop: Api) -> None:
    """Must hold: 5,000 records are opened, scrolled through, expanded and slid over, and nothing stalls."""
    path = f"/console/queues/billing/jobs/{edited(shop, LONG)}"
    with window(chromium, shop) as found:
        page = found.page
        found.sign_in(shop.token)
        page.add_init_script(_WATCH)
        held: dict[str, float] = {}

        def read(place: str) -> None:
            """Scrolls to the end, opens records on the way, and notes what held the browser up longest."""
            is_live(page)
            rows = page.locator(".events li")
            assert 0 < rows.count() <= 100
            assert page.evaluate("document.querySelectorAll('*').length") < 4_000
            for number in range(0, rows.count(), 25):
                row = rows.nth(number)
                row.scroll_into_view_if_needed()
                row.locator("summary").click()
                row.locator("pre").wait_for()
            page.mouse.wheel(0, 20_000)
            page.wait_for_function("() => innerHeight + scrollY >= document.body.scrollHeight - 2")
            held[place] = page.evaluate("held")
            assert page.evaluate("shifted") < SHIFT_MAX, place

        found.go(path)
        read("the end")
        page.click("a[rel=prev]")
        page.wait_for_selector("#records a[rel=next]")
        read("the page before")
        found.go(f"{path}?from=1")
        read("the beginning")
        page.focus("input[type=range]")
        page.keyboard.press("Home")
        page.wait_for_selector("#standing:has-text('pending'), #standing:has-text('scheduled')")
        first = page.inner_text("#standing b.num")
        page.keyboard.press("End")
        page.wait_for_function(
            "first => document.querySelector('#standing b.num').innerText !== first", arg=first
        )
        held["the slider"] = page.evaluate("held")
        picture(page, "long")
        assert {place: ms for place, ms in held.items() if ms >= STALL_MS} == {}


def test_a_policy_is_changed_in_the_browser(desk: Window, shop: Api) -> None:
    page = desk.page
    desk.go("/console/queues/billing")
    page.click("#page a:has-text('Change…')")
    page.fill("input[name='in.concurrency']", "7")
    page.select_option("select[name='in.on_clash']", "reject")
    page.click("button:has-text('Show the difference')")
    page.wait_for_selector("h1:has-text('Change 2 fields')")
    picture(page, "policy-difference")
    page.fill("input[name=reason]", "seven at most")
    page.click("button:has-text('Declare it')")
    page.wait_for_selector(".recorded:has-text('queue_declared')")
    assert "seven at most" in page.inner_text(".recorded")
    assert shop.get("/v1/queues/billing").document["policy"] == {"concurrency": 7, "on_clash": "reject"}


def test_a_page_says_when_it_is_behind_and_survives_the_nodes_restart(chromium: Browser, own: Api) -> None:
    """Must hold: it says so while the node is away, and goes on by itself, signed in, when it is back."""
    own.up("--http-port", str(_free_port()))
    with window(chromium, own) as found:
        page = found.page
        own.submit("billing", "invoices.extract", id="first", input={"invoice": "1"})
        found.sign_in(own.token, "/console/jobs")
        is_live(page)
        assert page.locator("tr[id^='j-']").count() == 1
        views = own.child("writ.views")
        assert views is not None
        os.kill(views, signal.SIGSTOP)  # as one that has more to do than it can
        try:
            page.wait_for_selector('#live:not([data-state="on"])')
            picture(page, "behind")
        finally:
            os.kill(views, signal.SIGCONT)
        is_live(page)
        port = str(own.port)
        own.writ("down")
        page.wait_for_selector('#live[data-state="off"]')
        picture(page, "away")
        own.up("--http-port", port)
        own.submit("billing", "invoices.extract", id="second", input={"invoice": "2"})
        is_live(page)
        page.wait_for_selector("tr[id='j-billing~second']")


def test_a_viewer_sees_no_action_in_the_browser(chromium: Browser, shop: Api) -> None:
    """Must hold."""
    with window(chromium, shop) as found:
        found.sign_in(token_of(shop, "vic", "viewer"))
        for path in (JOB, "/console/dead", "/console/queues/billing", "/console/approvals"):
            found.go(path)
            assert found.page.locator("details.act, a:has-text('Redrive'), form[action$='/act']").count() == 0


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
