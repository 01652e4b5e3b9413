"""The page for people: what it holds and keeps from them, and that it works in a browser."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from browser import CHROMIUM, Tab, tab
from listen_worlds import HOSTILE, hostile_task, pictures
from trimtab.errors import ConfigError, DataError
from trimtab.refer.intelligibility.answer_files import read_answers
from trimtab.refer.intelligibility.task import KEY, PAGE, Task, make_task, read_task, write_task

ITEMS = [f"p{k}" for k in range(6)]


def said(by: str) -> dict[str, str]:
    return {item: f"{by} says something of it ({k})" for k, item in enumerate(ITEMS)}


@settings(max_examples=25)
@given(
    speakers=st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 2**40),
    size=st.integers(2, 12),
)
def test_laws_of_tasks(speakers: list[str], seed: int, size: int) -> None:
    """Every caption once; a block has every item once; two captions of one item are a block apart."""
    task = make_task(pictures(), {one: said(one) for one in speakers}, candidates_per_item=size, seed=seed)
    assert len(task.trials) == len(speakers) * len(ITEMS)
    assert {(one.speaker, one.item): one.caption for one in task.trials} == {
        (by, item): caption for by in speakers for item, caption in said(by).items()
    }
    order = [trial.item for trial in task.trials]
    assert order == order[: len(ITEMS)] * len(speakers)
    assert [trial.block for trial in task.trials] == [k for k in range(len(speakers)) for _ in ITEMS]
    for trial in task.trials:
        assert task.pictures[trial.candidates[0]] in pictures()
        assert [task.pictures[one] for one in trial.candidates].count(trial.target) == 1
        assert trial.target == trial.item
        assert len(set(trial.candidates)) == size
    for block in range(len(speakers)):
        counts = Counter(trial.speaker for trial in task.trials if trial.block == block)
        assert max(counts.values()) - min(counts[one] for one in speakers) <= 1 or len(ITEMS) < len(speakers)
    assert task == make_task(
        pictures(), {one: said(one) for one in speakers[::-1]}, candidates_per_item=size, seed=seed
    )


def test_seeds_and_contents_change_every_random_name_and_the_fingerprint() -> None:
    task = hostile_task()
    others = [
        hostile_task(seed=1),
        make_task(pictures(), {"people": HOSTILE, "captioner": {"p0": "another"}}, candidates_per_item=4),
        make_task({**pictures(), "p1": Image.new("RGB", (8, 6))}, {"people": HOSTILE}, candidates_per_item=4),
    ]
    assert (
        len({one.fingerprint for one in [task, *others, hostile_task(title="x"), hostile_task(once=True)]})
        == 6
    )
    for other in others:
        assert not set(task.pictures) & set(other.pictures)
        assert not {trial.id for trial in task.trials} & {trial.id for trial in other.trials}


def test_the_right_answer_stands_anywhere() -> None:
    places = Counter(
        [task.pictures[one] for one in trial.candidates].index(trial.target)
        for seed in range(60)
        for task in [make_task(pictures(), {"a": said("a")}, candidates_per_item=3, seed=seed)]
        for trial in task.trials
    )
    n = 60 * len(ITEMS)
    assert all(abs(places[k] - n / 3) < 5 * (n * 2 / 9) ** 0.5 for k in range(3))


def test_given_sets_are_asked_as_they_are() -> None:
    sets = pd.DataFrame(
        {"item": [1, "x"], "candidates": [["p1", "p2"], ["p3", "p4", "p5"]], "target": ["p2", "p3"]}
    )
    task = make_task(pictures(), {"a": {1: "one"}, "b": {"x": "two"}}, candidates=sets)
    asked = {
        trial.item: (trial.target, sorted(task.pictures[one] for one in trial.candidates))
        for trial in task.trials
    }
    assert asked == {"1": ("p2", ["p1", "p2"]), "x": ("p3", ["p3", "p4", "p5"])}
    assert set(task.pictures.values()) == {"p1", "p2", "p3", "p4", "p5"}


@pytest.fixture(scope="module")
def photos() -> dict[str, Any]:
    """Pictures with their names in their metadata, of which one is large."""
    shown: dict[str, Any] = {}
    for name, image in pictures().items():
        exif = Image.Exif()
        exif[0x010E] = f"this is {name}"  # ImageDescription
        image.info = {"comment": f"this is {name}", "exif": exif.tobytes()}
        shown[f"secret-{name}"] = image
    shown["secret-large"] = Image.effect_noise((2000, 1000), 90).convert("RGB")
    return shown


@pytest.fixture(scope="module")
def folder(photos: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    captions = {f"secret-{item}": caption for item, caption in HOSTILE.items()}
    more = {"secret-large": "a large one", "secret-p3": "short"}
    task = make_task(
        photos,
        {"speaker-people": captions, "speaker-captioner": more},
        candidates_per_item=13,
        title="Seven <b>questions</b> & more",
        question='Which "one" is <i>it</i>?',
    )
    path = tmp_path_factory.mktemp("listen") / "task"
    write_task(task, photos, path)
    return path


def test_what_is_handed_out_tells_no_names_speakers_or_answers(folder: Path) -> None:
    task = read_task(folder)
    files = [path for path in (folder / PAGE).rglob("*") if path.is_file()]
    assert len(files) == 1 + 13
    for path in files:
        content = path.read_bytes()
        for secret in (b"secret", b"speaker-", b"target", b'"item"', b"this is"):
            assert secret not in content, (path, secret)
        assert not any(name in str(path.relative_to(folder)) for name in task.pictures.values())
    assert KEY not in {path.name for path in files}
    assert {path.name for path in folder.iterdir()} == {KEY, PAGE}


def test_pictures_are_those_of_the_key_without_metadata_and_not_too_large(
    folder: Path, photos: dict[str, Any]
) -> None:
    task = read_task(folder)
    for path in (folder / PAGE / "pictures").iterdir():
        name = task.pictures[path.stem]
        with Image.open(path) as image:
            assert not {"comment", "exif"} & set(image.info)
            if name == "secret-large":
                assert (image.format, image.size) == ("JPEG", (1600, 800))
            else:
                assert image.format == "PNG"
                assert image.convert("RGB").tobytes() == photos[name].tobytes()


class Parts(HTMLParser):
    """Elements with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.within = ""

    def handle_data(self, data: str) -> None:
        if self.within == "script":
            self.scripts[-1] += data


