"""Jobs to look at, and those who look: with a session and nothing else, or in the window of a browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    import subprocess

    from playwright.sync_api import Browser, Page

    from tests.http.conftest import Api, Got
    from writ import Client

TASKS = '''
"""Tasks of a user, and what it takes to mend them."""
from pathlib import Path
from typing import Literal

from writ import Context, task, tool


@tool(redact=["token"])
async def rate(currency: str, token: str) -> float:
    return 1.07


@task(name="invoices.extract")
async def extract(invoice: str, ctx: Context) -> dict[str, str]:
    ctx.progress({"page": 1})
    await rate("EUR", token="secret")
    ctx.usage(model="small", input_tokens=1200, output_tokens=80)
    if invoice == "torn" and not Path("mended").exists():
        raise ValueError("the scan is torn, page 7 cannot be read")
    return {"invoice": invoice, "by": f"attempt {ctx.attempt}"}


@task(name="mail.send")
async def send(to: str, kind: Literal["invoice", "reminder"] = "invoice", copies: int = 1) -> str:
    """Sends a mail."""
    return f"{copies} times {kind} to {to}"


@task(name="invoices.settle")
async def settle(invoices: list[str], ctx: Context) -> str:
    each = [{"task": "invoices.extract", "input": {"invoice": name}} for name in invoices]
    await ctx.run_all(each)
    said = await ctx.request_approval(f"settle {len(each)} invoices?", timeout_s=86400)
    return f"settled, {said}"


@task
async def hostile(text: str, ctx: Context) -> None:
    ctx.usage(model=text[:60].replace(chr(0), ""), input_tokens=1, output_tokens=1)
    raise type(text[:200].replace(chr(0), ""), (Exception,), {})(text)
'''
RETRY = {"max_attempts": 2, "initial_interval_s": 0.1}
WORKER = "desk-1"
LONG = 5_000
"""Records of the long history."""

HOSTILE = (
    "</textarea></pre><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "{{ 7 * 7 }}' \" & \x00\x07\x1b[31m \u202egnp.exe\u2066 \u200b\ufeff "
)
ONE_LINE = "x" * 200_000


@dataclass
class Visitor:
    """Somebody with a session, who asks for pages as a browser does and sends their forms."""

    api: Api
    cookie: str = ""

    def get(self, path: str, **query: Any) -> Got:
        address = path + (f"?{urlencode(query, doseq=True)}" if query else "")
        return self.api.ask("GET", address, token=None, headers={"Cookie": self.cookie})

    def post(self, path: str, fields: Mapping[str, Any], **headers: str | None) -> Got:
        given: dict[str, str | None] = {
            "Cookie": self.cookie,
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": f"http://127.0.0.1:{self.api.port}",
            "Sec-Fetch-Site": "same-origin",
        }
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent = urlencode(fields, doseq=True).encode()
        kept = {name: value for name, value in given.items() if value is not None}
        return self.api.ask("POST", path, sent=sent, token=None, headers=kept)

    def sign_in(self, token: str) -> Got:
        got = self.post("/console/sign-in", {"token": token})
        self.cookie = got.headers.get("set-cookie", "").split(";")[0]
        return got

    def word(self) -> str:
        """What the forms of this session bring back."""
        return form_fields(self.get("/console/start?queue=mail&task=mail.send").body.decode())["csrf"]


class _Seen(HTMLParser):
    """What a page consists of: its text, its elements, the values of its fields."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def seen(body: bytes | str) -> _Seen:
    parser = _Seen()
    parser.feed(body.decode() if isinstance(body, bytes) else body)
    return parser


def words(body: bytes | str) -> str:
    """The text of a page, with one blank between any two words."""
    return " ".join(" ".join(seen(body).text).split())


def form_fields(page: str) -> dict[str, str]:
    found = [attrs for tag, attrs in seen(page).elements if tag == "input"]
    return {str(each["name"]): each.get("value") or "" for each in found if each.get("name")}


