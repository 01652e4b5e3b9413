"""The pages of docs/: links lead somewhere, pages are short, nothing is said twice, numbers come from result files."""

from __future__ import annotations

import ast
import json
import math
import re
import runpy
import shlex
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import trimtab
from site_pages import DOCS, PAGES, ROOT, TEXTS, anchors, blocks, links, prose, sentences, table_rows
from test_names_in_text import NAME
from trimtab import systems
from trimtab.cli.main import main
from trimtab.runs.config import dotted_keys

OUTSIDE = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")}
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
SYSTEMS = (
    "dynamics",
    "forgetting",
    "steering",
    "expertlens",
    "audit",
    "discritune",
    "intelligibility",
    "lexicon",
)
SYSTEMS += ("naming-bias", "hypertransport")
TOOLS = ("caption-rewards", "caption-scores", "listen")
GUIDES = tuple(f"{name}.md" for name in (*SYSTEMS, *TOOLS))
HOW_TO = tuple(name for name in PAGES if name.startswith("howto/"))
SHORT = {"start.md": 600, "index.md": 400, "gallery.md": 430, "errors.md": 700}
LIMITS = dict.fromkeys(GUIDES, 600) | dict.fromkeys(HOW_TO, 450) | SHORT
HEADINGS = ("The question", "Reading the report", "Settings that matter", "When it fails")


def navigated(part: Any = SITE["nav"]) -> Iterator[str]:
    """The pages that the site's navigation names."""
    if isinstance(part, str):
        yield from [path.relative_to(DOCS).as_posix() for path in DOCS.glob(part)] or [part]
    else:
        for one in part if isinstance(part, list) else part.values():
            yield from navigated(one)


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(navigated()) == sorted(PAGES)


@pytest.mark.parametrize("name", [*PAGES, *OUTSIDE])
def test_links_and_anchors_lead_somewhere(name: str) -> None:
    text, here = (TEXTS[name], PAGES[name]) if name in PAGES else (OUTSIDE[name], ROOT / name)
    lost = []
    for link in links(text):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (here.parent / path).resolve() if path else here
        known = anchors(target.read_text(encoding="utf-8")) if anchor and target.suffix == ".md" else set()
        if not target.exists() or (anchor and anchor not in known):
            lost.append(link)
    assert lost == []


def test_anchors_are_those_of_the_site() -> None:
    assert anchors('# What does "kept" mean?\n## Naïve, `x`\n## Naive, x\n') == {
        "what-does-kept-mean",
        "naive-x",
        "naive-x_1",
    }


@pytest.mark.parametrize(("name", "limit"), LIMITS.items())
def test_a_page_is_short(name: str, limit: int) -> None:
    assert len(re.findall(r"\w[\w'-]*", prose(TEXTS[name]))) <= limit


@pytest.mark.parametrize("name", [*LIMITS, *(name for name in PAGES if name.startswith("method/"))])
def test_sentences_are_short(name: str) -> None:
    found = [re.sub(r"`[^`]*`", "x", sentence) for sentence in sentences(TEXTS[name])]
    assert [one for one in found if len(re.findall(r"\w[\w'-]*", one)) > 25] == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_guide_has_the_same_headings_as_the_others(system: str) -> None:
    found = re.findall(r"^## (.*)$", TEXTS[f"{system}.md"], re.MULTILINE)
    assert [heading for heading in found if heading in HEADINGS] == list(HEADINGS)
    assert found[1] == "In ten lines"


def test_no_two_pages_have_a_row_of_a_table_in_common() -> None:
    places = defaultdict(set)
    for name, text in TEXTS.items():
        for row in table_rows(text):
            places[re.sub(r"\s+", " ", row)].add(name)
    assert {row: names for row, names in places.items() if len(names) > 1 and len(row) > 25} == {}


def test_the_gallery_has_every_example_with_its_picture() -> None:
    page = TEXTS["gallery.md"]
    for example in (ROOT / "examples").glob("*.py"):
        assert f"(../examples/{example.name})" in page
        (picture,) = (DOCS / "images").glob(f"example-{example.stem}.*")
        assert f"(images/{picture.name})" in page


@pytest.mark.parametrize("message", re.findall(r"^\| `([a-zA-Z][^`]+)`", TEXTS["errors.md"], re.MULTILINE))
def test_a_message_of_the_errors_page_is_one_of_ours(message: str) -> None:
    assert message in source(), message


@cache
def source() -> str:
    folder = Path(trimtab.__file__).parent
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py")))


# Reference pages


def referenced() -> dict[str, str]:
    """What the reference pages show, by its name in them, and by where it is defined."""
    found = {}
    for name, text in TEXTS.items():
        for shown in re.findall(r"^::: (\S+)$", text, re.MULTILINE):
            assert shown not in found, f"{shown} is on two pages"
            found[shown] = name
    return found