def test_the_page_is_one_file_whose_only_script_is_ours(folder: Path) -> None:
    text = (folder / PAGE / "index.html").read_text(encoding="utf-8")
    page = Parts(text)
    data, script = page.scripts
    (policy,) = [
        one["content"] for tag, one in page.tags if one.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "<script>window.broken" not in text
    assert {one["caption"] for one in json.loads(data)["trials"]} >= set(HOSTILE.values())
    assert not re.search(r"https?://|//[a-z]+\.", text)
    assert [
        tag for tag, one in page.tags if "src" in one or (tag == "link" and one["href"] != "data:,")
    ] == []
    assert "<title>Seven &lt;b&gt;questions&lt;/b&gt; &amp; more</title>" in text
    assert "fetch(" not in script, "a page of a file may fetch nothing"


def test_a_key_is_read_back_and_changes_are_noticed(folder: Path, tmp_path: Path) -> None:
    task = read_task(folder)
    key = json.loads((folder / KEY).read_text())
    assert key["fingerprint"] == task.fingerprint
    with pytest.raises(DataError, match=r"key.json: got no such file, expected the key .*; try .*task"):
        read_task(folder / PAGE)
    for change in (
        {"seed": 5},
        {"format": 2},
        {"trials": []},
        {"trials": [{"id": 1}]},
        {"trials": None},
        {"pictures": {}},
        {"more": 1},
    ):
        (tmp_path / KEY).write_text(json.dumps({**key, **change}))
        with pytest.raises(DataError, match=r"key.json: got a key that was changed or damaged"):
            read_task(tmp_path)
    for text in ("[]", "3", "{}"):
        (tmp_path / KEY).write_text(text)
        with pytest.raises(DataError, match=r"got a key that was changed or damaged"):
            read_task(tmp_path)
    (tmp_path / KEY).write_text("{")
    with pytest.raises(DataError, match=r"got text that is not JSON"):
        read_task(tmp_path)


def test_a_key_is_never_lost_to_another_task(tmp_path: Path) -> None:
    out, task = tmp_path / "task", hostile_task()
    out.mkdir()
    write_task(task, pictures(), out)
    before = (out / KEY).read_bytes()
    write_task(task, pictures(), out)
    with pytest.raises(ConfigError, match=r"which holds something else, expected a new or empty folder"):
        write_task(hostile_task(seed=1), pictures(), out)
    with pytest.raises(DataError, match=r"got picture 'p[0-9]+', which has changed, expected the task's"):
        write_task(
            task, {**pictures(), **dict.fromkeys(task.pictures.values(), Image.new("RGB", (1, 1)))}, out
        )
    assert (out / KEY).read_bytes() == before
    (out / "more.txt").write_text("x")
    with pytest.raises(ConfigError, match="which holds something else"):
        write_task(task, pictures(), out)


@pytest.mark.parametrize(
    ("speakers", "given", "error", "message"),
    [
        ({}, {}, ConfigError, r"got no speaker, expected captions of at least one"),
        ({"a": said("a")}, {"seed": -1}, ConfigError, r"seed: got -1"),
        (
            {"a": {"p1": "x", "q": "y", "r": "z"}},
            {},
            DataError,
            r"a: got item 'q' \(and 1 more of 3 items\), expected the name of",
        ),
        ({"a": said("a")}, {"candidates_per_item": 13}, ConfigError, r"got sets of 13 from 12 pictures.*=12"),
        (
            {"a": said("a")},
            {"candidates_per_item": 1},
            ConfigError,
            r"got n=1, expected a whole number, at least 2",
        ),
        ({"a": [("p1", "x")]}, {}, DataError, r"captions of a, row 0"),
        ({"a": {"p1": ""}}, {}, DataError, r"got the caption empty"),
        (
            {"a": {"p1": "x", "p2": "y"}},
            {"candidates": pd.DataFrame({"item": ["p1"], "candidates": [["p1", "p2"]], "target": ["p1"]})},
            DataError,
            r"captions of a: got item 'p2', expected an item with a candidate set; try candidates=FILE",
        ),
        (
            {"a": {"p1": "x"}},
            {"candidates": pd.DataFrame({"item": ["p1"], "candidates": [["p1", "none"]], "target": ["p1"]})},
            DataError,
            r"row 0: got the picture 'none'",
        ),
    ],
)
def test_mistakes_before_a_page_is_made(
    speakers: Any, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_task(pictures(), speakers, **given)


def test_no_person_looks_at_hundreds_of_pictures() -> None:
    many = {str(k): Image.new("RGB", (1, 1), (k, 0, 0)) for k in range(120)}
    with pytest.raises(ConfigError, match=r"got a set of 101 pictures, expected at most 100 for people"):
        make_task(many, {"a": {"7": "x"}}, candidates_per_item=101)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with tab(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.fixture
def page(opened: Tab, folder: Path, tmp_path: Path) -> Iterator[Tab]:
    """The page in a browser that has never seen it."""
    opened.renew(tmp_path)
    opened.open((folder / PAGE / "index.html").as_uri())
    yield opened
    assert opened.complaints() == []
    assert opened.js("window.broken") is None


LOADED = "[...document.images].length && [...document.images].every(one => one.complete && one.naturalWidth)"
PLACE = "document.getElementById('place').textContent"


def click(page: Tab, name: str) -> None:
    page.js(f"document.getElementById('{name}').click()")


def choose(page: Tab, k: int) -> str:
    return str(
        page.js(f"(one => (one.click(), one.value))(document.querySelectorAll('#choices input')[{k}])")
    )


def visible(page: Tab, name: str) -> bool:
    return bool(page.js(f"document.getElementById('{name}').offsetParent !== null"))


def downloaded(folder: Path) -> Path:
    end = time.monotonic() + 20
    while not (files := list(folder.glob("*.csv"))):
        assert time.monotonic() < end
        time.sleep(0.05)
    (path,) = files
    return path


def test_a_person_answers_reloads_changes_and_sends(page: Tab, folder: Path, tmp_path: Path) -> None:
    task, given = read_task(folder), {}
    n = len(task.trials)
    assert visible(page, "start")
    assert not visible(page, "trial")
    assert page.js("document.getElementById('count').textContent") == f"{n} descriptions"
    click(page, "begin")
    for k, trial in enumerate(task.trials):
        assert page.js(PLACE) == f"{k + 1} of {n}"
        assert page.js("document.getElementById('caption').textContent") == trial.caption
        page.wait(LOADED)
        assert page.js("[...document.images].map(one => one.alt)") == [f"Picture {j}" for j in range(1, 14)]
        assert page.js("document.getElementById('next').disabled")
        assert page.js("document.getElementById('back').disabled") == (k == 0)
        given[trial.id] = choose(page, k % 13)
        assert given[trial.id] == trial.candidates[k % 13]
        if k == 3:  # what is not confirmed is no answer; what is, stays
            page.reload()
            page.wait(f"{PLACE} === '4 of {n}'")
            assert page.js("document.querySelector('#choices input:checked')") is None
            given[trial.id] = choose(page, 5)
        click(page, "next")
        if k == 4:
            click(page, "back")
            assert page.js(PLACE) == f"5 of {n}"
            assert page.js("document.querySelector('#choices input:checked').value") == given[trial.id]
            assert page.js("document.getElementById('back').disabled"), (
                "no answer before the last can be changed"
            )
            given[trial.id] = choose(page, 0)
            click(page, "next")
    assert visible(page, "end")
    page.reload()
    assert visible(page, "end")
    click(page, "change")
    given[task.trials[-1].id] = choose(page, 11)
    click(page, "next")
    click(page, "download")
    path = downloaded(tmp_path)
    assert path.name == "answers.csv"
    answers = read_answers([path], task)
    rows = [(trial.item, task.pictures[given[trial.id]], trial.speaker) for trial in task.trials]
    frame = answers.choices[["item", "choice", "speaker"]]
    assert list(frame.itertuples(index=False, name=None)) == rows
    assert (answers.choices["seconds"] >= 0).all()
    (who,) = answers.answered
    assert answers.answered == answers.asked == {who: n}
    pasted = tmp_path / "pasted.txt"
    pasted.write_text(page.js("document.getElementById('text').value"), encoding="utf-8")
    pd.testing.assert_frame_equal(read_answers([pasted], task).choices, answers.choices)
    click(page, "copy")
    page.wait("document.getElementById('done').textContent === 'Copied.'")


def test_the_next_person_begins_with_nothing(page: Tab) -> None:
    click(page, "begin")
    choose(page, 0)
    click(page, "next")
    who = page.js("JSON.parse(Object.values(localStorage)[0]).listener")
    click(page, "stop")
    click(page, "again")  # which the test confirms
    page.wait("document.getElementById('start').offsetParent !== null")
    page.reload()
    assert visible(page, "start")
    assert page.js("localStorage.length") == 1
    assert who not in page.js("Object.values(localStorage).join()")
    click(page, "begin")
    assert page.js(PLACE).startswith("1 of")


def test_keys_alone_are_enough_and_who_stops_early_can_send(page: Tab, folder: Path, tmp_path: Path) -> None:
    task = read_task(folder)
    page.js("document.getElementById('begin').focus()")
    page.key("Enter", 13)
    page.wait("document.getElementById('trial').offsetParent !== null")
    for k, digit in enumerate("39"):
        assert page.js(PLACE).startswith(f"{k + 1} of")
        page.key("0")
        assert page.js("document.getElementById('next').disabled")
        page.key(digit)
        page.key("Enter", 13)
    page.key("2")
    page.key("ArrowRight", 39)
    assert (
        page.js("document.querySelector('#choices input:checked').getAttribute('aria-label')") == "Picture 3"
    )
    page.key("Enter", 13)
    assert page.js(PLACE).startswith("4 of")
    click(page, "stop")
    assert (
        page.js("document.getElementById('thanks').textContent") == f"Stopped after 3 of {len(task.trials)}."
    )
    click(page, "on")
    assert page.js(PLACE).startswith("4 of")
    click(page, "stop")
    click(page, "download")
    answers = read_answers([downloaded(tmp_path)], task)
    expected = [task.pictures[trial.candidates[k]] for trial, k in zip(task.trials, (2, 8, 2), strict=False)]
    assert answers.choices["choice"].tolist() == expected


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_scrolls_sideways_and_fingers_find_their_aims(page: Tab, folder: Path, width: int) -> None:
    page.open((folder / PAGE / "index.html").as_uri(), width=width)
    aims = (
        "[...document.querySelectorAll('button, label.choice')].filter(one => one.offsetParent !== null)"
        ".map(one => one.getBoundingClientRect()).map(one => Math.min(one.width, one.height))"
    )
    sizes = list[float]()
    for k in range(len(read_task(folder).trials) + 2):
        if k == 1:
            click(page, "begin")
        elif k:
            choose(page, k)
            click(page, "next")
        if visible(page, "trial"):
            page.wait(LOADED)
        assert page.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        sizes += page.js(aims)
    assert visible(page, "end")
    assert min(sizes) >= 44


def test_a_browser_that_keeps_nothing_says_so(page: Tab, folder: Path, tmp_path: Path) -> None:
    page.send(
        "Page.addScriptToEvaluateOnNewDocument",
        source="Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no'); } })",
    )
    page.reload()
    assert "cannot keep your answers" in page.js("document.getElementById('notice').innerText")
    click(page, "begin")
    choose(page, 0)
    click(page, "next")
    click(page, "stop")
    click(page, "download")
    assert len(read_answers([downloaded(tmp_path)], read_task(folder)).choices) == 1


@pytest.mark.parametrize(
    "kept", ["{", "null", "[]", '{"answers": [{}], "listener": "a", "block": null}', '"x"', "7"]
)
def test_answers_that_cannot_be_read_begin_anew(page: Tab, folder: Path, kept: str) -> None:
    name = f"trimtab-listen-{read_task(folder).fingerprint}"
    told = "document.getElementById('notice').innerText"
    for _ in range(5):  # a browser under load may reload before it has kept what was set
        page.js(f"localStorage.setItem('{name}', {json.dumps(kept)})")
        page.reload()
        assert visible(page, "start")
        if kept == "null" or page.js(told):
            break
    assert kept == "null" or "could not be read" in page.js(told)


def test_each_person_gets_one_block_and_the_name_that_the_link_gives(page: Tab, tmp_path: Path) -> None:
    task = hostile_task(once=True)
    write_task(task, pictures(), tmp_path / "task")
    address = (tmp_path / "task" / PAGE / "index.html").as_uri()
    page.open(f"{address}?listener=person-7")
    blocks = set()
    for _ in range(12):
        page.js("localStorage.clear()")
        page.reload()
        blocks.add(page.js("JSON.parse(Object.values(localStorage)[0]).block"))
    assert blocks == {0, 1}
    block = page.js("JSON.parse(Object.values(localStorage)[0]).block")
    asked = [trial for trial in task.trials if trial.block == block]
    click(page, "begin")
    for _ in asked:
        choose(page, 1)
        click(page, "next")
    click(page, "download")
    path = downloaded(tmp_path)
    answers = read_answers([path], task)
    assert answers.asked == answers.answered == {"person-7": len(asked)}
    assert answers.choices["item"].tolist() == [trial.item for trial in asked]
    with path.open(newline="") as file:
        assert {row["trial"] for row in csv.DictReader(file)} == {trial.id for trial in asked}


def test_a_missing_picture_is_told(page: Tab, tmp_path: Path) -> None:
    write_task(hostile_task(), pictures(), tmp_path / "task")
    for path in (tmp_path / "task" / PAGE / "pictures").iterdir():
        path.unlink()
    page.open((tmp_path / "task" / PAGE / "index.html").as_uri())
    click(page, "begin")
    page.wait("document.getElementById('notice').innerText.includes('A picture is missing')")
    page.events.clear()


def test_a_task_is_shown_in_a_line() -> None:
    task: Task = replace(hostile_task(), title="x")
    assert repr(task) == f"Task(10 captions of 2 speakers, {task.fingerprint})"


def test_two_captions_of_a_picture_under_two_names_are_refused(tmp_path: Path) -> None:
    for name, picture in pictures().items():
        picture.save(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match=r"captions of a: got two captions of picture 'p0'"):
        make_task(tmp_path, {"a": {"p0": "one", "p0.png": "two"}}, candidates_per_item=3)