def ask(api: Api, what: Callable[[Client], Any]) -> Any:
    """Asks the node of the test by a client of its owner."""
    from writ import Client, Target

    target = Target(api.info["url"], Path(api.info["key_path"]), api.info["tenant"], api.info["principal"])

    async def do() -> Any:
        async with Client(target) as client:
            return await what(client)

    with ThreadPoolExecutor(1) as apart:  # the browser's driver has a loop in this one
        return apart.submit(asyncio.run, do()).result()


def edited(api: Api, times: int) -> str:
    """A job that does not start, with so many records besides its first."""
    name = f"edited-{times}"
    if api.get(f"/v1/queues/billing/jobs/{name}").status == 404:
        api.submit("billing", "invoices.extract", id=name, input={"invoice": "x"}, delay_s=86_400)

        async def edit(client: Client) -> None:
            turns = asyncio.Semaphore(100)

            async def one(number: int) -> None:
                async with turns:
                    await client.edit(name, "billing", "again", priority=1 + number % 5, timeout_s=60)

            await asyncio.gather(*(one(number) for number in range(times)))

        ask(api, edit)
    return name


@contextmanager
def worker(api: Api) -> Generator[subprocess.Popen[bytes]]:
    """A worker for the tasks above."""
    (api.directory / "shop.py").write_text(TASKS, encoding="utf-8")
    process = api.worker_of("shop.py", "--queue", "billing", "--queue", "mail", "--name", WORKER)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def fill(api: Api) -> None:
    """Jobs that went well, failed, and wait for a person; a policy, a schedule."""
    (api.directory / "writ.toml").write_text(
        "[queues.billing]\nconcurrency = 8\nretry = {max_attempts = 2, initial_interval_s = 0.1}\n"
        '[schedules.nightly]\nqueue = "billing"\ntask = "invoices.extract"\ninput = {invoice = "n"}\n'
        'cron = "30 2 * * *"\ntz = "Europe/Berlin"\n'
    )
    api.writ("apply", "writ.toml")
    (api.directory / "writ.toml").write_text("[queues.billing]\nconcurrency = 6\n")
    api.writ("apply", "writ.toml")
    for number in range(12):
        torn = number % 4 == 0
        name = "torn" if torn else f"2026-{number}"
        api.submit("billing", "invoices.extract", id=f"inv-{number}", input={"invoice": name}, retry=RETRY)
    api.submit("billing", "invoices.settle", id="settle", input={"invoices": ["1", "2"]})
    api.submit("billing", "invoices.extract", id="big", input={"invoice": "big"}, approval={})
    for name in ("inv-0", "inv-4", "inv-8", "inv-1"):
        api.ended("billing", name)
    api.until(lambda: api.get("/v1/queues/billing/jobs/settle").document["state"] == "suspended")


def spoil(api: Api) -> None:
    """Jobs whose names, inputs, tags and errors are hostile, and a release with such reasons."""
    api.submit("mail", "hostile", id="line", input={"text": ONE_LINE}, retry={"max_attempts": 1})
    tags = {"name": HOSTILE[:100]}
    api.submit("mail", "hostile", id="hostile", input={"text": HOSTILE}, tags=tags, retry={"max_attempts": 1})
    odd = "<script>alert(1)</script>\u202e"
    api.submit("mail", odd, id="odd-task", input={"text": odd}, delay_s=86_400)
    for name in ("hostile", "line"):
        assert api.ended("mail", name)["state"] == "dead"
    odd = HOSTILE.replace("\x00", "")[:200]
    api.writ("queue", "pause", "mail", "--reason", odd)
    api.writ("queue", "resume", "mail", "--reason", "on again")
    api.writ("init", "invoices", "--type", "job")
    api.writ("publish", "--folder", "invoices")
    (api.directory / "gates.toml").write_text("[gates.quality]\napprovals = {count = 1}\n")
    api.writ("gate", "apply", "gates.toml", "--reason", "as agreed")
    api.writ("release", "promote", RELEASE, "--reason", "to see", ok=False)
    api.writ("release", "promote", RELEASE, "--reason", odd, "--override")
    api.writ("release", "drill", RELEASE, "--drill", "restore", "--outcome", "fail", "--reason", odd)


