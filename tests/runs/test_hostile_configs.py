"""Configs that are slips, damage or attacks: each is told with what was got and expected, soon, and none escapes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import hostile
from trimtab.adapt.dynamics.job import DynamicsConfig
from trimtab.adapt.record import domain_of, share_column
from trimtab.cli.jobs import read_job
from trimtab.cli.main import main
from trimtab.errors import ConfigProblems
from trimtab.runs.config import read_config, read_mapping
from trimtab.runs.files import ANY, DIGIT_LIMIT, MOST, VALUE_LIMIT, bound_problems, dump_yaml, load_yaml
from trimtab.runs.sweep import MOST_CELLS, expand
from trimtab.seeds import BEYOND
from trimtab.systems import recipes, system_of
from trimtab.train.settings import evaluation_steps

SEED = int(os.environ.get("TRIMTAB_FUZZ_SEED", "1"))


def bomb(lines: int, width: int = 10) -> str:
    """Text of a few lines whose aliases stand for width ** lines values."""
    first = f"a0: &a0 [{', '.join('x' * width)}]"
    aliases = (f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, lines))
    return "\n".join([first, *aliases])


MERGES = "\n".join(
    ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 8))]
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2", "given twice"),
        ("{1: a, '1': b}", "given twice"),
        ("{0x10: a, 16: b}", "given twice"),
        ("{true: a, True: b}", "given twice"),
        ("{.nan: a, .NaN: b}", "given twice"),
        ("? [a]\n: 1", "a sequence as a key"),
        ("? {a: b}\n: 1", "a mapping as a key"),
        ("x: &k [1]\n*k : 1", "a sequence as a key"),
        ("seed: " + "9" * 4301, f"more than {DIGIT_LIMIT} digits"),
        ("seed: 0x" + "f" * 4301, f"more than {DIGIT_LIMIT} digits"),
        ("seed: !!int " + "9" * 4301, f"more than {DIGIT_LIMIT} digits"),
        ("model: &a [*a]", "inside what it stands for"),
        ("model: &a {b: {c: *a}}", "inside what it stands for"),
        ("x: &x\n  <<: *x", "inside what it stands for"),
        ("a: " + "[" * 1000 + "]" * 1000, "deeper than 100"),
        ("a: " + "{a: " * 1000 + "}" * 1000, "deeper than 100"),
        ("a:\n" + "\n".join(" " * n + "a:" for n in range(1, 300)), "deeper than 100"),
        ("a: " + "[" * 50_000, "deeper than 100"),
        ('"\\uD800": 1', "half a character"),
        ('a: "\\uDC00\\uD800"', "half a character"),
        (bomb(9), f"more than {VALUE_LIMIT:,} values"),
        (bomb(30), f"more than {VALUE_LIMIT:,} values"),
        (MERGES, f"more than {VALUE_LIMIT:,} values"),
        ("a: &a " + "x" * 500_000 + "\nb: [" + "*a, " * 50 + "]", f"more than {VALUE_LIMIT:,} values"),
        ("a: !!timestamp 2026-13-45", "tag"),
        ("a: !!timestamp 2026-01-01", "tag"),
        ("a: !!binary aGk=", "tag"),
        ("a: !!set {a, b}", "tag"),
        ("a: !!omap [a: 1]", "tag"),
        ("a: !!python/object/apply:os.system ['true']", "tag"),
        ("a: !!python/name:os.system", "tag"),
        ("a: !!int x", "no int"),
        ("a: !!int ''", "no int"),
        ("a: !!float y", "no float"),
        ("a: !!bool maybe", "no bool"),
        ('a: "\\UFFFFFFFF"', "cannot be read"),
        ("%YAML 1." + "9" * 5000 + "\n--- a", "cannot be read"),
        ("<<: 5", "merging"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_yaml_out_of_bounds_is_told(text: str, told: str) -> None:
    with hostile.limit(10), pytest.raises(yaml.YAMLError, match=told):
        load_yaml(text)


def test_yaml_within_bounds_is_read() -> None:
    assert load_yaml('a: "\\uD83D\\uDE00"') == {"a": "😀"}
    assert load_yaml("seed: 0x_") == {"seed": "0x_"}
    assert load_yaml("seed: 0xf_f") == {"seed": 255}
    assert load_yaml("a: " + "[" * 98 + "]" * 98)
    assert load_yaml(f"a: {'9' * DIGIT_LIMIT}") == {"a": int("9" * DIGIT_LIMIT)}
    merged = (
        "base: &b {x: 1}\na: {b: &m {<<: *b, x: 2}}\ntop: {<<: *m}"  # the alias is met before its mapping
    )
    assert load_yaml(merged) == {"base": {"x": 1}, "a": {"b": {"x": 2}}, "top": {"x": 2}}
    shared = [1, 2]
    assert load_yaml(dump_yaml({"a": shared, "b": shared})) == {"a": shared, "b": shared}


def test_a_file_is_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: [" + "x, " * 3000 + "]")
    assert len(read_mapping(path)["a"]) == 3000
    with pytest.raises(ConfigProblems, match=r"line 1, column .*: got more than 2,000 values"):
        read_mapping(path, most=2000)
    for name, put in hostile.files(b"system: lexicon\ncounts: a.csv\n", bits=4):
        put(path)
        assert hostile.outcome(lambda: read_mapping(path), seconds=5), name


def test_a_mapping_from_python_may_hold_itself() -> None:
    endless: dict[str, Any] = {"model": "m"}
    endless["train"] = endless
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    for content in (endless, {"model": deep}, {"seed": 10**5000}):
        with pytest.raises(ConfigProblems, match="got values that cannot be written"):
            read_config(content, DynamicsConfig)


# ---- whole configs ---------------------------------------------------------------------------------------------------
DYNAMICS: dict[str, Any] = {
    "system": "dynamics",
    "model": "m",
    "train": {"new": "new.jsonl", "old": "old.jsonl"},
    "evaluate": {"kin": "old.jsonl"},
    "targets": ["new"],
    "constraints": {"old": 0.1},
    "mixer": {"kind": "feedback", "every": 4},
    "compare": {"replay": {"kind": "replay", "share": 0.05}},
    "fit": {"steps": 20, "batch_size": 4, "seq_len": 32, "lr": 1e-3, "betas": [0.9, 0.99], "eval_points": 4},
    "adapter": {"r": 4, "targets": ["q_proj"], "seed": 0},
    "device": "cpu",
    "seed": 0,
    "jobs": 1,
}
OTHERS: dict[str, dict[str, Any]] = {
    "steering": {
        "system": "steering",
        "model": "m",
        "source": "new.jsonl",
        "target": "old.jsonl",
        "estimator": {"kind": "lineas", "sites": "pre_mlp_norm"},
        "prompts": ["w1"],
        "strengths": [0, 1],
        "seed": 0,
    },
    "expertlens": {
        "system": "expertlens",
        "model": "m",
        "concepts": "new.jsonl",
        "sites": ["*"],
        "top": 4,
        "seed": 0,
    },
    "forgetting": {
        "system": "forgetting",
        "models": {"a": "m"},
        "domain": "new.jsonl",
        "pretraining": "old.jsonl",
        "tokens": [100, 200],
        "fit": {"steps": 4},
        "n_boot": 4,
    },
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the configs name; no model is loaded by a check."""
    monkeypatch.chdir(tmp_path)
    for name in ("new.jsonl", "old.jsonl"):
        Path(name).write_text('{"text": "a b c"}\n' * 4)
    Path("m").mkdir()
    Path("m/config.json").write_text('{"vocab_size": 51}')
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    return tmp_path


