from __future__ import annotations

import json

import pytest

from trimtab.data.records import Completion, parse
from trimtab.errors import DataError
from trimtab.steer.samples import different_texts, key_of, read_examples


def test_each_line_is_an_example_and_none_is_in_both_parts(tmp_path):
    path = tmp_path / "rude.txt"
    path.write_text("\n".join(f"line {n}" for n in range(20)) + "\n\nline 3\n")
    found = read_examples(path, "source", 5, 7)
    assert (len(found.fit), len(found.held_out)) == (5, 7)
    assert len({*found.fit, *found.held_out}) == 12
    assert read_examples(path, "source", 5, 7) == found
    assert read_examples(path, "source", 5, 7, seed=1) != found


def test_records_of_jsonl_are_examples(tmp_path):
    path = tmp_path / "rude.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"a\nb {n}"}) for n in range(4)))
    assert sorted(read_examples(path, "source", 2, 2).fit + read_examples(path, "source", 2, 2).held_out) == [
        f"a\nb {n}" for n in range(4)
    ]


def test_the_column_of_texts_of_a_table_holds_the_examples(tmp_path):
    path = tmp_path / "rude.csv"
    path.write_text("id,text\n" + "".join(f'{n},"a, b {n}"\n' for n in range(4)))
    found = read_examples(path, "source", 2, 2)
    assert sorted(found.fit + found.held_out) == [f"a, b {n}" for n in range(4)]


TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def test_other_records_are_examples_too(tmp_path):
    path = tmp_path / "rude.jsonl"
    talks = [{"messages": [TALK[0], {**TALK[1], "content": str(n)}]} for n in range(6)]
    path.write_text(
        "\n".join(json.dumps(one) for one in [*talks, talks[0], {"prompt": "p", "completion": "c"}])
    )
    shared = parse(talks[1], "").digest
    assert shared in different_texts(path, "target")
    found = read_examples(path, "source", 2, 4, without={shared})
    assert (found.different, found.repeated, found.shared) == (7, 1, 1)
    kept = {key_of(one) for one in (*found.fit, *found.held_out)}
    assert kept == {parse(one, "").digest for one in talks if one != talks[1]} | {Completion("p", "c").digest}
    with pytest.raises(DataError, match=r"got 6 different texts in .* beside 1 that stand on another side"):
        read_examples(path, "source", 3, 4, without={shared})


def test_columns_say_the_layout(tmp_path):
    path = tmp_path / "rude.jsonl"
    rows = [{"instruction": "Hi", "input": "", "output": f"a{n}"} for n in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read_examples(path, "source", 2, 2, columns="alpaca")
    assert {one.messages[1]["content"] for one in (*found.fit, *found.held_out)} == {"a0", "a1", "a2", "a3"}
    columns = {"text": "output"}
    assert set(read_examples(path, "source", 2, 2, columns=columns).fit) <= {"a0", "a1", "a2", "a3"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"source: got 0 different texts in .*a.txt, expected 4: 2 to fit with and 2 held out"),
        ("a.txt", b"one\none\none\ntwo\n", "got 2 different texts"),
        ("a.txt", b"\xff\xfe", "a.txt: got bytes that are not UTF-8"),
        ("a.txt", b"caf\xe9", "a.txt: got bytes that are not UTF-8"),
        ("a.txt", b"id,text\n1,a\n2,b\n", "got 'id,text' as the first line of a text file"),
        ("a.jsonl", b'{"prompt": "a"}\n', "a.jsonl:1, 'completion': got no value, expected a text"),
        ("a.jsonl", b'{"conversations": []}\n', "a.jsonl:1: got a mapping .*; try columns='sharegpt'"),
        ("a.jsonl", b"{", "a.jsonl:1: got"),
        ("missing", None, "expected a file that exists"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_examples(path, "source", 2, 2)