def token_of(api: Api, name: str, role: str) -> str:
    """The API token of a new person with a role."""
    api.writ("principal", "create", name)
    api.writ("grant", name, role, "--reason", "to look")
    return api.writ("token", "create", "t", "--for", name).stdout.strip().splitlines()[0]


RELEASE = "invoices@0.1.0"
JOB = "/console/queues/billing/jobs/inv-0"
PAGES = {
    "overview": "/console",
    "jobs": "/console/jobs",
    "dead": "/console/dead",
    "approvals": "/console/approvals",
    "promotions": "/console/approvals/promotions",
    "queues": "/console/queues",
    "queue": "/console/queues/billing",
    "schedules": "/console/schedules",
    "schedule": "/console/queues/billing/schedules/nightly",
    "operations": "/console/operations",
    "workers": "/console/workers",
    "cost": "/console/cost",
    "audit": "/console/audit",
    "verification": "/console/audit/verification",
    "start": "/console/start",
    "form": "/console/start?queue=mail&task=mail.send",
    "job": JOB,
    "job-at": f"{JOB}/at?n=2",
    "job-verified": f"{JOB}/verification",
    "waiting": "/console/queues/billing/jobs/settle",
    "compare": "/console/compare?a=billing~inv-0&b=billing~inv-1",
    "plan": "/console/plan?verb=redrive&queue=billing",
    "policy": "/console/queues/billing/policy",
    "policy-change": "/console/queues/billing/policy/change?in.concurrency=9&in.retry.max_attempts=7",
    "worker": f"/console/workers/{WORKER}",
    "releases": "/console/releases",
    "process": "/console/releases/invoices",
    "release": "/console/releases/invoices/0.1.0",
}
"""Every page, by the name of its picture."""

HOSTILE_PAGES = {
    "jobs": "/console/jobs?queue=mail",
    "dead": "/console/dead?queue=mail",
    "job": "/console/queues/mail/jobs/hostile",
    "line": "/console/queues/mail/jobs/line",
    "at": "/console/queues/mail/jobs/hostile/at?n=0",
    "odd": "/console/queues/mail/jobs/odd-task",
    "compare": "/console/compare?a=mail~hostile&b=mail~line",
    "queue": "/console/queues/mail",
    "overview": "/console",
    "audit": "/console/audit",
    "worker": f"/console/workers/{WORKER}",
    "cost": "/console/cost",
    "process": "/console/releases/invoices",
    "release": "/console/releases/invoices/0.1.0",
    "approvals": "/console/approvals",
    "policy": "/console/queues/mail/policy/change?"
    + urlencode({"in.requires": HOSTILE, "in.isolation": HOSTILE}),
    "filter": "/console/jobs?" + urlencode({"queue": "mail", "task": HOSTILE, "tag": f"a={HOSTILE}"}),
    "start": "/console/start?" + urlencode({"queue": "mail", "task": HOSTILE}),
    "wrong": "/console/" + quote(HOSTILE, safe=""),
}


@dataclass
class Window:
    """A window of the browser, with all that its console complained of."""

    page: Page
    base: str
    complaints: list[str]

    def go(self, path: str) -> None:
        answer = self.page.goto(self.base + path)
        assert answer is not None
        assert answer.status == 200, f"{path}: {answer.status}"

    def sign_in(self, token: str, path: str = "/console") -> None:
        self.page.goto(self.base + path)
        self.page.fill("input[name=token]", token)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(re.compile(re.escape(self.base + path) + "$"))


@contextmanager
def window(chromium: Browser, api: Api, width: int = 1280, scheme: str = "light") -> Generator[Window]:
    """A new window, of nobody yet."""
    size = {"width": width, "height": 844 if width < 600 else 860}
    context = chromium.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(15_000)
    complaints: list[str] = []
    page.on("console", lambda each: complaints.append(each.text) if each.type == "error" else None)
    page.on("pageerror", lambda each: complaints.append(str(each)))
    try:
        yield Window(page, f"http://127.0.0.1:{api.port}", complaints)
    finally:
        context.close()