def variants() -> Iterator[tuple[str, bytes]]:
    draw = random.Random(SEED)
    for name, config in {"dynamics": DYNAMICS, **OTHERS}.items():
        texts = list(hostile.json_texts(config, write=hostile.yaml_flow, each=12, seed=SEED))
        for what, text in draw.sample(texts, min(len(texts), 130 if name == "dynamics" else 60)):
            yield f"{name}: {what}", text.encode("utf-8", "surrogatepass")


def told(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of a command, on streams that cannot carry half a character."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        code = main(arguments)
    for stream in streams:
        stream.flush()
    return code, "".join(stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("files")
def test_no_variant_of_a_config_escapes() -> None:
    tried = 0
    for name, text in variants():
        Path("c.yaml").write_bytes(text)
        with hostile.limit(10):
            code, said = told(["check", "c.yaml"])
        assert code in (0, 2), name
        assert code == 0 or ("got" in said and "expected" in said), f"{name}: {said[:300]}"
        tried += 1
    assert tried >= 300


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_recipe_that_is_spoilt_is_told(name: str) -> None:
    good = recipes()[name].path.read_bytes()
    for what, put in list(hostile.files(good, bits=3, seed=len(name)))[:: 1 + len(name) % 3]:
        put(Path("c.yaml"))
        with hostile.limit(10):
            code, said = told(["check", "c.yaml"])
        assert code == 0 or ("got" in said and "expected" in said), f"{what}: {said[:300]}"


def where(change: dict[str, Any]) -> list[str]:
    with contextlib.suppress(ConfigProblems):
        read_job({**DYNAMICS, **change}, {})
        return []
    with pytest.raises(ConfigProblems) as raised:
        read_job({**DYNAMICS, **change}, {})
    assert all(problem.got and problem.expected for problem in raised.value.problems)
    return [problem.where for problem in raised.value.problems]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"model": "x" * 5000}, ["model"]),
        ({"train": {"new": "y" * 5000, "old": "~nosuchuser/x"}}, ["train.new", "train.old"]),
        ({"model": "a\0b", "evaluate": {"kin": "loop"}}, ["evaluate.kin", "model"]),
        ({"model": "two words"}, ["model"]),
        ({"model": "hf:gpt2"}, ["model"]),
        ({"train": {"new": "pipe", "old": "/dev/zero"}}, ["train.new", "train.old"]),
        ({"train": {"new": "hf:", "old": "old.jsonl"}}, ["train.new"]),
        ({"train": {" ": "new.jsonl", "old": "old.jsonl"}, "targets": [" "]}, ["train"]),
        ({"compare": {"\t": {"kind": "uniform"}}}, ["compare"]),
        ({"mixer": {"kind": []}}, ["mixer.kind"]),
        ({"mixer": {"kind": {"a": 1}}, "seed": -1}, ["mixer.kind", "seed"]),
        ({"seed": 2**64}, ["seed"]),
        ({"seed": BEYOND}, ["seed"]),
        ({"adapter": {"seed": -5}}, ["adapter.seed"]),
        ({"device": "lab:nope", "seed": -1}, ["seed", "device"]),
        ({"device": "meta"}, ["device"]),
        ({"device": "cpu:0"}, []),
        ({"jobs": 10**9}, ["jobs"]),
        ({"fit": {"steps": 10**12, "eval_points": 10**12}}, ["fit.steps", "fit.eval_points"]),
        ({"fit": {"batch_size": 10**9, "seq_len": 10**30}}, ["fit.seq_len", "fit.batch_size"]),
        ({"mixer": {"kind": "dynamics", "blocks": 10**9}}, ["mixer.blocks"]),
        ({"mixer": {"kind": "dynamics", "schedule": 1}, "fit": {"steps": 10**7}}, ["mixer.schedule"]),
        ({"mixer": {"kind": "aioli", "rounds": 10**9, "sweeps": 10**9}}, ["mixer.rounds", "mixer.sweeps"]),
        ({"evaluate": {f"d{n}": "new.jsonl" for n in range(1001)}}, ["train and evaluate"]),
        ({"compare": {f"u{n}": {"kind": "uniform"} for n in range(101)}}, ["compare"]),
    ],
)  # fmt: skip
def test_what_could_not_run_is_told_with_its_key(change: dict[str, Any], expected: list[str]) -> None:
    assert where(change) == expected


