"""Audit of served responses: labels from two places, features that are what was sent, and leaks that are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from served_responses import CITIES, batch, choice, entry, leaky, response, write
from trimtab.errors import ConfigProblems, DataError
from trimtab.read.leaks.encodings import TopTokens
from trimtab.read.leaks.estimate import estimate_leak
from trimtab.read.leaks.levels import Answer, Hidden, TopLogprobs
from trimtab.read.leaks.mitigations import Erase, Truncate
from trimtab.read.leaks.result import LeaksResult
from trimtab.read.leaks.transcript import ASKED, audit_transcript, read_transcript
from trimtab.read.leaks.transcript_cells import Sent, Written, transcript_cells

LOGISTIC = ("logistic",)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transcript whose log-probabilities give the city away, while all answers are the same."""
    return write(tmp_path_factory.mktemp("served") / "served.jsonl", leaky(90))


@pytest.fixture(scope="module")
def audited(served: Path) -> LeaksResult:
    """What a quick audit of it says."""
    return audit_transcript(
        served,
        ["city"],
        group="user",
        question=ASKED,
        levels=(TopLogprobs(5, encodings=("served",)), Answer()),
        mitigations=(Truncate(1),),
        classifiers=LOGISTIC,
        max_bits=0.5,
    )


def test_a_leak_of_log_probabilities_is_found(audited: LeaksResult) -> None:
    table = audited.table.set_index("level")
    assert table.loc["logprobs", "low"] > 1.4  # of log2(3) = 1.58 bits
    assert table.loc["answer", "bits"] == pytest.approx(0.0, abs=0.01)
    assert table.loc["answer", "high"] < 0.13  # 90 rows cannot rule out less
    controls = audited.controls.set_index("control")
    assert controls.loc["text", "accuracy"] == 1.0
    assert controls.loc["shuffled labels", "low"] <= 0
    assert controls.loc["answer-only", "high"] < 0.13
    assert {"majority", "question-only"} <= set(controls.index)
    assert not audited.passed
    changes = audited.mitigations.set_index("mitigation")["change"]
    assert changes["truncate"] < -0.3
    assert audited.recommendation.startswith("Served outputs give away city (unmentioned) most")
    assert (audited.label, audited.facts["served"], audited.facts["responses"]) == ("served.jsonl", 5, 90)
    assert audited.findings == ()


def test_leaks_are_those_of_a_matrix_made_by_hand(audited: LeaksResult) -> None:
    lines = [one["response"]["body"]["choices"][0]["logprobs"]["content"][0] for one in leaky(90)]
    dense = pd.DataFrame([{one["token"]: one["logprob"] for one in line["top_logprobs"]} for line in lines])
    dense = dense.T.fillna(dense.min(axis=1) - 1.0).T[sorted(dense)]
    cities = np.array([CITIES[row % 3] for row in range(90)])
    leak = estimate_leak(
        dense.to_numpy(dtype=np.float32), cities, np.arange(90) // 3, classifiers=LOGISTIC, seed=7
    )
    row = audited.table.iloc[0]
    assert row["bits"] == pytest.approx(
        leak.bits, abs=0.1
    )  # other folds, and a baseline of words that tell nothing
    assert row["accuracy"] == pytest.approx(leak.accuracy, abs=0.03)


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", leaky(90, leak=0.0))
    result = audit_transcript(
        path,
        ["city"],
        group="user",
        levels=(TopLogprobs(5),),
        classifiers=LOGISTIC,
        max_bits=0.2,
        mitigations=(),
        controls=False,
    )
    assert (result.table["low"] < 0.05).all()
    assert result.passed
    assert any("bits are above the shares of the classes" in one for one in result.findings)


