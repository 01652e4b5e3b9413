"""The card of a fine-tuned model: what its head tells the hub, and that its numbers are the result's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_results import MakeResult
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.models.save import HERE


def head(card: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(card.split("---")[1])
    return read


def configured(result: FinetuneResult, **config: Any) -> FinetuneResult:
    return replace(result, config={**result.config, **config})


def test_its_head_is_what_the_hub_reads(result_of: MakeResult) -> None:
    card = configured(result_of(), model="someone/base", adapter=None).card()
    assert card.startswith("---\n")
    expected = {
        "base_model": "someone/base",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    assert head(card) == {**expected, "tags": ["trimtab", "constrained-fine-tuning"]}
    lora = configured(result_of(), model="hf:someone/base", adapter={"r": 4, "alpha": None})
    assert head(lora.card())["base_model"] == "someone/base"
    assert head(lora.card())["library_name"] == "peft"
    assert "a LoRA of rank 4, alpha 8" in lora.card()
    assert head(lora.card(adapter=False))["library_name"] == "transformers"


def test_a_folder_is_no_base_model_of_the_hub(result_of: MakeResult, tmp_path: Path) -> None:
    card = configured(result_of(), model=str(tmp_path / "my-base")).card()
    assert "base_model" not in head(card)
    assert "# my-base fine-tuned under constraints" in card
    assert str(tmp_path) not in card
    assert "# A model fine-tuned under constraints" in result_of().card()


def test_every_number_of_its_table_is_the_results(result_of: MakeResult) -> None:
    result = result_of(pulls=(-0.18, -0.1, 0.031, 0.074, 0.027, 0.012))
    result = replace(result, final=result.final.assign(units=range(20, 26)))
    rows = [line.strip("| ").split(" | ") for line in result.card().splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(result.final)
    for cells, row in zip(rows, result.final.to_dict("records"), strict=True):
        domain, role, tolerance, change, interval, records, kept = (cell.replace("−", "-") for cell in cells)
        assert (domain, role, int(records)) == (row["domain"], row["role"], row["units"])
        assert float(change) == pytest.approx(row["change"], abs=5e-4)
        ends = [float(end) for end in interval.split(" to ")]
        assert ends == pytest.approx([row["change_low"], row["change_high"]], abs=5e-4)
        assert kept == {None: "–", True: "yes", False: "**no**"}[row["kept"]]
        assert tolerance == ("–" if role == "target" else "0.050")
    assert "not kept: docstrings (+0.074 nats, tolerance 0.050)" in result.card()


def test_it_says_how_it_was_trained_loaded_and_what_it_is_not(result_of: MakeResult) -> None:
    result = replace(result_of(), final=result_of().final.assign(units=7))
    card = result.card()
    assert "Optimiser steps: 320; the weights are those of step 177 (batch_size 8, lr 0.0001)" in card
    assert "Trained on: headers, decimals, python, docstrings" in card
    assert "[DynaMiCS](https://arxiv.org/abs/2605.10770)" in card
    assert "Seed: 0" in card
    assert f'AutoModelForCausalLM.from_pretrained("{HERE}", dtype="auto")' in card
    assert "Judged on fewer than 30 records (a packed sequence counts as one): python test (7)" in card
    assert "do not cover the training seed" in card
    assert "license" not in card


def test_odd_names_break_no_table_and_no_head(result_of: MakeResult) -> None:
    names = ("a|b", "{c}", "---", "x\ny", "m", "n")
    result = configured(result_of(train=names[:4], evaluate=names), model="{base}\n---\ntags: [evil]")
    card = result.card()
    assert head(card)["tags"] == ["trimtab", "constrained-fine-tuning"]
    assert r"| a\|b | target |" in card
    assert (
        len([line for line in card.splitlines() if re.match(r"\| .* \| (target|constraint) \|", line)]) == 6
    )


@pytest.mark.parametrize("config", [{}, {"mixer": 3, "fit": None, "adapter": True}])
def test_a_config_of_the_callers_says_less(result_of: MakeResult, config: Any) -> None:
    card = replace(result_of(), config=config).card()
    assert "Optimiser steps: 320" in card


def test_names_are_no_markdown_html_or_escape_sequence(result_of: MakeResult) -> None:
    names = (
        "x\n## Injected\n<script>1</script>",
        "<img src=x onerror=1>",
        "[l](javascript:1)",
        "`c`",
        "*m*",
        "n",
    )
    result = result_of(pulls=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), train=names[:4], evaluate=names)
    result = replace(result, label="# h\n\x1b[31m<b>", final=result.final.assign(units=7))
    card = configured(result, model="ev`il").card()
    assert not re.search(r"(?<!\\)<(?!this folder>)", card)
    assert "Base model: `ev'il`" in card
    assert "\x1b" not in card
    assert "\x1b" not in str(result)
    titles = [line for line in card.splitlines() if line.startswith("#")]
    assert [title.split()[0] for title in titles] == ["#", "##", "##", "##", "##"]
    assert r"\[l\](javascript:1)" in card
