"""A new project: a process of each kind that runs and has tests, to be changed into one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .manifest import REQUIREMENTS, Kind
from .project import PROJECT_FILE, ProjectError

_PROJECT: Final = """\
name = "{name}"
version = "0.1.0"
kind = "{kind}"
modules = ["{module}"]
files = ["*.py", "tests/*.py"]
# What it needs beside Writ, as pip takes it; `writ lock` writes the versions and hashes to requirements.lock.
dependencies = []

[entry_points]
main = "{name}.main"
"""

_JOB: Final = '''\
"""The process {name}: an ordinary job."""

from writ import Context, task


@task(name="{name}.main")
async def main(words: list[str], ctx: Context) -> dict[str, int]:
    """How often each word stands in the list."""
    ctx.log.info("counting %d words", len(words))
    return await ctx.step("count", count, words)


def count(words: list[str]) -> dict[str, int]:
    return {{word: words.count(word) for word in sorted(set(words))}}
'''
_JOB_TEST: Final = """\
from {module} import main

from writ import testing


def test_words_are_counted() -> None:
    assert testing.run_task(main, {{"words": ["a", "b", "a"]}}) == {{"a": 2, "b": 1}}
"""
_JOB_INPUT: Final = '{"words": ["one", "two", "one"]}\n'

_AGENT: Final = '''\
"""The process {name}: an agent that asks a model. The one here is a rule; put yours into `complete`."""

import json
import re
from pathlib import Path

from writ import Context, task, tool

PROMPT = (Path(__file__).parent / "prompts" / "extract.md").read_text("utf-8")
MODEL = "{name}-rule-1"


@tool(name="{name}.complete")
async def complete(prompt: str, document: str) -> str:
    """Answers with JSON. Call your model here: its name stands in process.toml, under [models]."""
    numbers = re.findall(r"[0-9]+(?:[.][0-9]+)?", document)
    return json.dumps({{"total": max(map(float, numbers), default=None)}})


@task(name="{name}.main")
async def main(document: str, ctx: Context) -> dict[str, float | None]:
    """The total that a document names; each call of the model is recorded."""
    answer = await complete(PROMPT, document)
    ctx.usage(model=MODEL, input_tokens=len(PROMPT + document) // 4, output_tokens=len(answer) // 4)
    read: dict[str, float | None] = json.loads(answer)
    return {{"total": read["total"]}}
'''
_AGENT_TEST: Final = """\
import pytest
from {module} import main

from writ import testing


@pytest.mark.parametrize(
    ("document", "total"), [("Sum: 12.50, with tax 14.88", 14.88), ("nothing to pay", None)]
)
def test_the_total_is_found(document: str, total: float | None) -> None:
    assert testing.run_task(main, {{"document": document}}) == {{"total": total}}
"""
_AGENT_INPUT: Final = '{"document": "Net 100, tax 19, total 119"}\n'
_PROMPT: Final = 'Read the total of this document. Answer with JSON: {"total": a number, or null}.\n'
_TOOL: Final = """\
{
  "name": "complete",
  "input": {
    "type": "object",
    "properties": {"prompt": {"type": "string"}, "document": {"type": "string"}},
    "required": ["prompt", "document"]
  }
}
"""

_RPA: Final = '''\
"""The process {name}: a robot that enters rows into another system, each of them once."""

from writ import Context, StepPolicy, task, tool


@tool(name="{name}.enter")
def enter(row: dict[str, str], key: str) -> str:
    """Drive your user interface here. `key` is the same when a row is entered again after a crash."""
    return f"entered {{row['id']}}"


def entered_before(row: dict[str, str], key: str) -> str | None:
    """Looks whether the row is there already, where it is not known; None where it is not."""
    return None


@task(name="{name}.main")
async def main(rows: list[dict[str, str]], ctx: Context) -> list[str]:
    """Enters all rows; those behind a crash go on where it was."""
    done: list[str] = []
    for number, row in enumerate(rows):
        key = f"{{ctx.idempotency_key}}-{{number}}"
        done.append(await ctx.step(f"row {{number}}", enter, row, key, policy=StepPolicy(idempotent=True)))
        ctx.progress({{"rows": len(done), "of": len(rows)}})
    return done
'''
_RPA_TEST: Final = """\
from {module} import main

from writ import testing


def test_each_row_is_entered() -> None:
    rows = [{{"id": "7"}}, {{"id": "8"}}]
    assert testing.run_task(main, {{"rows": rows}}) == ["entered 7", "entered 8"]
"""
_RPA_INPUT: Final = '{"rows": [{"id": "7", "amount": "12.50"}, {"id": "8", "amount": "3.10"}]}\n'

_CONFTEST: Final = '''\
"""Lets the tests import the process from the folder above, wherever pytest is started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
'''

_SOURCES: Final = {
    Kind.JOB: (_JOB, _JOB_TEST, _JOB_INPUT),
    Kind.AGENT: (_AGENT, _AGENT_TEST, _AGENT_INPUT),
    Kind.RPA: (_RPA, _RPA_TEST, _RPA_INPUT),
}
EXAMPLE_INPUT: Final = "input.json"


def new_project(folder: Path, name: str, kind: Kind) -> list[Path]:
    """Writes a project into `folder` and says which files. Raises ProjectError where there is one."""
    if (folder / PROJECT_FILE).exists():
        raise ProjectError(f"{folder} holds a process already; choose another name or folder")
    module = name.replace("-", "_").lower()
    names = {"name": name, "kind": kind.value, "module": module}
    source, test, example = _SOURCES[kind]
    project = _PROJECT.format(**names)
    files = {
        f"{module}.py": source.format(**names),
        "tests/conftest.py": _CONFTEST,
        f"tests/test_{module}.py": test.format(**names),
        EXAMPLE_INPUT: example,
        REQUIREMENTS: "",
        ".gitignore": "__pycache__/\n.pytest_cache/\n.writ/\n.venv/\n*.writpkg\n",
    }
    if kind is Kind.AGENT:
        files["prompts/extract.md"] = _PROMPT
        files["tools/complete.json"] = _TOOL
        project += (
            '\n[prompts]\nextract = "prompts/extract.md"\n\n[tools]\ncomplete = "tools/complete.json"\n'
        )
        project += f'\n[models]\nextract = "{name}-rule-1"\n'
    written: list[Path] = []
    for path, text in {PROJECT_FILE: project, **files}.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8")
        written.append(place)
    return written
