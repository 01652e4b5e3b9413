"""Word lists that others wrote: each is read and used at once, or refused by a message that names what is wrong."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from trimtab.data.wordlist import NAME_LIMIT, WordList, compiled, is_word_list
from trimtab.errors import ConfigProblems, DataError

NAMES = ("a" * 40 + "!", "man", "Ünïcöde", "a b", "x" * NAME_LIMIT, "红色", "", "0", "a\nb")
ENDLESS = (
    "(a+)+$",
    "(a*)*b",
    "(a|a)*$",
    "(a|aa)+$",
    "(.*a){20}",
    "(x+x+)+y",
    "(?:a?){30}a{30}",
    "a?" * 30 + "a" * 30,
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(\w+\s?)*!",
    "a*a*a*a*a*b",
    "(?:(?:a{0,50}){0,50}){0,50}b",
    "(a{1,3})+$",
    "(?=(a+)+$)a",
)
WRONG = (
    "(",
    "[",
    "a**",
    "(?P<x>a)(?P<x>b)",
    r"\1a",
    "(?<=a.*)b",
    "a{99999999999}",
    "[[:alpha:]]+",
    "(?i)b",
    "x(?i)b",
    ".*",
    "",
    "a|",
    ".",
    "\\",
    "(?P<1>a)",
)
FILES = (
    "",
    "\n",
    "source: x",
    "source: x\nwords: {}",
    "source: x\nwords: {a: []}",
    "source: x\nwords: {a: b}",
    "source: x\nwords: [a]",
    "source: x\nwords: {a: [5]}",
    "source: x\nwords: {a: [null]}",
    "source: x\nwords: {a: ['']}",
    "source: x\nwords: {a: [' ']}",
    "source: x\nwords: {a: [true]}",
    "source: x\nwords: {a: [[b]]}",
    "source: x\nword: {a: [b]}",
    "words: {a: [b]}",
    "source: ''\nwords: {a: [b]}",
    "source: [x]\nwords: {a: [b]}",
    "source: 5\nwords: {a: [b]}",
    "source: x\nwords: {'': [b]}",
    "source: x\nwords: {null: [b]}",
    "source: x\nwords: {' ': [b]}",
    "source: x\nwords: 5",
    'source: x\nwords: {"\\ud800": [b]}',
    'source: x\nwords: {a: ["\\ud800"]}',
    "source: x\nwords: {a: [b], a: [c]}",
    "source: x\nwords: {[a]: [b]}",
    "? [a]\n: 1",
    "source: x\nwords: {a: [b",
    "\tsource: x",
    "- a\n- b",
    "just words",
    "5",
    "null",
    "source: x\nwords: {a: [!!python/object:os.system b]}",
    "source: !!timestamp 2026-13-45\nwords: {a: [b]}",
    "source: !!int x\nwords: {a: [b]}",
    "source: " + "9" * 5000 + "\nwords: {a: [b]}",
    "a: " + "[" * 1000 + "]" * 1000,
    "a: " + "{b: " * 500 + "1" + "}" * 500,
    "source: &a [*a]\nwords: {a: [b]}",
    "a0: &a0 [x,x,x]\n"
    + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    + "words: *a8",
    "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9))
    + "words: *a8",
    "source: x\nwords: {a: [b]}\nextra: 1",
    "source: x\npatterns: {a: b}",
    "source: x\npatterns: {a: [5]}",
    "source: x\npatterns: {a: {b: c}}",
    "%YAML 9.9\n---\nsource: x",
    "source: x\n---\nsource: y",
    "source: x\nwords: &w {a: [b]}\npatterns: *w",
)


def used(path: Path) -> WordList:
    words = WordList.read(path)
    for name in NAMES:
        words.label(name)
    return words


@pytest.mark.parametrize("text", FILES, ids=range(len(FILES)))
def test_a_file_that_is_no_word_list_is_refused_at_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    start = time.process_time()
    with pytest.raises((DataError, ConfigProblems), match=r"(?s)got .*expected ") as told:
        used(path)
    assert "list.yaml" in str(told.value)
    assert len(str(told.value)) < 1000
    assert time.process_time() - start < 2


@pytest.mark.parametrize("expression", [*ENDLESS, *WRONG])
def test_an_expression_that_hangs_or_is_wrong_is_refused(tmp_path: Path, expression: str) -> None:
    with pytest.raises(DataError, match=r"got .*expected"):
        compiled(expression)
    with pytest.raises(DataError, match="'here'"):
        WordList({"here": ["right", expression]}, "me")


@pytest.mark.parametrize(
    "content", [b"\xff\xfes\0o\0", "source: café".encode("latin-1"), bytes(4096), b"PK\x03\x04\xff"]
)
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.yaml").write_bytes(content)
    with pytest.raises((DataError, ConfigProblems), match=r"list\.yaml"):
        WordList.read(tmp_path / "list.yaml")


def test_pipes_devices_folders_and_huge_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(2**33)
    told = {
        "pipe": "a pipe",
        "folder": "a folder",
        "zero": "a device",
        "dangling": "no such file",
        "huge": "8,192 MiB",
    }
    for name, expected in told.items():
        with pytest.raises(DataError, match=expected):
            WordList.read(tmp_path / f"{name}.yaml")
    assert not is_word_list("x" * 5000)
    assert not is_word_list("../words/gender-en")


def test_expressions_that_are_fine_alone_are_fine_together() -> None:
    """Joined into one, groups would have other numbers, and names of groups would clash."""
    words = WordList({"a": [r"(x)\1", r"(y)\1", "(?P<n>p)q", "(?P<n>r)s"]}, "me")
    assert [words(name) for name in ("xx", "yy", "pq", "rs", "xy")] == [True] * 4 + [False]
    assert WordList({"a": ["Tennis"]}, "me").label("tennis") == "a"


@pytest.mark.parametrize("seed", range(4))
def test_spoilt_copies_of_a_list_never_end_otherwise(tmp_path: Path, seed: int) -> None:
    """Bytes of a list that ships are changed, cut out or doubled: it is read and used, or refused."""
    rng = random.Random(seed)
    good = WordList.read("sports-en").title
    raw = (Path(__file__).parents[2] / f"src/trimtab/data/words/{good}.yaml").read_bytes()
    path = tmp_path / "spoilt.yaml"
    for _ in range(20):
        content = bytearray(raw)
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.randrange(len(content))
            how = rng.randrange(4)
            if how == 0:
                content[at] = rng.choice(b"*+?()[]{}|\\&:#'\"-!%@`\t\n\x00\xff")
            elif how == 1:
                del content[at : at + rng.randrange(1, 40)]
            elif how == 2:
                content[at:at] = content[at : at + rng.randrange(1, 40)]
            else:
                content[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(content))
        try:
            used(path)
        except (DataError, ConfigProblems) as told:
            assert "spoilt.yaml" in str(told)  # noqa: PT017 (either end is right)
