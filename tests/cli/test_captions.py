"""`trimtab captions score` from the command line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from trimtab.cli.editor import _of_captions
from trimtab.cli.main import main
from trimtab.refer.scores.scores import caption_scores

LINES = [
    {
        "candidate": "A man riding a wave.",
        "references": ["a surfer rides a wave", "A man riding a big wave."],
    },
    {"candidate": "two dogs run", "references": ["two dogs running on grass"], "id": 7},
    {"candidate": "", "references": ["a train"]},
]


@pytest.fixture
def captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_json_has_the_table(captions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["captions", "score", "captions.jsonl", "--json", "--tokeniser", "words"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = caption_scores(
        [line["candidate"] for line in LINES], [line["references"] for line in LINES], tokeniser="words"
    )
    assert told["n"] == 3
    assert told["file"] == "captions.jsonl"
    assert [row["score"] for row in told["scores"]] == expected["score"].tolist()
    assert [row["value"] for row in told["scores"]] == pytest.approx(expected["value"].tolist())
    assert set(told["scores"][0]) == {"score", "value", "low", "high", "n", "signature"}


def test_a_line_for_each_score(captions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with gzip.open("captions.jsonl.gz", "wb") as file:
        file.write(captions.read_bytes())
    assert main(["captions", "score", "captions.jsonl.gz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][3:5] == ["BLEU-4", "ROUGE-L"]
    assert all("tok:ptb.1|refs:1-2|" in line and "[" in line for line in lines)
    assert len({line.index("tok:") for line in lines}) == 1


def test_what_is_undefined_is_a_dash_and_null(captions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions.write_text(json.dumps(LINES[1]) + "\n")
    assert main(["captions", "score", "captions.jsonl"]) == 0
    line = next(one for one in capsys.readouterr().out.splitlines() if one.startswith("CIDEr-D"))
    assert line.split()[1:4] == ["-", "[-,", "-]"]
    assert main(["captions", "score", "captions.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][6]["value"] is None


def test_document_frequencies_from_a_file(captions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("corpus.csv").write_text("item,caption\n1,a wave\n1,a big wave\n2,two dogs\n3,a train\n4,a cat\n")
    assert main(["captions", "score", "captions.jsonl", "--corpus", "corpus.csv"]) == 0
    assert "idf:corpus|docs:4" in capsys.readouterr().out


def test_a_table_of_captions_beside_one_of_references(
    captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.csv").write_text("item,caption\n2,two dogs run\n1,A man riding a wave.\n")
    several = [{"item": 1, "references": LINES[0]["references"]}, {"item": 2, "caption": "two dogs running"}]
    Path("people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in several))
    assert main(["captions", "score", "mine.csv", "--references", "people.jsonl", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = caption_scores(
        ["two dogs run", "A man riding a wave."], [["two dogs running"], LINES[0]["references"]]
    )
    assert told["n"] == 2
    assert [row["value"] for row in told["scores"]] == pytest.approx(expected["value"].tolist(), nan_ok=True)
    assert main(["captions", "score", "mine.csv", "--references", "none.csv"]) == 2
    assert "--references: got 'none.csv', expected a file of references" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("mine.csv", "item,caption\n1,a cat\n", "mine.csv, row 0"),
        ("results.json", '[{"image_id": 1, "caption": "a cat"}]', "results.json, row 0"),
        ("mapping.json", '{"1": "a cat"}', "mapping.json, item '1'"),
    ],
)
def test_captions_alone_need_references(
    captions: Path, name: str, text: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text(text)
    assert main(["captions", "score", name]) == 2
    told = capsys.readouterr().err
    assert f"{place}: got a caption without references, expected candidate and references" in told
    assert "try --references FILE, for a table of item and caption" in told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "captions.jsonl:4: got text that is not JSON"),
        ('{"candidate": "a"}', "captions.jsonl:4: got no 'references' among"),
        (
            '{"candidate": 3, "references": ["a"]}',
            "captions.jsonl:4: got 3 (int) for the candidate, expected a text",
        ),
        ('{"candidate": "a", "references": []}', "captions.jsonl:4: got an empty list of references"),
    ],
)
def test_a_bad_line_is_named(
    captions: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    captions.write_text(captions.read_text() + line + "\n")
    assert main(["captions", "score", "captions.jsonl"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "caption.jsonl"], "FILE: got 'caption.jsonl', expected a file of captions; try"),
        (
            ["score", "captions.jsonl", "--tokeniser", "pbt"],
            "--tokeniser: got 'pbt', expected 'ptb' or 'words'; try 'ptb'",
        ),
        (
            ["score", "captions.jsonl", "--corpus", "none.csv"],
            "--corpus: got 'none.csv', expected a file of references",
        ),
        (["score", "."], "FILE: got "),
        (["score"], "the following arguments are required: FILE"),
        ([], "required: ACTION"),
        (["count"], "invalid choice: 'count'"),
    ],
)
def test_what_is_told_of_a_wrong_line(
    captions: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["captions", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_shells_complete_its_action_and_options() -> None:
    assert _of_captions() == ["score", "--corpus", "--help", "--json", "--references", "--tokeniser"]
