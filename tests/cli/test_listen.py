"""`trimtab listen`: from a folder of pictures to a page, and from answers to a table of choices."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from listen_worlds import pictures, rows, text
from trimtab.cli.main import main
from trimtab.refer.intelligibility.task import read_task

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def world(tmp_path: Path) -> None:
    """Pictures and the captions of two speakers, in the folder of the fake config."""
    Path("shown").mkdir()
    for name, image in pictures(12).items():
        image.save(f"shown/{name}.png")
    names = ["p0", "p1", "p2", "p3"]
    pd.DataFrame({"item": names, "caption": [f"people say {name}" for name in names]}).to_csv("people.csv")
    lines = [json.dumps({"item": name, "caption": f"it says {name}"}) for name in names[:3]]
    Path("captioner.jsonl").write_text("\n".join(lines))


def test_a_task_is_written_answered_and_read_back(capsys: Capture) -> None:
    assert main(["listen", "shown", "people.csv", "captioner.jsonl", "-o", "task", "--seed", "3"]) == 0
    page, key, back = capsys.readouterr().out.splitlines()
    assert page.startswith("task/page: 7 captions of captioner, people, each among 9 pictures. Hand out")
    assert key == "task/key.json: which picture is which. Keep it, and hand it to nobody."
    assert back.endswith("trimtab listen --read answers.csv --task task -o choices.csv")
    task = read_task(Path("task"))
    assert (len(task.trials), task.seed, task.once, len(task.trials[0].candidates)) == (7, 3, False, 9)
    Path("answers.csv").write_text(text(rows(task)))
    Path("more.csv").write_text("\ufeff" + text(rows(task, "xyz", n=2), ";"))
    assert main(["listen", "--read", "answers.csv", "more.csv", "--task", "task", "-o", "choices.csv"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "choices.csv: 9 answers to 14 captions, of 2 people",
        "  abc: 7 of 7",
        "  xyz: 2 of 7, stopped early",
    ]
    table = pd.read_csv("choices.csv")
    assert list(table) == ["item", "choice", "speaker", "listener_id", "seconds"]
    assert table.choice[0] == task.pictures[task.trials[0].candidates[0]]
    arguments = ["listen", "--read", "more.csv", "more.csv", "--task", "task", "-o", "choices.csv", "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "choices": "choices.csv",
        "listeners": {"xyz": {"answered": 2, "asked": 7}},
        "repeated": 2,
    }


def test_options_reach_the_page(capsys: Capture) -> None:
    sets = [("p0", "p0 | p5"), ("p1", "p3 | p1 | p4"), ("p2", "p2 | p1"), ("p3", "p3 | p7")]
    frame = pd.DataFrame(sets, columns=["item", "candidates"])
    frame.assign(target=frame["item"]).to_csv("sets.csv", index=False)
    command = [
        "listen",
        "shown",
        "people.csv",
        "captioner.jsonl",
        "-o",
        "new/task",
        "--candidates",
        "sets.csv",
    ]
    assert main([*command, "--once", "--title", "Now", "--question", "Which?", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    task = read_task(Path("new/task"))
    assert told == {
        "task": "new/task",
        "page": "new/task/page",
        "fingerprint": task.fingerprint,
        "captions": 7,
        "speakers": ["captioner", "people"],
        "pictures": 7,
        "candidates": [2, 3],
    }
    assert (task.once, task.title, task.question) == (True, "Now", "Which?")
    assert main(["listen", "shown", "people.csv", "-o", "few", "--candidates-per-item", "3"]) == 0
    assert "each among 3 pictures" in capsys.readouterr().out
    assert main(command) == 2
    assert "which holds something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "",
            "PICTURES: got nothing, expected a folder of pictures, then captions; try trimtab listen --help",
        ),
        ("shown", "CAPTIONS: got nothing, expected at least one table"),
        ("shown people.csv", "-o: got nothing, expected where to write; try -o task"),
        (
            "shown peple.csv -o t",
            "CAPTIONS: got 'peple.csv', expected a table of item and caption; try people.csv",
        ),
        ("shwn people.csv -o t", "PICTURES: got 'shwn', which does not exist, expected a folder of pictures"),
        ("people.csv people.csv -o t", "PICTURES: got 'people.csv', a file, expected a folder of pictures"),
        (
            "shown people.csv ./people.csv -o t",
            "CAPTIONS: got two speakers 'people', expected a file name for each",
        ),
        (
            "shown people.csv -o t --candidates-per-item 1",
            "--candidates-per-item: got 1, expected at least 2",
        ),
        ("shown people.csv -o t --candidates-per-item 13", "at most 12; try --candidates-per-item 12"),
        (
            "shown people.csv -o t --candidates no.csv",
            "--candidates: got 'no.csv', expected a table of candidates",
        ),
        ("shown people.csv -o t --candidates people.csv", "got no column 'candidates', expected one of"),
        (
            "shown people.csv -o t --candidates people.csv --candidates-per-item 3",
            "it together with --candidates",
        ),
        ("shown people.csv -o t --seed -1", "seed: got -1, expected a whole number from 0"),
        ("shown people.csv -o t --seed x", "invalid int value: 'x'"),
        ("shown people.csv -o people.csv/t", "-o: got 'people.csv/t', where"),
        ("shown people.csv -o shown", "which holds something else, expected a new or empty folder"),
        ("shown people.csv -o t --task t", "--task: got it without --read"),
        ("--read people.csv -o c.csv", "--task: got nothing, expected the folder that trimtab listen wrote"),
        ("--read people.csv --task shown -o c.csv", "shown/key.json: got no such file, expected the key"),
        ("--read no.csv --task t -o c.csv", "--read: got 'no.csv', expected a file of answers"),
        ("--read people.csv --task t", "-o: got nothing, expected where to write; try -o choices.csv"),
        ("shown --read people.csv --task t -o c.csv", "PICTURES: got it together with --read"),
        ("--once --read people.csv --task t -o c.csv", "--once: got it together with --read"),
    ],
)
def test_wrong_lines_are_told_and_write_nothing(line: str, message: str, capsys: Capture) -> None:
    before = sorted(path.name for path in Path().iterdir())
    assert main(["listen", *line.split()]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == before


def test_wrong_answers_are_told_and_choices_stay(capsys: Capture) -> None:
    assert main(["listen", "shown", "people.csv", "-o", "task"]) == 0
    task = read_task(Path("task"))
    Path("choices.csv").write_text("kept")
    read = ["listen", "--read", "answers.csv", "--task", "task", "-o"]
    Path("answers.csv").write_text(text(rows(task)[:2]))
    assert main([*read, "choices.csv"]) == 2
    assert "answers.csv: got 2 of 4 rows of listener 'abc', without row 3" in capsys.readouterr().err
    assert Path("choices.csv").read_text() == "kept"
    Path("answers.csv").write_text(text(rows(task)))
    for out, message in (
        ("answers.csv", "-o: got 'answers.csv', which is read, expected another file"),
        ("choices", "-o: got 'choices', expected a .csv file; try -o choices.csv"),
        ("people.csv/c.csv", "-o: got"),
    ):
        assert main([*read, out]) == 2
        assert message in capsys.readouterr().err
    key = json.loads(Path("task/key.json").read_text())
    Path("task/key.json").write_text(json.dumps({**key, "seed": 9}))
    assert main([*read, "choices.csv"]) == 2
    assert "a key that was changed or damaged" in capsys.readouterr().err