@cache
def module(name: str) -> ast.Module | None:
    """The parsed file of a module of ours, which is not imported; None where there is none."""
    place = ROOT / "src" / name.replace(".", "/")
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return ast.parse(path.read_text(encoding="utf-8"))
    return None


def defined(path: str) -> str:
    """Where an object is defined: `trimtab.Fit` is `trimtab.train.settings.Fit`."""
    home, _, name = path.rpartition(".")
    if module(path) is None:
        for node in ast.walk(module(home) or ast.Module([], [])):
            if isinstance(node, ast.ImportFrom) and name in [one.asname or one.name for one in node.names]:
                return defined(f"{node.module}.{name}")
    return path


def docstring(path: str) -> str | None:
    """The docstring of a module, class or function."""
    path = defined(path)
    whole = module(path)
    if whole is not None:
        return ast.get_docstring(whole)
    home, _, name = path.rpartition(".")
    parts = getattr(module(home), "body", [])
    found = [it for it in parts if isinstance(it, ast.ClassDef | ast.FunctionDef) and it.name == name]
    return ast.get_docstring(found[0]) if found else None


def test_what_the_reference_shows_exists_and_says_what_it_is() -> None:
    assert [shown for shown in referenced() if not docstring(shown)] == []


def test_every_public_object_is_in_the_reference() -> None:
    shown = set(referenced())
    assert {f"trimtab.{name}" for name in trimtab.__all__ if name != "__version__"} - shown == set()
    there = {defined(name) for name in shown}
    for system in systems.SYSTEMS.values():
        home, _, job = system.job.partition(":")
        (result,) = re.findall(r"result: ClassVar.* = (\w+)", ast.unparse(module(home) or ast.Module([], [])))
        assert f"{home}.{job}" in there
        assert defined(f"{home}.{result}") in there
    modules = {f"trimtab.numerics.{path.stem}" for path in (ROOT / "src/trimtab/numerics").glob("[!_]*.py")}
    assert modules - shown == set()


def test_every_name_that_a_page_speaks_of_is_in_the_reference() -> None:
    shown = referenced()
    modules = {name.rpartition(".")[0] for name in shown} | set(shown)
    for page, text in TEXTS.items():
        if page.startswith(("reference/", "results/")):
            continue
        for name in set(NAME.findall(text)) - {"trimtab"}:
            parents = [".".join(name.split(".")[:n]) for n in range(2, name.count(".") + 2)]
            assert name in modules or any(one in shown for one in parents), f"{page}: {name}"


# Commands


def commands() -> list[tuple[str, list[str]]]:
    """Each line of a block of commands that calls trimtab, with its page."""
    found = []
    for page, text in TEXTS.items():
        for block in blocks(text, ""):
            for line in block.replace("\\\n", " ").split("\n"):
                words = shlex.split(line.partition(" #")[0])
                if words[:1] in (["trimtab"], ["torchrun"], ["accelerate"]) and "trimtab" in words:
                    found.append((page, words[words.index("trimtab") + 1 :]))
    return [(page, words) for page, words in found if words]


def known_keys(words: list[str]) -> set[str]:
    """The keys that a command may change in its config; a file is one of fine-tuning."""
    if words[0] not in ("run", "check", "sweep"):
        return set()
    system, recipe, _ = words[1].partition("/")
    return set(dotted_keys(systems.SYSTEMS[system if recipe else "dynamics"].job_class()))


def test_every_command_is_one_that_the_command_line_takes(capsys: pytest.CaptureFixture[str]) -> None:
    helps: dict[tuple[str, ...], str] = {}
    recipes = set(systems.recipes())
    assert len(commands()) > 50
    for page, words in commands():
        verb = tuple(words[: 2 if words[0] in ("steer", "captions") else 1])
        if verb not in helps:
            assert main([*verb, "--help"]) == 0, (page, words)
            helps[verb] = capsys.readouterr().out
        for word in words:
            if not word.startswith("--"):
                continue
            key = word[2:]
            fine = f"{word} " in helps[verb] or f"{word}\n" in helps[verb] or f"{word}]" in helps[verb]
            assert fine or key in known_keys(words), f"{page}: trimtab {' '.join(words)}: {word}"
        for word in words[1:]:
            if re.fullmatch(r"[a-z-]+/(?:quickstart|own-data|lora|real|scenes|registers)", word):
                assert word in recipes, f"{page}: {word}"


# Numbers