@pytest.mark.usefixtures("files")
def test_a_device_of_another_machine_is_told_only_where_the_run_is_here() -> None:
    content = {**DYNAMICS, "device": "cuda:99"}
    with pytest.raises(ConfigProblems, match="device: got 'cuda:99', which is not on this machine"):
        read_job(content, {})
    read_job(content, {}, here=False)


def test_one_rule_for_seeds_and_sizes_in_every_system() -> None:
    for name in sorted(recipes()):
        content = read_mapping(recipes()[name].path)
        config = read_config(content, system_of(content).job_class())
        assert list(bound_problems(config)) == [], name
    wrong = read_config(
        {**OTHERS["forgetting"], "seeds": [0, -1], "seed": -2, "n_boot": ANY},
        system_of(OTHERS["forgetting"]).job_class(),
    )
    assert [problem.where for problem in bound_problems(wrong)] == ["seeds[1]", "n_boot", "seed"]


def test_what_a_check_counts_is_computed_and_not_listed() -> None:
    with hostile.limit(10):
        assert evaluation_steps(1000, 10**9) == (0, *range(16, 1001))
        assert len(evaluation_steps(10**15, 20)) == 21
        for mixer in ({"kind": "feedback", "every": 1}, {"kind": "gradient-alignment", "every": 1}):
            content = {**DYNAMICS, "mixer": mixer, "compare": {}, "fit": {"steps": MOST["steps"]}}
            config = read_config(content, DynamicsConfig)
            config.mixer.needs(config.fit, config.roles())
        assert list(config.problems())


