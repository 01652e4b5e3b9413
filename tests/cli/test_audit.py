"""`trimtab audit`: transcripts and recipes, in plain words, with an exit code for pipelines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from served_responses import leaky, write
from trimtab.cli.audit import plain_words
from trimtab.cli.main import main

Capture = pytest.CaptureFixture[str]
QUICK = [
    "--classifiers",
    "[logistic]",
    "--levels",
    "[{logprobs: 5, encodings: served}]",
    "--mitigations",
    "[]",
]
QUICK += ["--controls", "false"]
CITY = ["--attributes", "city", "--group", "user"]


@pytest.fixture(autouse=True)
def world(tmp_path: Path, undrawn: None) -> None:
    """Transcripts in the folder of the fake config: one that leaks, one that does not, one without labels."""
    write(Path("served.jsonl"), leaky(60))
    write(Path("quiet.jsonl"), leaky(60, leak=0.0))
    lines = leaky(60)
    write(
        Path("bare.jsonl"), [{key: one[key] for key in ("custom_id", "response", "request")} for one in lines]
    )
    labels = {name: [one[name] for one in lines] for name in ("custom_id", "city", "user")}
    pd.DataFrame(labels).to_csv("labels.csv", index=False)


def test_a_leak_above_the_bound_ends_with_one(capsys: Capture) -> None:
    command = [
        "audit",
        "served.jsonl",
        *CITY,
        "--question",
        "@user",
        "--max-bits",
        "0.5",
        "--out",
        "r",
        *QUICK,
    ]
    assert main(command) == 1
    streams = capsys.readouterr()
    told = streams.out.partition("What a caller can learn\n")[2].splitlines()
    assert told[0] == "  city (unmentioned): above the bound"
    assert "of cases from top 5, ids with values; the largest class has 33 %" in told[1]
    assert told[2].endswith("more than the question tells")
    assert told[3:5] == ["What to do", told[4]]
    assert told[4].startswith("  Served outputs give away city")
    assert told[-2] == "  No mitigation was tried, so none is recommended."
    assert told[-1] == "Bound of 0.5 bits: exceeded"
    assert "report r/report.html" in streams.err
    assert Path("r/report.html").is_file()
    assert main([*command, "--json"]) == 1
    streams = capsys.readouterr()
    assert "run r is finished" in streams.err
    assert json.loads(streams.out)["table"][0]["attribute"] == "city"
    assert main(["resume", "r"]) == 1


def test_no_leak_and_labels_in_a_table_end_with_zero(capsys: Capture) -> None:
    assert main(["audit", "quiet.jsonl", *CITY, "--max-bits", "1", *QUICK]) == 0
    streams = capsys.readouterr()
    assert streams.out.endswith("Bound of 1 bits: not shown to be exceeded\n")
    assert "runs/audit-quiet-1/report.html" in streams.err
    assert main(["audit", "bare.jsonl", "--labels", "labels.csv", *CITY, *QUICK]) == 0
    assert "city (unmentioned): leak shown" in capsys.readouterr().out


def test_a_config_is_run_with_its_keys_set_by_options(capsys: Capture) -> None:
    Path("mine.yaml").write_text("system: leaks\ntranscript: served.jsonl\nattributes: [town]\ngroup: user\n")
    assert main(["audit", "mine.yaml", "--attributes", "city", "--max-bits", "0.5", *QUICK]) == 1
    assert "city (unmentioned): above the bound" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "served.jsonl",
            "--attributes: got nothing, expected columns to recover .*; try --attributes city,colour",
        ),
        (
            "servd.jsonl",
            "FILE: got 'servd.jsonl', expected a transcript: served responses, .*; try served.jsonl",
        ),
        ("served.jsonl --attributes city --key id", "--key: got it without --labels"),
        (
            "served.jsonl --attributes city --labels no.csv",
            "--labels: got 'no.csv', expected a table with the key",
        ),
        ("served.jsonl --attributes town", "got no column 'town', expected one of"),
        ("served.jsonl --attributes city --group usr", "group: got no column 'usr', .* try 'user'"),
        ("served.jsonl --attributes city --max-bits x", "invalid float value: 'x'"),
        ("served.jsonl --attributes city --max-bits -1", "max_bits: got -1.0, expected a number of bits"),
        ("served.jsonl --attributes city --seed -1", "seed: got -1, expected a whole number from 0"),
        (
            "served.jsonl --attributes city --levels [hidden]",
            r"levels\[0\]: got 'hidden', expected logprobs or answer",
        ),
        ("served.jsonl --attributes city --levles [answer]", "levles: got an unknown key, .* try 'levels'"),
        ("served.jsonl --attributes city --model lab:text-small", "model: got it beside a transcript"),
        ("my.yaml", "system: got 'coin' in my.yaml, expected 'leaks'; try trimtab run my.yaml"),
        ("my.yaml --labels labels.csv", "--labels: got it for a config, expected it for a transcript"),
        ("nowhere", "config: got 'nowhere', expected a YAML file or a recipe"),
    ],
)
def test_mistakes_are_told_before_work(line: str, message: str, capsys: Capture) -> None:
    assert main(["audit", *line.split()]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert re.search(message, streams.err), streams.err
    assert not any(Path("runs").glob("*"))


def test_several_mistakes_are_told_at_once(capsys: Capture) -> None:
    assert main(["audit", "no.jsonl", "--labels", "no.csv"]) == 2
    assert capsys.readouterr().err.count("trimtab: ") == 3


def test_what_could_not_be_measured_is_said() -> None:
    told: dict[str, Any] = {"table": [], "max_bits": 0.5, "recommendation": "Nothing could be measured."}
    assert list(plain_words(told)) == [
        "What a caller can learn",
        "  nothing: no served level could be measured",
        "What to do",
        "  Nothing could be measured.",
        "Bound of 0.5 bits: not tested",
    ]


def test_an_attribute_that_was_not_measured_ends_with_one(capsys: Capture) -> None:
    lines = leaky(60, leak=0.0)
    for row, line in enumerate(lines):  # the city is mentioned in rows of one city alone
        line["mentioned"] = ["city"] if line["city"] == lines[0]["city"] and row < 40 else []
    write(Path("half.jsonl"), lines)
    command = ["audit", "half.jsonl", *CITY, *QUICK]
    assert main([*command, "--max-bits", "1.5", "--out", "r"]) == 1
    out = capsys.readouterr().out
    assert "\n  city (mentioned): not measured\n" in out
    assert "  Not measured at what is served: city (mentioned).\n" in out
    held = "Bound of 1.5 bits: not shown to be exceeded; not tested for city (mentioned), so not passed"
    assert out.splitlines()[-1] == held
    assert "The bound of 1.5 bits was not tested there" in Path("r/report.html").read_text()
    assert main(command) == 0
    assert "city (mentioned): not measured" in capsys.readouterr().out