RESULT_LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+benchmarks/results/[^)\s]+\.json)\)")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?")
COMPARISON = re.compile(
    r"\[[-+]?\d[\d.]*, ?[-+]?\d[\d.]*\]|\d ?%|\b\d[\d.]* times\b"
    r"|\b(?:twice|half|double|thirds?|times as|faster|slower)\b"
)
EXP = ("| 1.0 % |", "| 2.0 % |", "| 5.1 % |", "| 10.5 % |")
NO_MEASUREMENT = {
    "audit.md": (),
    "caption-scores.md": ("(times 100)", "95 % bootstrap"),
    "discritune.md": ("twice as long",),
    "errors.md": ("a third of the rate",),
    "expertlens.md": ("the other half of the examples",),
    "forgetting.md": ("95 % of the law's refits", "every second time", "1 % of pretraining data"),
    "hypertransport.md": ("at most half of them",),
    "listen.md": ("a set twice",),
    "howto/check.md": ("a third of a step",),
    "howto/data.md": ("| 90 % | 5 % | 5 % |", "| 50 % | 50 % |", "With 300 records 5 % are fifteen"),
    "howto/kept.md": ("Student's, at 95 %",),
    "howto/learning-rate.md": ("a third of the rate", "three times the rate"),
    "howto/tolerances.md": ("the half width of its 95 % interval", "half width", *EXP),
    "howto/watch.md": ("logs no row twice",),
    "naming-bias.md": ("four times in five",),
}
"""Comparisons that are definitions, settings or advice, by page."""


@cache
def values(path: Path) -> tuple[float, ...]:
    """Every number of a result file."""

    def walk(part: Any) -> Iterator[float]:
        if isinstance(part, dict | list):
            for one in part.values() if isinstance(part, dict) else part:
                yield from walk(one)
        elif isinstance(part, int | float) and not isinstance(part, bool):
            yield float(part)

    return tuple(walk(json.loads(path.read_text(encoding="utf-8"))))


def is_there(number: str, path: Path, percent: bool) -> bool:
    """Whether a result file has a number that is printed like this; 12 % may be .12 in it."""
    digits = len(number.partition(".")[2])
    told = float(number.replace(",", ""))
    scales = (100.0, 1.0) if percent else (1.0,)
    return any(
        abs(scale * value - told) <= 0.500001 * 10**-digits for value in values(path) for scale in scales
    )


@pytest.mark.parametrize("name", [name for name in PAGES if not name.startswith("results/")])
def test_numbers_that_link_a_result_file_are_in_it(name: str) -> None:
    for text, target in RESULT_LINK.findall(TEXTS[name]):
        path = (PAGES[name].parent / target).resolve()
        for number in NUMBER.findall(text):
            assert is_there(number, path, "%" in text), f"{name}: {number} is not in {target}"


def test_a_number_that_is_not_in_the_file_is_seen() -> None:
    path = ROOT / "benchmarks" / "results" / "names" / "coverage.json"
    assert is_there("0.938", path, percent=False)
    assert not is_there("0.123456", path, percent=False)


def test_the_planned_shares_are_those_of_their_file() -> None:
    rows = json.loads((ROOT / "benchmarks/results/forgetting/planned.json").read_text(encoding="utf-8"))[
        "rows"
    ]
    shown = [row for row in table_rows(TEXTS["method/forgetting.md"]) if "[" in row]
    for confidence, line in zip((0.5, 0.95), shown, strict=True):
        cells = re.findall(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", line)
        measured = [row for row in rows if row["confidence"] == confidence]
        for cell, row in zip(cells, measured, strict=True):
            for number, part in zip(cell, ("kept", "low", "high"), strict=True):
                digits = len(number.partition(".")[2])
                assert math.isclose(float(number), row[part], abs_tol=0.500001 * 10**-digits)


def test_the_table_of_rewards_in_trl_is_what_its_script_prints() -> None:
    made = runpy.run_path(str(ROOT / "benchmarks" / "captions" / "in_trl_page.py"))
    start, end = made["MARKS"]
    kept = made["PAGE"].read_text(encoding="utf-8").partition(start)[2].partition(end)[0]
    assert kept == made["section"](made["read"](made["RESULT"]))


@pytest.mark.parametrize("name", LIMITS)
def test_a_comparison_has_a_source(name: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"```.*?```|`[^`\n]*`|\n {4}[^\n]*", " ", TEXTS[name], flags=re.DOTALL))
    for fragment in NO_MEASUREMENT.get(name, ()):
        assert fragment in text, f"{name} does not say {fragment!r} any more"
        text = text.replace(fragment, " ")
    assert COMPARISON.findall(RESULT_LINK.sub(" ", text)) == []


def test_tolerances_are_what_exp_says() -> None:
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) % \|$", TEXTS["howto/tolerances.md"], re.MULTILINE)
    assert len(rows) == 4
    for tolerance, percent in rows:
        assert f"{100 * math.expm1(float(tolerance)):.1f}" == percent


def test_memory_of_one_card_is_what_the_products_say() -> None:
    page = TEXTS["howto/one-card.md"]
    assert f"{16 * 7} GB" in page
    assert f"{2 * 7} GB" in page
    assert f"are {8 * 16 * 512 * 150_000 / 1e9:.1f} GB" in page
