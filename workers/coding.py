"""What of a worker's messages is the task's own content, to be encoded before it leaves."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from writ.broker.coding import Coder
from writ.schemas.commands import Command, Complete, Fail, Progress
from writ.schemas.notes import AnyRemark, Note, StepFault, StepResult, ToolCall
from writ.schemas.stores import WriteMemory


def encoded(command: Command, coder: Coder) -> Command:
    """A command with its content encoded: outputs, results, parameters, texts, progress."""
    changed: Any = command
    match command:
        case Complete(reports=reports):
            changed = replace(command, reports=tuple([_output(each, coder) for each in reports]))
        case Fail(reports=reports):
            failed = tuple([replace(each, text=coder.text(each.text)) for each in reports])
            changed = replace(command, reports=failed)
        case Note(reports=reports):
            noted = [replace(r, notes=tuple([_remark(note, coder) for note in r.notes])) for r in reports]
            changed = replace(command, reports=tuple(noted))
        case WriteMemory(value=value):
            changed = replace(command, value=coder.content(bytes(value)))
        case Progress(progress=progress):
            changed = replace(command, progress=coder.content(bytes(progress)))
        case _:
            pass
    return changed  # type: ignore[no-any-return]


def _output(report: Any, coder: Coder) -> Any:
    return replace(report, output=coder.content(bytes(report.output)))


def _remark(note: AnyRemark, coder: Coder) -> AnyRemark:
    match note:
        case StepResult(result=result):
            return replace(note, result=coder.content(bytes(result)))
        case StepFault(text=text):
            return replace(note, text=coder.text(text))
        case ToolCall(params=params, text=text, result=result):
            kept = result if isinstance(result, msgspec.UnsetType) else coder.content(bytes(result))
            return replace(note, params=coder.content(bytes(params)), text=coder.text(text), result=kept)
        case _:
            return note
