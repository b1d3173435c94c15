"""`writ dev`: changed code is run without being told, and what it does is printed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

CODE = """
from writ import task

@task
def version(n: int = 0) -> int:
    return {version} // n if n else {version}
"""


def test_changed_code_is_run_and_each_attempt_is_told(node: Shell) -> None:
    folder = node.directory / "mine"
    folder.mkdir()
    module = folder / "code.py"
    module.write_text(CODE.format(version=1), encoding="utf-8")
    dev = node.start("dev", str(module), "--queue", "d", "--concurrency", "2")

    def run(*words: str) -> str:
        return node("submit", "d", "version", *words, "--wait").out.strip()

    node.until(lambda: run() == "1")
    before = module.stat()
    module.write_text("this is no Python", encoding="utf-8")
    module.write_text(CODE.format(version=2), encoding="utf-8")
    assert module.stat().st_size == before.st_size
    os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if within one second
    node.until(lambda: run() == "2")
    retry = '{"id": "once", "task": "version", "input": {"n": 0.5}, "retry": {"max_attempts": 1}}'
    node("submit", "d", "--file", "-", input=retry)
    node.until(lambda: node("job", "once", "--json").document["state"] == "dead")
    dev.terminate()
    told, _ = dev.communicate(timeout=30)
    assert dev.returncode == 0, told
    assert "changed: code.py" in told
    assert "version attempt 1 is done after" in told
    assert "d/once version attempt 1 failed with InputMismatch" in told
    assert not [line for line in node.processes() if "code.py" in line], "the worker ends with it"


def test_a_module_that_cannot_be_loaded_is_waited_for(node: Shell) -> None:
    folder = node.directory / "broken"
    folder.mkdir()
    module = folder / "later.py"
    module.write_text("this is no Python", encoding="utf-8")
    dev = node.start("dev", str(module), "--queue", "e")
    assert dev.stdout is not None
    for line in dev.stdout:
        if "starts again with the next change" in line:
            break
    module.write_text(CODE.format(version=3), encoding="utf-8")
    node.until(lambda: node("submit", "e", "version", "--wait").out.strip() == "3")
    dev.terminate()
    dev.communicate(timeout=30)
    assert dev.returncode == 0