def test_a_grid_is_counted_before_it_is_made() -> None:
    for axes in (["seed=0..999999999999"], [f"seed=0..{MOST_CELLS}"], ["a=0..999", "b=0..999"]):
        with hostile.limit(5), pytest.raises(ConfigProblems, match=f"cells, expected at most {MOST_CELLS:,}"):
            expand(axes)
    assert len(expand(["seed=0..99999999999999999999"])) == 1  # beyond 64 bits: text, which configs refuse
    assert len(expand([f"seed=1..{MOST_CELLS}"])) == MOST_CELLS


def test_a_domain_may_be_named_like_a_column() -> None:
    names = ["step", "step (share)", "step (share) (share)", "steps", "loss", "a (share)"]
    columns = [share_column(name) for name in names]
    assert [domain_of(column) for column in columns] == names
    assert len({"step", *columns}) == len(names) + 1


def test_keys_that_no_terminal_shows_are_told_by_their_escapes(files: Path) -> None:
    text = json.dumps({**DYNAMICS, "\x1b[31m\n": 1, "k" * 500: 1, "\u202e": 1})
    Path("c.yaml").write_text(text)
    code, said = told(["check", "c.yaml"])
    assert code == 2
    assert "\x1b" not in said
    assert "\\u001b[31m\\n" in said
    assert f"{'k' * 77}...\n" in said


@pytest.mark.parametrize("key", [None, float("nan"), True, 1.5, "a\ud800"])
@pytest.mark.parametrize("where", ["train", "evaluate", "constraints", "compare"])
def test_a_key_that_is_no_text_is_told_as_a_key(where: str, key: object) -> None:
    with pytest.raises(ConfigProblems) as caught:
        read_config({**DYNAMICS, where: {**DYNAMICS.get(where, {}), key: "x"}}, DynamicsConfig)
    assert [p.expected for p in caught.value.problems if p.got.endswith("as a key")] == ["text as a key"]


@pytest.mark.parametrize("value", ["a\ud800", {"path": "a\ud800"}])
def test_half_a_character_is_told_where_it_stands(value: object) -> None:
    with pytest.raises(ConfigProblems) as caught:
        read_config({**DYNAMICS, "train": {"new": value}, "evaluate": {}}, DynamicsConfig)
    assert any(problem.where.startswith("train.new") for problem in caught.value.problems)
