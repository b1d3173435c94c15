"""The console in Debian's Chromium, on a real node with real jobs; the pictures land in artifacts/console."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .visitors import HOSTILE_PAGES, JOB, LONG, PAGES, edited, token_of, window

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.http.conftest import Api

    from .visitors import Window

PICTURES = Path(__file__).parents[3] / "artifacts" / "console"
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
COLOURFUL = ("overview", "jobs", "job", "dead", "audit", "queue")
"""Pages with all the colours that there are."""

SIZES = {"desktop": (1280, "light"), "dark": (1280, "dark"), "phone": (390, "light")}


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


@pytest.mark.parametrize("size", SIZES)
def test_each_page_at_each_size(chromium: Browser, shop: Api, size: str) -> None:
    """Must hold: each page is walked. None is wider than its window, and the browser complains of nothing."""
    width, scheme = SIZES[size]
    with window(chromium, shop, width, scheme) as found:
        found.sign_in(shop.token)
        for name, path in PAGES.items():
            found.go(path)
            wide = found.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} wide"
            picture(found.page, f"{name}-{size}")
        assert found.complaints == []


def test_hostile_content_does_nothing(desk: Window) -> None:
    """Must hold. The title would tell of a script that ran, the console of one that was stopped."""
    for path in HOSTILE_PAGES.values():
        desk.page.goto(desk.base + path)
        assert "owned" not in desk.page.title().replace("document.title='owned'", "")
        assert desk.page.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
    complaints = [each for each in desk.complaints if "status of 4" not in each]  # of what is not there
    assert complaints == []
    desk.complaints.clear()


def axe(page: Page) -> list[str]:
    """The violations that axe-core calls serious or critical."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: Any = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {[node['html'][:160] for node in each['nodes'][:3]]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.fixture(scope="module")
def axe_core() -> None:
    """axe-core from the npm registry, beside this file."""
    if not AXE.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("axe-core is not there, and no npm to get it: see package.json beside this file")
        done = subprocess.run(
            [npm, "install", "--silent", "--ignore-scripts", "--no-package-lock"],
            cwd=Path(__file__).parent,
            check=False,
            timeout=100,
        )
        if done.returncode or not AXE.exists():
            pytest.skip("npm could not get axe-core")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("axe_core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(chromium: Browser, shop: Api, scheme: str) -> None:
    """Must hold."""
    with window(chromium, shop, 1280, scheme) as found:
        found.page.goto(f"{found.base}/console/sign-in")
        faults = {"sign-in": axe(found.page)}
        found.sign_in(shop.token)
        pages = PAGES if scheme == "light" else {name: PAGES[name] for name in COLOURFUL}
        for name, path in pages.items():
            found.go(path)
            found.page.evaluate(
                "for (const each of document.querySelectorAll('details:not(.act)')) each.open = true"
            )
            faults[name] = axe(found.page)
        assert {name: each for name, each in faults.items() if each} == {}


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
        to("the count of .*|[0-9]+")
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


def test_a_long_history_is_read_without_a_stall(desk: Window, shop: Api) -> None:
    """Must hold: 5,000 records. The page is small, and its script never holds the browser up."""
    page = desk.page
    name = edited(shop, LONG)
    desk.go(f"/console/queues/billing/jobs/{name}")
    is_live(page)
    assert page.locator(".events li").count() <= 100
    assert page.evaluate("document.querySelectorAll('*').length") < 4_000
    page.evaluate(
        "window.longest = 0; new PerformanceObserver(list => { for (const each of list.getEntries())"
        " window.longest = Math.max(window.longest, each.duration) }).observe({entryTypes: ['longtask']})"
    )
    page.click("a[rel=prev]")
    page.wait_for_selector("#records a[rel=next]")
    page.focus("input[type=range]")
    page.keyboard.press("Home")
    page.wait_for_selector("#standing:has-text('pending'), #standing:has-text('scheduled')")
    first = page.inner_text("#standing b.num")
    page.keyboard.press("End")
    page.wait_for_function(
        "first => document.querySelector('#standing b.num').innerText !== first", arg=first
    )
    picture(page, "long")


def test_a_page_says_when_it_is_behind_and_survives_the_nodes_restart(chromium: Browser, own: Api) -> None:
    """Must hold: it says so while the node is away, and goes on by itself, signed in, when it is back."""
    own.up("--http-port", str(_free_port()))
    with window(chromium, own) as found:
        page = found.page
        own.submit("billing", "invoices.extract", id="first", input={"invoice": "1"})
        found.sign_in(own.token, "/console/jobs")
        is_live(page)
        assert page.locator("tr[id^='j-']").count() == 1
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
