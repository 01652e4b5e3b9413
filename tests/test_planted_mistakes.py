"""54 mistakes of daily use: each is told before any work, with file or key, got, expected, and a hint that works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from planted_mistakes import AT_THE_COMMAND_LINE, FROM_PYTHON, WARNED, BegunError, Planted, write_world
from trimtab.cli.main import main
from trimtab.errors import Problem, TrimtabError, placed_problem


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture(autouse=True)
def _inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(world)
    monkeypatch.delenv("TRIMTAB_RUNS", raising=False)
    yield
    for name in ("run", "runs", "new", "new.yaml"):
        path = world / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def is_told(mistake: Planted, problem: Problem, message: str = "") -> bool:
    """Whether a problem says all that is to be told; the place may stand anywhere in the message."""
    return (
        mistake.place in (message or str(problem))
        and mistake.got in problem.got
        and mistake.expected in problem.expected
        and (mistake.hint == problem.hint or (mistake.hint == "*" and problem.hint != ""))
    )


def problems_of(error: Exception) -> list[Problem]:
    """The problems of an error; those of Python's own have no form."""
    if not isinstance(error, TrimtabError):
        return [Problem("", str(error), str(error))]
    return list(getattr(error, "problems", ())) or [placed_problem("", error)]


def begins(call: object) -> None:
    """Assert that a call goes through, or that its run gets to its first step."""
    try:
        assert callable(call)
        call()
    except BegunError:
        pass


def test_there_are_54() -> None:
    assert len(FROM_PYTHON) + len(WARNED) == 33
    assert len(AT_THE_COMMAND_LINE) == 21


@pytest.mark.parametrize("mistake", FROM_PYTHON, ids=lambda mistake: mistake.what)
def test_from_python(mistake: Planted) -> None:
    assert callable(mistake.do)
    with pytest.raises((TrimtabError, TypeError)) as refused:
        mistake.do()
    told = problems_of(refused.value)
    assert [is_told(mistake, problem, str(refused.value)) for problem in told] == [True], told
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "mistake", [one for one in FROM_PYTHON if one.mend], ids=lambda mistake: mistake.what
)
@pytest.mark.filterwarnings("ignore:domain 'more'", "ignore:Data. ")
def test_a_hint_works_from_python(mistake: Planted) -> None:
    assert mistake.mend is not None
    begins(lambda: mistake.mend and mistake.mend(mistake.hint))


@pytest.mark.parametrize("mistake", WARNED, ids=lambda mistake: mistake.what)
def test_warned_of_before_the_first_step(mistake: Planted) -> None:
    with pytest.warns(UserWarning, match=mistake.got) as told:
        begins(mistake.do)
    words = " ".join(str(one.message) for one in told)
    assert mistake.place in words
    assert mistake.expected in words


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> list[Problem]:
    """The problems that a command tells on stderr, and on stdout as JSON where it is asked to."""
    as_json = ["--json"] * (argv[0] == "run")
    assert main([*argv, *as_json]) == 2
    streams = capsys.readouterr()
    lines = [
        line.removeprefix("trimtab: ") for line in streams.err.splitlines() if line.startswith("trimtab: ")
    ]
    if not as_json:
        assert streams.out == ""
        return [placed_problem("", line) for line in lines]
    told = [Problem(**one) for one in json.loads(streams.out)["problems"]]
    assert [str(one) for one in told] == lines
    return told


@pytest.mark.parametrize("mistake", AT_THE_COMMAND_LINE, ids=lambda mistake: mistake.what)
def test_at_the_command_line(mistake: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(mistake.do, list)
    told = refused(mistake.do, capsys)
    assert [is_told(mistake, problem) for problem in told] == [True], told
    assert list(Path("runs").glob("*")) == []


@pytest.mark.parametrize(
    "mistake", [one for one in AT_THE_COMMAND_LINE if one.mend], ids=lambda one: one.what
)
def test_a_hint_works_at_the_command_line(mistake: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    assert mistake.mend is not None
    assert mistake.mend(mistake.hint) == 0


@pytest.mark.parametrize(
    "mistake", [one for one in AT_THE_COMMAND_LINE if one.do[:2] == ["run", "my.yaml"] and "--out" not in one.do],
    ids=lambda one: one.what,
)  # fmt: skip
def test_check_tells_what_a_run_would(mistake: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    """Mistakes in the data too, with their key."""
    assert isinstance(mistake.do, list)
    assert main(["check", *mistake.do[1:], "--json"]) == 2
    (problem,) = (Problem(**one) for one in json.loads(capsys.readouterr().out)["problems"])
    assert is_told(mistake, problem), problem
    assert problem.where.startswith(mistake.do[2].removeprefix("--").partition(".")[0])
