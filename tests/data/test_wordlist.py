"""Word lists: what they match, what is refused, and labels of objects."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from trimtab.data.wordlist import WordList, labels_of_objects, unreadable_list
from trimtab.errors import ConfigProblems, DataError


@pytest.mark.parametrize("name", ["gender-en", "sports-en", "people-en"])
def test_the_lists_that_ship_say_where_they_are_from(name: str) -> None:
    words = WordList.read(name)
    assert len(words.source) > 40
    assert words.labels


def test_gender_and_sports() -> None:
    gender, sports = WordList.read("gender-en"), WordList.read("sports-en")
    told = {
        "Man": "male",
        "young women": "female",
        "woman": "female",
        "human": None,
        "man and woman": "mixed",
    }
    assert {name: gender.label(name) for name in told} == told
    told = {"tennis player": "tennis", "tennis racket": None, "batter": "baseball", "skater": "skateboard"}
    told |= {"skiier": "ski", "player": "general", "shirt": None, "snowboarder": "snowboard"}
    assert {name: sports.label(name) for name in told} == told
    assert sports("goalie")
    assert not sports("goal")


def test_a_list_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("source: me\nwords: {pet: [cat, guinea pig]}\npatterns: {pet: ['^dogs?$']}\n")
    words = WordList.read(path)
    assert [words(name) for name in ("Cat", "a guinea pig", "dogs", "hot dog", "category")] == [True] * 3 + [
        False
    ] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: me\n", "no word"),
        ("source: me\nwords: {}\n", "no word"),
        ("source: me\nwords: {pet: []}\n", "no word"),
        ("words: {pet: [cat]}\n", "no source"),
        ("source: me\npatterns: {pet: ['.*']}\n", "does not match everything"),
        ("source: me\npatterns: {pet: ['cat|']}\n", "does not match everything"),
        ("source: me\npatterns: {pet: ['.']}\n", "does not match everything"),
        ("source: me\npatterns: {pet: ['(']}\n", "a regular expression"),
        ("source: me\nwords: {pet: cat}\n", "a list of words"),
        ("source: me\nwords: [cat]\n", "labels with lists of words"),
        ("source: me\nnames: {pet: [cat]}\n", "source, words and patterns only"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        WordList.read(path)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigProblems, match="no such file"):
        WordList.read("nowhere.yaml")


def test_labels_of_objects_need_a_majority() -> None:
    rows = [
        (1, "man", 3),
        (1, "woman", 2),
        (1, "shirt", 9),
        (2, "man", 1),
        (2, "girl", 1),
        (3, "hat", 4),
        (4, "lady", 1),
    ]
    frame = pd.DataFrame(rows, columns=["referent", "name", "count"])
    gender = WordList.read("gender-en")
    assert labels_of_objects(frame, gender).to_dict() == {1: "male", 2: "mixed", 3: "unknown", 4: "female"}
    assert labels_of_objects(frame, gender, agreement=0.7)[1] == "mixed"
    with pytest.raises(DataError, match="agreement 1"):
        labels_of_objects(frame, gender, agreement=1)
    with pytest.raises(DataError, match="no column 'nam'"):
        labels_of_objects(frame, gender, name="nam")


def test_a_setting_that_names_no_list_is_a_problem() -> None:
    assert unreadable_list("heads", "colours-en", "colours-en") == []
    (found,) = unreadable_list("heads", "nowhere.yaml", "colours-en")
    assert (found.where, found.expected) == ("heads", "a word list")
    assert "nowhere.yaml" in found.got
    assert found.hint == "colours-en, or a YAML file"


# Labels that do not count, scripts without spaces, colours


def test_a_general_label_beside_another_does_not_make_a_name_mixed() -> None:
    """A name of the general label and another bears the other: nothing is set aside for it."""
    words = WordList({"tennis": ["tennis"], "ski": ["ski"], "general": ["player"]}, "me")
    rows = [
        (1, "tennis player", 3),
        (2, "player", 2),
        (3, "ski player", 1),
        (3, "tennis player", 1),
        (4, "ski", 1),
    ]
    frame = pd.DataFrame(rows, columns=["referent", "name", "count"])
    found = labels_of_objects(frame, words, ignore=["general"]).to_dict()
    assert found == {1: "tennis", 2: "unknown", 3: "mixed", 4: "ski"}
    assert labels_of_objects(frame, words)[1] == "mixed"
    assert words.label("tennis player", ignore=("general",)) == "tennis"
    with pytest.raises(DataError, match=r"no label 'genral'.*try 'general'"):
        labels_of_objects(frame, words, ignore=["genral"])
    with pytest.raises(DataError, match="'x' in row 0 of 'count'"):
        labels_of_objects(frame.assign(count="x"), words)


def test_whole_words_of_scripts_without_spaces_are_found_within_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("source: me\nwords: {red: [红, あか, แดง], man: [man, 男man]}\n", encoding="utf-8")
    words = WordList.read(path)
    for name in ("深红色", "あかいろ", "สีแดงเข้ม"):
        assert words.label(name) == "red"
    assert words.label("woman") is None
    assert words.label("红man") == "mixed"
    assert words.anywhere == ("red", "man")
    assert words.described().endswith("for want of spaces: red, man.")
    assert WordList.read("gender-en").anywhere == ()


def test_words_at_the_edge_of_which_stands_no_letter(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "source: me\nwords: {tongue: [c++, .net], shirt: [t-shirt], cafe: [café]}\n", encoding="utf-8"
    )
    words = WordList.read(path)
    assert [words.label(one) for one in ("c++", "c++ book", "a .NET", "t-shirt", "cafe\u0301")] == [
        "tongue",
        "tongue",
        "tongue",
        "shirt",
        "cafe",
    ]
    assert words.label("c") is None
    assert words.label("t-shirts") is None
    with pytest.raises(DataError, match="a name of 501 characters"):
        words.label("x" * 501)


def test_english_colours_and_their_ish_forms() -> None:
    heads, modifiers = WordList.read("colours-en"), WordList.read("modifiers-en")
    colours = [
        "aqua",
        "tan",
        "lime",
        "beige",
        "maroon",
        "magenta",
        "peach",
        "gold",
        "teal",
        "lavender",
        "khaki",
        "mint",
        "indigo",
        "cream",
        "rust",
    ]
    assert all(map(heads, colours))
    for name in [
        "greenish",
        "bluish",
        "blueish",
        "reddish",
        "yellowish",
        "purplish",
        "pinkish",
        "brownish",
        "greyish",
        "whitish",
        "orangish",
    ]:
        assert heads(name), name
        assert modifiers.labels_in(name) == ("comparative",)
    assert modifiers.labels_in("blue ish") == ("comparative",)
    for name in ("english", "fish", "wish", "tangle", "climber"):
        assert not heads(name)
        assert not modifiers(name)
