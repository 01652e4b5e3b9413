"""What base and tuned model write after held-out prompts: the right ones, of the right weights, at no one's expense."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from finetune_results import MakeResult
from page_script import without_script
from trimtab import Domain, Fit, Uniform, finetune
from trimtab.adapt import completions as told
from trimtab.adapt import run as runs
from trimtab.adapt.completions import GOES_ON, HeldOut, completed, held_out
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.record import COMPLETION_COLUMNS
from trimtab.errors import CheckpointError
from trimtab.models.load import Model
from worlds import QUICK, evaluated, model, texts, tokenizer, trainable

FIT = replace(QUICK, steps=30, lr=3e-2)
MIXER = Uniform(targets=["math"], constraints={"web": 9.0})
DOMAINS = {"train": trainable(), "evaluate": evaluated()}


class AbortError(Exception):
    """A stop that no code of ours expects."""


def run(out: Path | None, fit: Fit = FIT) -> tuple[Model, FinetuneResult]:
    handle = model(dropout=0.1)
    return handle, finetune(handle, **DOMAINS, mixer=MIXER, fit=fit, out=out, progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model, FinetuneResult]:
    """A run that nothing stopped, with its folder and the model that it left."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return (out, *run(out))


def greedy(handle: Model, ids: list[int], room: int) -> str:
    """The most likely token again and again, each time by a forward pass over the whole text."""
    row, end = list(ids), tokenizer().eos_token_id
    for _ in range(room):
        with torch.no_grad():
            token = int(handle.module(input_ids=torch.tensor([row])).logits[0, -1].argmax())
        if token == end:
            break
        row.append(token)
    return tokenizer().decode(row[len(ids) :]) + GOES_ON * (len(row) - len(ids) == room)


def spelled(text: str) -> str:
    """A text as the tokenizer writes it, which has no rule for the spaces between tokens."""
    return str(tokenizer().decode(tokenizer()(text)["input_ids"]))


