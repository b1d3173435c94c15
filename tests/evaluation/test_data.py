"""Data sets from files, and what is wrong with those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from writ.evaluation.data import DataError, read_data


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_of_json_are_items(tmp_path: Path) -> None:
    data = read_data(
        put(
            tmp_path,
            "two.jsonl",
            '{"id": "a", "input": {"n": 1}, "expected": [1], "tags": ["hard"]}\n\n{"input": 2}\n',
        )
    )
    assert [(item.id, item.input, item.expected, item.tags) for item in data.items] == [
        ("a", {"n": 1}, [1], ("hard",)),
        ("2", 2, None, ()),
    ]
    assert data.name == "two"


def test_only_a_newline_ends_a_line_of_json(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x7fe"
    lines = f'{{"input": "{text}"}}\r\n\r\n{{"input": 2}}\n'
    data = read_data(put(tmp_path, "odd.jsonl", lines))
    assert [(item.id, item.input) for item in data.items] == [("1", text), ("2", 2)]
    with pytest.raises(DataError, match="line 3: Input data was truncated"):
        read_data(put(tmp_path, "odd.jsonl", f'{{"input": "{text}"}}\n\n{{\n'))


def test_columns_of_a_table_are_fields(tmp_path: Path) -> None:
    data = read_data(
        put(tmp_path, "t.csv", 'id,input.text,input.language,expected,tags\nx,"a, b",en,7,hard rare\n')
    )
    (item,) = data.items
    assert item.input == {"text": "a, b", "language": "en"}
    assert (item.id, item.expected, item.tags) == ("x", "7", ("hard", "rare"))


def test_the_version_is_that_of_the_items(tmp_path: Path) -> None:
    """The order of fields and the file's name say nothing, the order of items and their content do."""
    one = read_data(put(tmp_path, "a.jsonl", '{"id": "a", "input": 1}\n{"id": "b", "input": 2}\n')).digest
    assert (
        read_data(put(tmp_path, "b.jsonl", '{"input": 1, "id": "a"}\n\n{"id":"b","input":2}')).digest == one
    )
    assert (
        read_data(put(tmp_path, "c.jsonl", '{"id": "b", "input": 2}\n{"id": "a", "input": 1}')).digest != one
    )
    assert (
        read_data(put(tmp_path, "d.jsonl", '{"id": "a", "input": 1}\n{"id": "b", "input": 3}')).digest != one
    )


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.jsonl", "", "has no items"),
        ("a.jsonl", "{", "line 1"),
        ("a.jsonl", '{"input": 1}\n[1]\n', "line 2"),
        ("a.jsonl", '{"input": 1}\n{"expected": 1}\n', "line 2: Object missing required field `input`"),
        ("a.jsonl", '{"input": 1, "inptu": 2}', "unknown field `inptu`"),
        (
            "a.jsonl",
            '{"id": "a", "input": 1}\n{"id": "a", "input": 2}',
            "line 2: an item 'a' is there already",
        ),
        ("a.jsonl", '{"id": "no good", "input": 1}', "line 1"),
        ("a.csv", "id,input\na\n", "line 2: it has not as many fields"),
        ("a.csv", 'id,input\na,"b\n', "unexpected end of data"),
        ("a.csv", "id,inptu\na,b\n", "line 2"),
        ("a.txt", "x", "must end in .jsonl or .csv"),
    ],
)
def test_what_is_no_data_set_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    with pytest.raises(DataError) as raised:
        read_data(put(tmp_path, name, text))
    assert reason in str(raised.value)
    assert name in str(raised.value)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_data(tmp_path / "absent.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_data(tmp_path / "binary.jsonl")
