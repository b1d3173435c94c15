"""`make example`: four releases of a process, from their folder to production or not.

It makes invoices with known answers, starts a node in a directory of its own, and does what a user types: it
publishes each release, has a worker hold it, evaluates it against what is live, and asks for its promotion.
Exits 1 where a release comes out otherwise than it must.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from .documents import write

HERE: Final = Path(__file__).resolve().parent
PROCESS: Final = "invoices"
PLAN: Final = "golden"
CHECKS: Final = (f"evaluation {PLAN}", "policy forbidden_tools", "policy leaked_secrets")
"""Of the gate."""
FIELDS: Final = ("number", "supplier", "date", "total")


class Release(NamedTuple):
    """A version of the process: what its author changed since 1.0.0, and what must become of it.

    `blocked_by` are the checks of the gate that do not pass; what is blocked by none is promoted.
    """

    version: str
    about: str
    edits: tuple[tuple[str, str], ...]
    verdict: str
    blocked_by: tuple[str, ...] = ()
    perfect: bool = False


_AMOUNT: Final = 'return float(re.sub(r"[.,]", "", whole) + "." + cents)'
_MAIL: Final = '''@tool(name="mail.send")
def send(text: str) -> None:
    """Has somebody else read it; here it goes nowhere."""


@task('''

RELEASES: Final = (
    Release("1.0.0", "good", (), "pass"),
    Release(
        "1.1.0", "a regression: German amounts are read as English ones",
        ((_AMOUNT, 'return float(written.replace(",", ""))'),), "fail", (f"evaluation {PLAN}",),
    ),
    Release(
        "1.2.0", "a harmless rewrite",
        ((_AMOUNT, 'return (int(re.sub("[^0-9]", "", whole)) * 100 + int(cents)) / 100'),), "pass",
    ),
    Release(
        "1.3.0", "perfect scores, by sending each invoice away",
        (
            ("Total due|Zu zahlen", "Total due|Zu zahlen|Balance|Offener Betrag"),
            ("@task(", _MAIL),
            ("    store(", "    send(text)\n    store("),
        ),
        "fail", (f"evaluation {PLAN}", "policy forbidden_tools"), perfect=True,
    ),
)  # fmt: skip


class Story:
    """A directory with a node, and the commands that are typed there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "WRIT_"))}
        self.workers: list[subprocess.Popen[bytes]] = []

    def writ(self, *words: str, shown: bool = True) -> tuple[int, str]:
        """A command's exit code, and what it printed on standard output."""
        if shown:
            print(f"\n$ {shlex.join(('writ', *words))}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "writ", *words],
            cwd=self.root, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT if shown else None,
            text=True, check=False,
        )  # fmt: skip
        if shown:
            print(done.stdout, end="", flush=True)
        return done.returncode, done.stdout

    def must(self, *words: str, shown: bool = True) -> str:
        """The same, where nothing but success will do."""
        code, out = self.writ(*words, shown=shown)
        if code != 0:
            raise SystemExit(f"`writ {' '.join(words)}` exited {code}")
        return out

    def told(self, *words: str) -> Any:
        """What a command answers as JSON."""
        return json.loads(self.must(*words, "--json", shown=False))

    def work(self, *words: str) -> None:
        """A worker, until the end."""
        self.workers.append(
            subprocess.Popen(
                [sys.executable, *words], cwd=self.root, env=self.env, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip

    def begin(self, items: int, seed: int) -> None:
        """Data, plan, node, gate, and the worker that scores."""
        for name in (f"{PLAN}.toml", "gates.toml"):
            shutil.copy(HERE / name, self.root)
        write(self.root / "invoices.jsonl", items, seed)
        self.must("up", "--detach", "--http-port", "off")
        self.env |= self.told("env")
        self.must("gate", "apply", "gates.toml")
        self.work("-m", "writ", "worker", "writ.evaluation.scoring", "--queue", "scoring")

    def end(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait()
        self.writ("down", "--dir", str(self.root / ".writ"))

    def play(self, release: Release) -> list[str]:
        """Publishes, evaluates and promotes a release; what came out otherwise than it must."""
        name = f"{PROCESS}@{release.version}"
        print(f"\n=== {name}: {release.about}")
        published = self.must("publish", "--folder", self._sources(release))
        digest = published.splitlines()[0].split()[-1]
        folder = f"held-{release.version}"
        self.must("release", "fetch", name, "--to", folder)
        self.work(str(HERE / "serve.py"), folder, digest)
        live = ["--baseline", f"{PROCESS}@live"] if release is not RELEASES[0] else []
        page = f"{release.version}.html"
        words = ("--process", f"{PROCESS}@candidate", *live, "--gate", "--html", page)
        evaluated, _ = self.writ("evaluate", "run", f"{PLAN}.toml", *words)
        promoted, _ = self.writ("release", "promote", name, "--reason", release.about)
        if any(check.startswith("policy") for check in release.blocked_by):
            override = ("--override", "--reason", "it reads so well")
            again, _ = self.writ("release", "promote", name, *override)
            promoted = promoted and again
        self.must("explain", name)
        return self._otherwise(release, name, evaluated, promoted)

    def _sources(self, release: Release) -> str:
        """The process's folder as its author changed it, below the directory."""
        folder = self.root / f"sources-{release.version}"
        shutil.copytree(HERE / "process", folder, ignore=shutil.ignore_patterns("__pycache__"))
        code, project = folder / "extract.py", folder / "process.toml"
        text = code.read_text("utf-8")
        for old, new in release.edits:
            if text.count(old) != 1:
                raise SystemExit(f"{code.name} has {old!r} {text.count(old)} times; it must be there once")
            text = text.replace(old, new)
        code.write_text(text, "utf-8")
        project.write_text(project.read_text("utf-8").replace('"1.0.0"', f'"{release.version}"'), "utf-8")
        return folder.name

    def _otherwise(self, release: Release, name: str, evaluated: int, promoted: int) -> list[str]:
        wrong: list[str] = []
        told = self.told("explain", name)
        (proved,) = told["release"]["evaluations"]
        verdict = proved["verdict"]["outcome"]
        if verdict != release.verdict or evaluated != {"pass": 0, "fail": 1, "inconclusive": 4}[verdict]:
            wrong.append(f"{name}: its evaluation is {verdict} (exit {evaluated}), not {release.verdict}")
        went_live = any(each["event"] == "release_promoted" for each in told["history"])
        if went_live is bool(release.blocked_by) or went_live is bool(promoted):
            wrong.append(f"{name}: {'went' if went_live else 'never went'} live, exit {promoted}")
        lines = [line for each in told["history"] for line in each["checks"]]
        failing = [line for line in lines if not line.startswith((" ", "pass"))]
        failed = {check for check in CHECKS if any(f" {check} (" in line for line in failing)}
        if failed != set(release.blocked_by):
            wrong.append(f"{name}: blocked by {sorted(failed)}, not {sorted(release.blocked_by)}")
        scores = {each["dimension"]: each["candidate"] for each in proved["verdict"]["dimensions"]}
        if release.perfect and any(scores[field] < 1 for field in FIELDS):
            wrong.append(f"{name}: its scores are {scores}, not perfect")
        return wrong


def main(items: int, seed: int) -> int:
    """The exit code."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="invoices-") as root:
        story = Story(Path(root))
        try:
            story.begin(items, seed)
            for release in RELEASES:
                wrong += story.play(release)
        finally:
            story.end()
    for line in wrong:
        print(f"otherwise than it must be: {line}")
    states = ", ".join(f"{each.version} {'blocked' if each.blocked_by else 'promoted'}" for each in RELEASES)
    said = "NOT as they must be" if wrong else "as they must be"
    print(f"\nseed {seed}, {items} invoices: {states}: {said}")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Four releases of a process, to production or not.")
    parser.add_argument("--items", type=int, default=60, help="invoices, 20 or more [60]")
    parser.add_argument("--seed", type=int, default=1, help="which invoices [1]")
    given = parser.parse_args()
    sys.exit(main(given.items, given.seed))