def test_prompts_are_the_first_halves_of_the_first_test_texts() -> None:
    found = held_out({"math": DOMAINS["train"]["math"]}, model(), seq_len=64)
    assert [one.domain for one in found] == ["math"] * told.PROMPTS
    for one, text in zip(found, texts("math", "test", 8), strict=False):
        ids = [*tokenizer()(text)["input_ids"], tokenizer().eos_token_id]
        start = min(len(ids) // 2, 64 - 32)  # the model has 64 positions, of which half are for what is new
        assert list(one.ids) == ids[:start]
        assert one.prompt == tokenizer().decode(ids[:start])
        rest = tokenizer().decode(ids[start : start + 32], skip_special_tokens=True)
        assert one.reference == rest + GOES_ON * (len(ids) - start > 32)


def test_a_prompt_with_a_completion_is_asked_as_it_is() -> None:
    records = [{"prompt": "1+1=", "completion": "2"}, {"prompt": "", "completion": "no prompt"}]
    (one,) = held_out({"sums": Domain("sums", test=records)}, model(), seq_len=64)
    assert (one.prompt, one.reference) == (spelled("1+1="), "2")
    assert list(one.ids) == tokenizer()("1+1=")["input_ids"]


@pytest.mark.parametrize(("seq_len", "asked", "answered"), [(128, "cd", "second"), (24, "ab", "first")])
def test_a_conversation_is_asked_up_to_the_last_answer_that_fits(
    seq_len: int, asked: str, answered: str
) -> None:
    turns = [("user", "ab"), ("assistant", "first"), ("user", "cd"), ("assistant", "second")]
    talk = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (one,) = held_out({"talk": Domain("talk", test=[talk])}, roomy(), seq_len=seq_len)
    assert one.prompt.endswith(f"{spelled(asked + chr(10) + chr(10) + 'Assistant: ')}")
    assert one.reference == spelled(answered)
    assert (spelled("first") in one.prompt) == (answered == "second")


def test_a_record_that_leaves_no_room_is_passed_over() -> None:
    long, short = {"prompt": "1" * 40, "completion": "b"}, {"prompt": "1" * 5, "completion": "b"}
    domain = Domain("mixed", test=[long, short])
    assert [len(one.ids) for one in held_out({"mixed": domain}, model(), seq_len=64)] == [5]
    assert not held_out({"mixed": domain}, model(), seq_len=5)


def roomy() -> Model:
    """The tiny model with positions for much longer texts; its rotations have no table."""
    handle = model()
    handle.module.config.max_position_embeddings = 4096
    return handle


def test_long_prompts_show_both_ends() -> None:
    domain = Domain("long", test=[{"prompt": "1" * 300 + "2" * 300, "completion": "3"}])
    (one,) = held_out({"long": domain}, roomy(), seq_len=1024)
    assert len(one.ids) == 600
    assert one.prompt.split(GOES_ON) == [spelled("1" * 80) + " ", "  " + spelled("2" * 80)]


def test_before_is_what_the_base_model_writes_and_after_what_the_tuned_one_does(
    whole: tuple[Path, Model, FinetuneResult],
) -> None:
    """By hand, one forward pass a token, from weights that no run has touched and from those that it left."""
    _, tuned, result = whole
    assert result.step > 0
    shown = result.completions
    prompts = held_out({**DOMAINS["train"], **DOMAINS["evaluate"]}, model(), FIT.seq_len)
    assert list(shown["domain"]) == [one.domain for one in prompts]
    tuned.module.eval()
    base = model()
    base.module.eval()
    for row, one in zip(shown.to_dict("records"), prompts, strict=True):
        assert row["prompt"] == one.prompt
        assert row["before"] == greedy(base, list(one.ids), one.room)
        assert row["after"] == greedy(tuned, list(one.ids), one.room)
    assert (shown["before"] != shown["after"]).any()


def test_before_a_lora_is_the_base_model_without_it() -> None:
    handle, base = model(adapter={"r": 4}), model()
    result = finetune(handle, **DOMAINS, mixer=MIXER, fit=FIT, progress=False)
    assert result.step > 0
    prompts = held_out({**DOMAINS["train"], **DOMAINS["evaluate"]}, base, FIT.seq_len)
    handle.module.eval()
    base.module.eval()
    before = [greedy(base, list(one.ids), one.room) for one in prompts]
    after = [greedy(handle, list(one.ids), one.room) for one in prompts]
    assert list(result.completions["before"]) == before
    assert list(result.completions["after"]) == after
    assert before != after


def test_completions_change_no_number_and_no_weight(
    whole: tuple[Path, Model, FinetuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, tuned, result = whole
    monkeypatch.setattr("trimtab.adapt.finetune.held_out", lambda *_: [])
    handle, without = run(tmp_path / "run")
    assert without.completions.empty
    assert "completions" in result.cost.seconds
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()
    assert without.mixtures.equals(result.mixtures)
    assert without.final.equals(result.final)
    assert _counts(without) == _counts(result)
    for key, value in tuned.module.state_dict().items():
        assert torch.equal(handle.module.state_dict()[key], value)


def _counts(result: FinetuneResult) -> tuple[float, ...]:
    cost = result.cost
    return cost.training_steps, cost.evaluation_batches, cost.training_multiple, cost.all_in_multiple


@pytest.mark.parametrize("call", [1, 2])
def test_a_run_killed_while_it_writes_goes_on_to_the_same_texts(
    call: int, whole: tuple[Path, Model, FinetuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def killed(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise AbortError
        return completed(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "completed", killed)
        with pytest.raises(AbortError):
            run(tmp_path / "run")
    assert not (tmp_path / "run/artifacts/result.json").exists()
    handle, result = run(tmp_path / "run")
    assert result.completions.equals(whole[2].completions)
    for key, value in whole[1].module.state_dict().items():
        assert torch.equal(handle.module.state_dict()[key], value)


def test_they_are_read_back_with_the_result(whole: tuple[Path, Model, FinetuneResult]) -> None:
    assert FinetuneResult.load(whole[0]).completions.equals(whole[2].completions)
    assert "completions" not in json.loads(whole[2].to_json())["runs"][0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda texts: texts["rows"][0].__setitem__(3, 7),
        lambda texts: texts["columns"].reverse(),
        lambda texts: texts["rows"][0].pop(),
    ],
)
def test_damaged_completions_are_refused(
    spoil: Any, whole: tuple[Path, Model, FinetuneResult], tmp_path: Path
) -> None:
    value = json.loads((whole[0] / "artifacts/result.json").read_text())
    spoil(value["completions"])
    (tmp_path / "result.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="damaged"):
        FinetuneResult.load(tmp_path / "result.json")


def test_a_result_of_an_earlier_version_has_none(
    whole: tuple[Path, Model, FinetuneResult], tmp_path: Path
) -> None:
    value = json.loads((whole[0] / "artifacts/result.json").read_text())
    del value["completions"]
    (tmp_path / "result.json").write_text(json.dumps(value))
    result = FinetuneResult.load(tmp_path / "result.json")
    assert result.completions.empty
    assert tuple(result.completions.columns) == COMPLETION_COLUMNS
    assert "What the model writes" not in without_script(FinetuneResult.page([result]))


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        (None, "No completions are shown: the model, a LlamaForCausalLM, has no generate()."),
        ("fails", "No completions are shown: the model's generate() failed (ZeroDivisionError: no words)."),
    ],
)
def test_a_model_that_writes_nothing_is_trained_all_the_same_and_says_so(
    spoiled: str | None, why: str, whole: tuple[Path, Model, FinetuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("no words")

    handle = model(dropout=0.1)
    monkeypatch.setattr(type(handle.module), "generate", fails if spoiled else None)
    result = finetune(handle, **DOMAINS, mixer=MIXER, fit=FIT, progress=False)
    assert why in result.notes
    assert result.completions.empty
    assert result.final.equals(whole[2].final)
    for key, value in whole[1].module.state_dict().items():
        assert torch.equal(handle.module.state_dict()[key], value)


def test_double_precision_is_read_one_prompt_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = told.continuations

    def counted(*arguments: Any, batch_size: int, **options: Any) -> Any:
        seen.append(batch_size)
        return original(*arguments, batch_size=batch_size, **options)

    monkeypatch.setattr(told, "continuations", counted)
    prompts = [HeldOut("math", "", "", (1, 2, 3)[:n], 4) for n in (1, 2, 3)]
    single, _ = completed(model(), prompts, 16)
    double, why = completed(model(dtype=torch.float64), prompts, 16)
    assert seen == [16, 1]
    assert (single, why) == (double, "")


ROWS = [
    ("headers", "int main", "() {\n}", "<b>zero</b>", "() { return 0; }"),
    ("headers", "struct", " node;", " same …", " same …"),
    ("python", "def f", "(x):", "ma", "(x, y): …"),
]


def written(result: FinetuneResult, rows: list[tuple[str, ...]] = ROWS) -> FinetuneResult:
    return replace(result, completions=pd.DataFrame(rows, columns=list(COMPLETION_COLUMNS), dtype=object))


def part(page: str, title: str) -> str:
    """The text of one folded section of a page, with its tags."""
    found = re.search(
        rf"<details id=[^>]*>\s*<summary><h\d>{re.escape(title)}</h\d>.*?</details>", page, re.S
    )
    assert found, title
    return found[0]


@pytest.mark.usefixtures("undrawn")
def test_the_page_has_before_and_after_beside_each_other(result_of: MakeResult) -> None:
    shown = part(
        without_script(FinetuneResult.page([written(result_of())])), "What the model writes, before and after"
    )
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", shown, re.S)[1:]
    cells = [[html.unescape(one) for one in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]
    assert cells[0] == ["headers", "int main", "() {↵ }", "<b>zero</b>", "() { return 0; }"]
    assert "<b>zero" not in shown
    assert [row[0] for row in cells] == ["headers", "headers", "python"]
    text = html.unescape(shown)
    assert "n = 3 held-out prompts: 2 of headers, 1 of python." in text
    assert "None that fits was found in decimals, docstrings, metadata, tests." in text
    assert "After: the checkpoint of step 177. For 2 of 3 the two texts differ." in text


@pytest.mark.usefixtures("undrawn")
def test_base_weights_that_came_back_are_shown_once(result_of: MakeResult) -> None:
    page = without_script(FinetuneResult.page([written(result_of(status="no gain"))]))
    shown = part(page, "What the model writes")
    assert "so before and after are one" in shown
    assert shown.count('<th scope="col"') == 4
    assert "before and after</h" not in page


@pytest.mark.usefixtures("undrawn")
def test_runs_are_compared_on_the_same_prompts(result_of: MakeResult) -> None:
    other = [(*row[:4], f"other {k}") for k, row in enumerate(ROWS)]
    asked = [("headers", "another prompt", *row[2:]) for row in ROWS]
    results = [
        written(result_of()),
        written(result_of("Uniform"), other),
        written(result_of("Elsewhere"), asked),
        written(result_of("Base", status="no gain")),
    ]
    page = html.unescape(without_script(FinetuneResult.page(results)))
    shown = part(page, "What the models write")
    assert "2 runs that left tuned weights are asked 2 prompts, one per domain." in shown
    assert "headers. Prompt: int main" in shown
    rows = re.findall(r'<th scope="row"[^>]*>(.*?)</th><td[^>]*>(.*?)</td>', shown.replace("\n", ""))
    assert rows[:4] == [
        ("how the record goes on", "() {↵ }"),
        ("base model", "<b>zero</b>"),
        ("DynaMiCS", "() { return 0; }"),
        ("Uniform", "other 0"),
    ]
    assert ("Uniform", "other 2") in rows
    assert not re.search(r"Elsewhere|Base<", shown)
    assert page.count("What the model writes, before and after</h") == 1


def test_of_many_runs_the_first_are_compared_and_counted(result_of: MakeResult) -> None:
    results = [written(result_of(f"Run {k}", probes=False)) for k in range(10)]
    from trimtab.adapt.dynamics.writing import compared_completions

    (section,) = compared_completions(results)
    told = section.blocks[0].text  # type: ignore[union-attr]
    assert told.startswith(
        "10 runs that left tuned weights are asked 2 prompts, one per domain. Shown are the first 8"
    )
    assert len(section.blocks[1].frame) == 2 + 8  # type: ignore[union-attr]
    assert not list(compared_completions(results[:1]))
