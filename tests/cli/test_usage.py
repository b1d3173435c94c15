"""The command line without a node: grammar, help, mistakes, where to connect."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from writ.cli import commands, main
from writ.cli.parser import build, parse
from writ.cli.reach import find
from writ.cli.submit import read_jobs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

COMMANDS = sorted(build().commands)


def test_writ_alone_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    alone = capsys.readouterr().out
    for command in COMMANDS:
        assert f"writ {command}" in alone
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == alone
    assert max(map(len, alone.splitlines())) <= 100


def test_each_command_has_its_function() -> None:
    assert sorted(commands.COMMANDS) == COMMANDS
    for module, name in commands.COMMANDS.values():
        assert callable(getattr(importlib.import_module(f"writ.cli.{module}"), name))


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    by_option = capsys.readouterr().out
    assert by_option.startswith(f"usage: writ {command}")
    assert "--json" in by_option
    assert main(["help", command]) == 0
    assert capsys.readouterr().out == by_option


def test_nothing_heavy_is_imported_before_a_command_needs_it() -> None:
    code = (
        "import sys; from writ.cli import main; main([]); main(['jbos']);"
        "heavy = {'asyncio', 'nats', 'rich', 'msgspec', 'uvloop', 'writ.broker', 'importlib.metadata'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ("jbos", "there is no command 'jbos'", "next: writ jobs"),
        ("xyzzy", "there is no command 'xyzzy'", "next: writ"),
        ("dlq redriv x", "there is no command 'redriv'", "next: writ dlq redrive"),
        ("jobs --qeue q", "takes no --qeue", "next: writ jobs --queue"),
        ("jobs --state ded", "there is no state 'ded'", "next: writ jobs --state dead"),
        ("jobs --watch --json", "exclude each other", "next: writ jobs"),
        ("dlq --watch --json", "exclude each other", "next: writ dlq --json"),
        ("queue list --watch --json", "exclude each other", "next: writ queue list --json"),
        ("schedule list --watch --json", "exclude each other", "next: writ schedule list --json"),
        ("batch list --watch --json", "exclude each other", "next: writ batch list --json"),
        ("operation list --watch --json", "exclude each other", "next: writ operation list --json"),
        ("job", "required: ID", "next: writ job --help"),
        (
            "dlq redrive x y",
            "`writ dlq redrive` needs --reason",
            "next: writ dlq redrive x y --reason 'mended",
        ),
        (
            "dlq drop --cause c --queue q",
            "needs --reason",
            "next: writ dlq drop --cause c --queue q --reason '",
        ),
        ("dlq redrive --all", "needs --reason", "next: writ dlq redrive --all --reason 'mended"),
        ("drop x", "`writ drop` needs --reason", "next: writ drop x --reason 'customer left'"),
        ("dlq redrive", "which dead letters?", "next: writ dlq redrive --cause C --dry-run"),
        ("batches", "there is no command 'batches'", "next: writ batch"),
        ("batch seal b --size 0", "0 is out of bounds", "next: writ batch seal --help"),
        ("up --port 99999", "99999 is out of bounds", "next: writ up --help"),
        ("up --port x", "'x' is not a whole number", "next: writ up --help"),
        ("submit q", "TASK is missing", "next: writ submit"),
        ("submit q t {oops", "INPUT is not JSON", "next: writ submit"),
        ("submit q t {} x", "one word too many", "next: writ submit --help"),
        ("submit q --file nowhere.ndjson", "nowhere.ndjson", ""),
        ("submit q t --retry 3", "--retry is not a JSON object", "next: writ submit --help"),
        ("replay x --at noon", "neither a log sequence nor", "next: writ replay ID --at 120"),
        ("replay x --at 3 --verify", "exclude each other", "next: writ replay --help"),
        ("--json", "no command is given", "next: writ"),
    ],
)
def test_a_mistake_is_answered_with_what_to_type(
    line: str, said: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert hint in shown.err


def test_global_options_stand_before_or_after_the_command() -> None:
    before, after = (
        parse(["--url", "nats://x", "--json", "jobs"]),
        parse(["jobs", "--url", "nats://x", "--json"]),
    )
    assert before is not None
    assert before == after
    assert (before.url, before.json, before.dir) == ("nats://x", True, None)


def test_words_may_stand_behind_options() -> None:
    parsed = parse(["submit", "q", "t", "--wait", '{"a": 1}', "--priority", "2"])
    assert parsed is not None
    assert (parsed.words, parsed.wait, parsed.priority) == (["q", "t", '{"a": 1}'], True, 2)


# --- where to connect -----------------------------------------------------------------------------------


def place(line: str, env: dict[str, str]) -> tuple[str, str | None, str, str]:
    parsed = parse(line.split())
    assert parsed is not None
    found = find(parsed, env)
    return found.url, found.creds, found.tenant, found.principal


def write_node(directory: Path, pid: int) -> None:
    directory.mkdir()
    info = {
        "pid": pid,
        "url": "nats://n:1",
        "tenant": "t",
        "principal": "p",
        "key_path": "/k",
        "version": "0",
    }
    (directory / "node.json").write_text(json.dumps(info), encoding="utf-8")


ENV = {"NATS_URL": "nats://e:1", "NATS_NKEY": "/e", "WRIT_TENANT": "et", "WRIT_PRINCIPAL": "ep"}


def test_flags_go_before_the_environment_and_that_before_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_node(tmp_path / ".writ", os.getpid())
    assert place("env", {}) == ("nats://n:1", "/k", "t", "p")
    assert place("env", ENV) == ("nats://e:1", "/e", "et", "ep")
    assert place("env --url nats://f:1 --creds /f --tenant ft --principal fp", ENV) == (
        "nats://f:1", "/f", "ft", "fp"
    )  # fmt: skip
    assert place("env --dir .writ", ENV) == ("nats://n:1", "/k", "t", "p"), "a directory that is named wins"
    assert place("env --url nats://n:1", {}) == ("nats://n:1", "/k", "t", "p"), "the node's url has its key"
    assert place("env --principal fp", {}) == ("nats://n:1", "/k", "t", "fp")


def test_a_node_that_ended_without_clearing_up_is_no_node(writ: Shell) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_node(writ.directory / ".writ", ended.pid)
    assert writ("env").code == 3


def test_env_can_be_evaluated_whatever_the_names_hold(writ: Shell) -> None:
    words = ("--url", "nats://h:4222", "--creds", "it's a $HOME/key", "--principal", "robot")
    shown = writ("env", *words)
    assert shown.code == 0
    script = shown.out + 'printf "%s|%s|%s|%s" "$NATS_URL" "$NATS_NKEY" "$WRIT_TENANT" "$WRIT_PRINCIPAL"'
    evaluated = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    key = str((writ.directory / "it's a $HOME/key").resolve())
    assert evaluated == f"nats://h:4222|{key}|default|robot"
    document = writ("env", *words, "--json").document
    assert document == {
        "NATS_URL": "nats://h:4222", "NATS_NKEY": key, "WRIT_TENANT": "default", "WRIT_PRINCIPAL": "robot"
    }  # fmt: skip


@pytest.mark.parametrize(
    "line", ["jobs", "job x", "status", "env", "submit q t", "dlq", "explain x", "worker m"]
)
def test_without_a_node_it_says_how_to_start_one(line: str, writ: Shell) -> None:
    shown = writ(*line.split())
    assert (shown.code, shown.out) == (3, "")
    assert "no node runs in .writ" in shown.err
    assert "next: writ up" in shown.err


def test_a_broker_that_does_not_answer_is_unreachable(writ: Shell) -> None:
    shown = writ("jobs", "--json", NATS_URL="nats://127.0.0.1:1")
    assert (shown.code, shown.out) == (3, "")
    assert "cannot reach the broker at nats://127.0.0.1:1" in shown.err
    assert "unset NATS_URL" in shown.err


def test_down_without_a_node_is_done(writ: Shell) -> None:
    assert writ("down").code == 0
    assert writ("down", "--json").document["stopped"] is None


def test_the_public_names_load_late() -> None:
    import writ as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        _ = package.nothing
    code = "import sys, writ; sys.exit(any(m.startswith('writ.') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_a_newline_ends_a_line_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\u2028b\u2029c\x85d"
    lines = f'{{"task": "t", "input": "{text}"}}\r\n\r\n{{"task": "t"}}\n'
    (tmp_path / "jobs.jsonl").write_text(lines, encoding="utf-8", newline="")
    expected = [(1, {"task": "t", "input": text}), (3, {"task": "t"})]
    assert read_jobs(str(tmp_path / "jobs.jsonl"), {}) == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert read_jobs("-", {}) == expected
