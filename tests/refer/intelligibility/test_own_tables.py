"""Tables as people have them: their own columns, names with endings, numbers as names, rows of JSON, and mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from trimtab.errors import ConfigError, DataError
from trimtab.refer.candidates import hard_candidates
from trimtab.refer.intelligibility.answers import CHOSEN, MEASURES, Sets
from trimtab.refer.intelligibility.statistics import caption_statistics, overlap, words_of
from trimtab.refer.intelligibility.study import intelligibility

FOUR = ["a", "b", "c", "d"]
CANDIDATES = pd.DataFrame({"item": FOUR, "candidates": [FOUR] * 4, "target": FOUR})
CAPTIONS = pd.DataFrame({"item": FOUR, "caption": [f"caption of {name}" for name in FOUR]})
CHOICES = pd.DataFrame({"item": FOUR, "choice": ["a", "b", "c", "a"]})
LOGS = pd.DataFrame({"item": FOUR, "log_probabilities": np.log(np.eye(4) * 0.6 + 0.1).tolist()})


def study(**changed: Any) -> Any:
    told: dict[str, Any] = {"speakers": {"people": CAPTIONS}, "listeners": {"people": CHOICES}}
    return intelligibility(**(told | {"candidates": CANDIDATES, "n_boot": 20} | changed))


@pytest.mark.parametrize("column", [*MEASURES, CHOSEN, "words", "cluster", "speaker", "listener", "caption"])
@pytest.mark.parametrize("whose", ["captions", "answers"])
def test_a_column_of_any_name_makes_strata_and_groups(column: str, whose: str) -> None:
    values = CAPTIONS["caption"] if column == "caption" else pd.Series(["people", "other"] * 2)
    if (column, whose) == ("speaker", "answers"):
        values = pd.Series(["people"] * 4)  # that column tells who was heard
    table = {"captions": CAPTIONS, "answers": CHOICES}[whose].assign(**{column: values})
    told = {"speakers": {"people": table}} if whose == "captions" else {"listeners": {"people": table}}
    result = study(**told, strata=(column,), group=column)
    assert set(result.strata["stratum"]) == set(values)
    assert set(result.strata["by"]) == {column}
    rights = pd.Series([1.0, 1.0, 1.0, 0.0]).groupby(values).mean()
    assert result.strata.set_index("stratum")["accuracy"].to_dict() == rights.to_dict()
    assert result.accuracy["n_groups"].tolist() == [values.nunique()]
    assert result.answers["score"].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert result.answers["words"].tolist() == [3] * 4


@pytest.mark.parametrize("column", ["speaker", "listener", "accuracy", "answers", "groups", "chance", "game"])
@pytest.mark.usefixtures("undrawn")
def test_the_page_tells_strata_of_a_column_of_any_name(column: str) -> None:
    captions = CAPTIONS.assign(**{column: ["first kind", "second kind"] * 2})
    result = study(speakers={"people": captions}, strata=(column,))
    page = result.page([result])
    strata = page.partition('<section id="strata">')[2].partition("</section>")[0]
    assert strata.count(">first kind</th>") == strata.count(">second kind</th>") == 1
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', strata)
    assert len(heads) == len(set(heads)) == 8
    assert heads[0].removesuffix(" (stratum)") == column


@pytest.mark.parametrize("name", ["item", "speaker", "caption", "machine"])
@pytest.mark.usefixtures("undrawn")
def test_a_listener_of_any_name_takes_no_caption_away(name: str) -> None:
    result = study(listeners={name: CHOICES})
    assert sorted(result.examples["caption"]) == sorted(CAPTIONS["caption"])
    assert result.examples["item"].tolist() == FOUR
    assert result.examples.iloc[:, 3].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert result.page([result]).count(">caption of a<") == 1


def test_a_group_that_one_table_tells_holds_for_all() -> None:
    grouped = CAPTIONS.assign(set=[1, 1, 2, 2])
    speakers = {"people": grouped, "captioner": dict(zip(FOUR, FOUR, strict=True))}
    choices = pd.concat([CHOICES.assign(speaker=name) for name in speakers])
    told = study(speakers=speakers, listeners={"people": choices}, group="set").answers
    assert told["cluster"].tolist() == ["1", "1", "2", "2"] * 2
    of_answers = study(listeners={"p": CHOICES.assign(game=[1, 1, 2, 2]), "m": LOGS}, group="game")
    assert of_answers.accuracy["n_groups"].tolist() == [2, 2]
    torn = {"people": grouped, "captioner": grouped.assign(set=[1, 2, 2, 2])}
    speakers = torn | {"other": CAPTIONS}
    choices = pd.concat([CHOICES.assign(speaker=name) for name in speakers])
    with pytest.raises(DataError, match="no column 'set' in the answers of people, the captions of other"):
        study(speakers=speakers, listeners={"people": choices}, group="set")


def test_numbers_are_names_of_speakers_and_listeners() -> None:
    speakers = {1: CAPTIONS, 2: CAPTIONS}
    choices = pd.concat([CHOICES.assign(speaker=name) for name in speakers])
    result = study(speakers=speakers, listeners={1: choices, 3: choices}, own={1: 1, 2: [3]}, control=1)
    assert result.interaction.pairs == (("1", "1"), ("2", "3"))
    assert result.interaction.value == 0.0
    with pytest.raises(ConfigError, match="two speakers of the name '1'"):
        study(speakers={1: CAPTIONS, "1": CAPTIONS})


def test_one_stratum_may_be_a_text() -> None:
    assert study(strata="length").strata.equals(study(strata=("length",)).strata)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "jsonl.gz"])
def test_log_probabilities_in_a_file_of_any_format(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"answers.{ending}"
    if ending == "csv":
        LOGS.to_csv(path, index=False)
    elif ending == "parquet":
        LOGS.to_parquet(path)
    else:
        LOGS.to_json(path, orient="records", lines="jsonl" in ending, double_precision=15)
    expected = study(listeners={"model": LOGS}).calibration
    found = study(listeners={"model": path}).calibration
    pd.testing.assert_frame_equal(found, expected)


def test_a_broken_line_of_answers_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"item": "a", "choice": "a"}) + '\n{"item": "b",\n')
    with pytest.raises(DataError, match=r"answers\.jsonl:2"):
        study(listeners={"people": path})


def test_columns_of_numbers_are_candidates() -> None:
    sets = CANDIDATES.assign(candidates=[[1, 2, 3, 4]] * 4, target=[1, 2, 3, 4])
    wide = pd.DataFrame(np.log(np.eye(4) * 0.6 + 0.1), columns=[1, 2, 3, 4]).assign(item=FOUR)
    assert study(candidates=sets, listeners={"model": wide}).accuracy["accuracy"].tolist() == [1.0]


def test_names_with_the_endings_of_their_files_are_those_without(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in FOUR:
        Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    files = [f"{name}.png" for name in FOUR]
    sets = hard_candidates(tmp_path, np.eye(4), k=3)
    captions = CAPTIONS.assign(item=files)
    wide = pd.DataFrame(np.log(np.eye(4) * 0.6 + 0.1), columns=files).assign(item=files)
    choices = pd.DataFrame({"item": files, "choice": ["a.png", "b", "c.png", "a.png"]})
    listeners = {"people": choices, "model": wide}
    result = study(speakers={"x": captions}, listeners=listeners, candidates=sets, pictures=tmp_path)
    assert result.accuracy["accuracy"].tolist() == [0.75, 1.0]
    both = pd.concat([captions, CAPTIONS])
    with pytest.raises(DataError, match="captions of x: got two captions of item 'a'"):
        study(speakers={"x": both}, listeners=listeners, candidates=sets, pictures=tmp_path)


def test_probabilities_are_not_taken_for_their_logarithms() -> None:
    shares = pd.DataFrame({"item": FOUR, "log_probabilities": (np.eye(4) * 0.6 + 0.1).tolist()})
    with pytest.raises(DataError, match=r"add to 1.*try numpy\.log"):
        study(listeners={"model": shares})
    with pytest.raises(DataError, match=r"add to 1.*try numpy\.log"):
        study(listeners={"model": lambda texts, _: [[0.7, 0.1, 0.1, 0.1]] * len(texts)})


def test_a_callable_may_give_a_tensor_with_gradient() -> None:
    logs = torch.log_softmax(torch.eye(4, dtype=torch.float64, requires_grad=True), dim=1)
    result = study(listeners={"model": lambda _, __: logs})
    assert result.accuracy["accuracy"].tolist() == [1.0]
    p = float(np.e / (np.e + 3))
    np.testing.assert_allclose(result.answers["p_target"], p)


@pytest.mark.parametrize("answer", [None, 3, "a", pd.DataFrame({"a": [1.0]})], ids=repr)
def test_a_callable_gives_a_list(answer: Any) -> None:
    with pytest.raises(DataError, match=r"listener model: got a \w+, expected a list with a name"):
        study(listeners={"model": lambda _, __: answer})


def test_intervals_of_few_captions_stay_in_range() -> None:
    told = pd.DataFrame({"item": FOUR, "caption": ["one two three", "", "", "x"]})
    row = study(speakers={"people": told}, n_boot=200).captions.iloc[0]
    assert row["words"] == 1.0
    assert (row["words_low"], row["words_high"] > 1.0) == (0.0, True)
    assert 0.0 <= row["overlap_low"] <= row["overlap"] <= row["overlap_high"] <= 1.0
    one = study(speakers={"people": told[:1]}, listeners={"x": LOGS[:1]}, candidates=CANDIDATES[:1])
    assert one.captions[["words_low", "words_high"]].isna().all(axis=None)


def test_overlap_with_distractors_is_the_mean_over_their_captions() -> None:
    rng = np.random.default_rng(1)
    pictures = [f"p{k}" for k in range(40)]
    items = [f"i{k}" for k in range(600)]  # more than are looked at together
    words = ["red", "blue", "big", "disc", "star"]
    captions = {item: " ".join(rng.choice(words, rng.integers(0, 4))) for item in items}
    rows = [rng.choice(pictures, 4, replace=False).tolist() for _ in items]
    table = pd.DataFrame({"item": items, "candidates": rows, "target": [row[0] for row in rows]})
    frame = pd.DataFrame({"item": items, "caption": captions.values(), "cluster": items})
    row = caption_statistics({"people": frame}, Sets.of(table)).iloc[0]
    of = {name: [i for i, one in zip(items, rows, strict=True) if one[0] == name] for name in pictures}
    said = {item: words_of(text) for item, text in captions.items()}
    by_hand, same = [], []
    for item, names in zip(items, rows, strict=True):
        others = [said[other] for name in names[1:] for other in of[name]]
        by_hand.append(overlap(said[item], others))
        same.append(said[item] in others)
    assert row["overlap"] == pytest.approx(np.mean(by_hand), abs=1e-12)
    assert row["ambiguous"] == pytest.approx(np.mean(same), abs=1e-12)