def test_labels_beside_and_in_a_table_are_one(served: Path, tmp_path: Path) -> None:
    lines = leaky(90)
    bare = write(tmp_path / "bare.jsonl", [{k: v for k, v in one.items() if k != "city"} for one in lines])
    table = pd.DataFrame(
        {"custom_id": [one["custom_id"] for one in lines], "city": [one["city"] for one in lines]}
    )
    table = pd.concat([table.iloc[::-1], pd.DataFrame({"custom_id": ["row-x"], "city": ["Oslo"]})])
    table.to_csv(tmp_path / "labels.csv", index=False)
    beside = read_transcript(served, ["city"], group="user")
    for labels in (tmp_path / "labels.csv", table):
        joined = read_transcript(bare, ["city"], group="user", labels=labels)
        pd.testing.assert_frame_equal(joined.questions.attributes, beside.questions.attributes)
        assert joined.fingerprint == beside.fingerprint
        assert joined.findings == ("1 rows of the labels belong to no response",)
    assert list(table.columns) == ["custom_id", "city"]


def test_every_response_is_accounted_for(tmp_path: Path) -> None:
    lines: list[Any] = leaky(90)
    del lines[0]["city"]
    lines[1]["user"] = None
    lines[2]["response"]["body"]["choices"][0]["logprobs"] = None
    lines.append(batch("failed", None) | {"error": {"code": "x"}})
    path = write(tmp_path / "s.jsonl", [*lines, '{"custom_id": "cut'])
    path.write_text(path.read_text().rstrip("\n"))
    frame = read_transcript(path, ["city"], group="user").questions.accounting.frame
    told = {why: rows for where, rows, why in frame.values.tolist() if where == "responses"}
    assert told == {
        "in": 92,
        "no log-probabilities": 1,
        "an error in the place of a response": 1,
        "a last line that is cut off": 1,
        "no label of any attribute": 1,
        "no group 'user'": 1,
        "used": 87,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attributes": ["town"]}, "attributes: got no column 'town', expected one of"),
        ({"group": "usr"}, "group: got no column 'usr', expected one of .*; try 'user'"),
        ({"question": "asked"}, "question: got no column 'asked'"),
        ({"labels": pd.DataFrame({"id": ["a"]})}, "labels: got no column 'custom_id'"),
        (
            {"labels": pd.DataFrame({"custom_id": ["row-1", "row-1"], "city": ["a", "b"]})},
            "labels: got custom_id 'row-1' twice, expected one row for each key",
        ),
        (
            {"labels": pd.DataFrame({"custom_id": ["a"], "city": ["b"]})},
            "labels: got no custom_id of the responses, such as 'row-0', .* try keys such as 'a'",
        ),
        (
            {"labels": pd.DataFrame({"row": ["a"], "city": ["b"]}), "key": "row"},
            "responses: got no 'row' beside them, expected the key of labels",
        ),
        ({"attributes": ["user"]}, "attributes: got 'user', which is the group"),
        (
            {"attributes": ["custom_id"], "group": None},
            "attribute 'custom_id': got .* in at least 5 groups",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(served: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_transcript(served, **{"attributes": ["city"], "group": "user"} | settings)


def test_what_a_caller_knows(served: Path, tmp_path: Path) -> None:
    lines = [one | {"question": f"q{row}"} for row, one in enumerate(leaky(30))]
    path = write(tmp_path / "s.jsonl", lines)
    asked = read_transcript(path, ["city"], group="user", question=ASKED).questions.known
    assert list(asked or ())[:2] == ["Is there a box?", "Is there a ball?"]
    assert list(read_transcript(path, ["city"], group="user").questions.known or ())[:2] == ["q0", "q1"]
    assert (
        next(iter(read_transcript(path, ["city"], group="user", question="custom_id").questions.known or ()))
        == "row-0"
    )
    plain = read_transcript(served, ["city"], group="user").questions
    assert plain.known is None
    assert plain.prompts[0] == "Anna lives in Cairo.\nIs there a box?"
    bare = write(tmp_path / "b.jsonl", [{k: v for k, v in one.items() if k != "request"} for one in lines])
    assert len(read_transcript(bare, ["city"], group="user").questions.prompts) == 0
    with pytest.raises(DataError, match="no request beside the responses, expected what the user says"):
        read_transcript(bare, ["city"], group="user", question=ASKED)


def test_roles_are_those_of_the_columns(tmp_path: Path) -> None:
    lines = [
        one | {"mentioned": ["city"] if row < 15 else [], "noise": "ab"[row // 15]}
        for row, one in enumerate(leaky(30))
    ]
    read = read_transcript(write(tmp_path / "s.jsonl", lines), ["city"], group="user", background=["noise"])
    assert read.questions.roles["city"].tolist() == ["mentioned"] * 15 + ["unmentioned"] * 15
    assert set(read.questions.roles["noise"]) == {"background"}


def test_choices_and_repeated_ids_are_one_group(tmp_path: Path) -> None:
    lines = []
    for row in range(12):
        body = response(
            *[choice(entry(name, -1.0, {"a": -1.0, "b": -1.5})) for name in "ab"], id=f"r{row // 2}"
        )
        lines.append(
            {"response": body, "city": CITIES[row % 2], "messages": [{"role": "user", "content": "Hi"}]}
        )
    read = read_transcript(write(tmp_path / "s.jsonl", lines), ["city"])
    assert read.questions.groups.tolist() == [row // 4 for row in range(24)]
    assert "11 responses answer a request that another one answers too" in read.findings[-1]


def test_sampled_answers_are_part_of_what_was_sent(tmp_path: Path) -> None:
    lines = []
    for row in range(20):
        told = entry("ab"[row % 2], -1.0, {"a": -0.5, "b": -1.0})
        lines.append(response(choice(told), id=str(row)) | {"city": CITIES[row // 2 % 2]})
    read = read_transcript(write(tmp_path / "s.jsonl", lines), ["city"])
    cells, _ = transcript_cells(read.tops, read.answers, [TopLogprobs(2, encodings=("sorted",)), Answer()])
    features = cells[0].features(np.arange(4))
    assert features.tolist() == [[-0.5, -1.0, 1.0, 0.0], [-0.5, -1.0, 0.0, 1.0]] * 2
    assert cells[1].features(np.arange(4)).tolist() == features[:, 2:].tolist()


def test_two_answer_tokens_stand_side_by_side() -> None:
    first = TopTokens(np.array([[0, 1]] * 3), np.array([[-0.5, -1.5]] * 3))
    ids, values = (
        np.array([[1, 0], [-1, -1], [1, 0]]),
        np.array([[-0.25, -2.0], [np.nan] * 2, [-0.125, -3.0]]),
    )
    sent = Sent((first, TopTokens(ids, values)), "served")
    assert sent(np.arange(3)).tolist() == [
        [-0.5, -1.5, -2.0, -0.25],
        [-0.5, -1.5, -4.0, -4.0],
        [-0.5, -1.5, -3.0, -0.125],
    ]
    written = Written(np.array([[0, 1], [0, -1], [1, 1], [1, -1]]))
    assert written(np.arange(4)).tolist() == [[1, 0, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [0, 1, 1, 0]]


def test_the_grid_ends_at_what_was_served(served: Path) -> None:
    read = read_transcript(served, ["city"], group="user")
    cells, controls = transcript_cells(read.tops, read.answers)
    assert [cell.k for cell in cells] == [1, 1, 2, 2, 5, 5, None]
    assert [cell.control for cell in controls] == ["answer-only"]
    rounded, _ = transcript_cells(
        read.tops, read.answers, [TopLogprobs(3, decimals=1, encodings=("sorted",))]
    )
    assert np.allclose(rounded[0].features(np.arange(5)), np.round(read.tops[0].values[:5, :3], 1))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([Hidden()], r"levels\[0\]: got hidden, expected logprobs or answer: a transcript has nothing else"),
        (
            [TopLogprobs((2, 6))],
            r"levels\[0\].k: got 6, expected at most 5, the tokens that were served; try 5",
        ),
        ([Answer(), TopLogprobs(2, temperature=2.0)], r"levels\[1\].temperature: got 2.0, expected 1"),
        ([TopLogprobs(0)], r"levels\[0\].k\[0\]: got 0, expected whole numbers of at least 1"),
    ],
)
def test_levels_that_a_transcript_lacks_are_refused(served: Path, levels: Any, message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        audit_transcript(served, ["city"], group="user", levels=levels)


def test_settings_are_checked_at_once(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {
        "levels": [Hidden()],
        "mitigations": [Erase("city")],
        "max_bits": -1.0,
        "jobs": 0,
    }
    with pytest.raises(ConfigProblems) as caught:
        audit_transcript(tmp_path / "nowhere.jsonl", ["city"], **wrong)
    places = [problem.where for problem in caught.value.problems]
    assert places == ["levels[0]", "mitigations[0]", "max_bits", "jobs"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"baseline": "answer"}, "baseline: got 'answer', expected 'question' or 'classes'"),
        ({"classifiers": ["svm"]}, "classifiers: got 'svm', expected 'logistic'"),
        ({"classifiers": "logistic"}, "classifiers: got 'logistic', expected a list"),
        ({"levels": []}, "levels: got none, expected a list of levels"),
        ({"levels": Answer()}, "levels: got a Answer, expected a list of levels"),
        ({"levels": [Answer(), Answer()]}, "levels.1.: got Answer.. twice, expected each level once"),
        ({"max_bits": "0.1"}, "max_bits: got '0.1', expected a number of bits"),
        ({"seed": -1}, "seed: got -1, expected a whole number from 0"),
        ({"seed": "a"}, "seed: got 'a', expected a whole number"),
        ({"jobs": 0}, "jobs: got 0, expected at least 1"),
        ({"jobs": "2"}, "jobs: got '2', expected a whole number"),
        ({"folder": __file__}, "folder: got .*, a file, expected a folder to write in"),
        ({"folder": 3}, "folder: got 3, expected a folder to write in"),
        ({"positions": 2.5}, "positions: got 2.5, expected at least 1"),
        ({"background": None}, "background: got None, expected a list of columns"),
    ],
)
def test_settings_are_refused_before_anything_is_measured(
    served: Path, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigProblems, DataError), match=message):
        audit_transcript(served, ["city"], **setting)


def test_an_attribute_that_is_named_as_the_rows_are_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "served.jsonl", [one | {"responses": one["city"]} for one in leaky(12)])
    with pytest.raises(DataError, match="got 'responses', which the accounting calls the rows themselves"):
        audit_transcript(path, ["responses"])


def test_half_a_character_beside_a_response_is_refused(tmp_path: Path) -> None:
    lines = [one | {"city": one["city"] + "\ud800"} for one in leaky(12)]
    path = tmp_path / "served.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match="responses: got half a character in row 0"):
        audit_transcript(path, ["city"])


def test_positions_are_counted_from_one(served: Path) -> None:
    with pytest.raises(ConfigProblems, match="positions: got 0, expected at least 1"):
        read_transcript(served, ["city"], positions=0)


def test_fewer_and_more_than_served_are_told(tmp_path: Path) -> None:
    tops = [{"a": -1.0, "b": -2.0}] * 8 + [{"a": -1.0}, {"a": -1.0, "b": -2.0, "c": -3.0}]
    lines = [
        response(choice(entry("a", -1.0, top)), id=str(row)) | {"city": CITIES[row % 2]}
        for row, top in enumerate(tops)
    ]
    read = read_transcript(write(tmp_path / "s.jsonl", lines), ["city"])
    assert read.tops[0].ids.shape == (10, 2)
    assert read.findings == (
        "1 answer tokens were served with fewer than 2 tokens; the missing ones are floored",
        "1 answer tokens were served with more than 2 tokens; those beyond were left out",
    )


def test_right_answers_are_compared_by_their_beginning(tmp_path: Path) -> None:
    told = [(" No", "no"), (" Yes", "no"), (" No", "No, there is none"), ("", "no")] * 5
    lines = [
        response(choice(entry(token, -1.0, {token: -1.0})), id=str(row))
        | {"answer": answer, "city": CITIES[row % 2]}
        for row, (token, answer) in enumerate(told)
    ]
    read = read_transcript(write(tmp_path / "s.jsonl", lines), ["city"])
    assert read.right is not None
    assert read.right.tolist() == [True, False, True, False] * 5
