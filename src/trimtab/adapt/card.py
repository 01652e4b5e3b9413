"""Model card of a fine-tuned model: the verdict on every domain, how it was trained, how to load it, and its limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from trimtab.adapt.record import RunRecord, domain_of
from trimtab.adapt.units import groups_read, records_read, unit_notes
from trimtab.models.save import HERE
from trimtab.report.formats import NOTHING, fixed, missing, printable, span
from trimtab.runs.environment import versions

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_MARKS = re.compile(r"[\\`*|~<>\[\]]|^#|^[+-](?= )")
_PAPER = "[DynaMiCS](https://arxiv.org/abs/2605.10770)"


def model_card(result: RunRecord, verdict: str, *, adapter: bool) -> str:
    """Model card in Markdown, with the fields that the hub reads at its head; all of it from the result.

    Args:
        result: of the run.
        verdict: sentences about it.
        adapter: whether the folder holds an adapter, not a whole model.

    Returns:
        The text; `trimtab.models.save.HERE` stands for where the model is loaded from.
    """
    base = base_name(result)
    head: dict[str, Any] = {"base_model": base} if on_the_hub(base) else {}
    head |= {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    head["tags"] = ["trimtab", "constrained-fine-tuning", *(["lora"] if adapter else [])]
    shown = printable(base if on_the_hub(base) else Path(base).name)
    title = f"{_escaped(shown) or 'A model'} fine-tuned under constraints"
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    return template.format(
        head=yaml.safe_dump(head, sort_keys=False).rstrip(),
        title=title,
        verdict=_escaped(verdict),
        rows="\n".join(_rows(result)),
        load=_loading(base, result.config, adapter=adapter),
        how="\n".join(f"- {line}" for line in _how(result, shown)),
        limits="\n".join(f"- {line}" for line in _limits(result)),
    )


def base_name(result: RunRecord) -> str:
    """The name of the base model in the run's config: of the hub, of a folder or of a class; "" where it has none."""
    name = result.config.get("model")
    return name.removeprefix("hf:") if isinstance(name, str) else ""


def on_the_hub(name: str) -> bool:
    """Whether a name can be one of the hub, and is none of a folder here."""
    return bool(_HUB_NAME.fullmatch(name)) and not Path(name).exists()


def _rows(result: RunRecord) -> Iterator[str]:
    counts, groups = records_read(result), groups_read(result, "test")
    counted = {
        name: f"{n}{f' in {groups[name]} groups' if name in groups else ''}" for name, n in counts.items()
    }
    for row in result.final.to_dict("records"):
        kept = NOTHING if missing(row["kept"]) else ("yes" if row["kept"] else "**no**")
        cells = (
            *(row["domain"], row["role"], fixed(row["tolerance"]), fixed(row["change"], signed=True)),
            span(row["change_low"], row["change_high"], signed=True),
            counted.get(row["domain"], NOTHING),
        )
        yield f"| {' | '.join([*map(_escaped, cells), kept])} |"


def _loading(base: str, config: Mapping[str, Any], *, adapter: bool) -> str:
    kind, package = (
        ("AutoPeftModelForCausalLM", "peft") if adapter else ("AutoModelForCausalLM", "transformers")
    )
    lines = [f"from {package} import {kind}", "from transformers import AutoTokenizer", ""]
    if not adapter:
        lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    model = f'{kind}.from_pretrained("{HERE}", dtype="auto")'
    if adapter and (held := _quantization(config)):
        lines[1] = lines[1].replace("AutoTokenizer", "AutoTokenizer, BitsAndBytesConfig")
        settings = ", ".join(f"{name}={value!r}" for name, value in held.items())
        lines.append(f"quantization = BitsAndBytesConfig({settings})")
        dtype = config.get("dtype") or "auto"
        model = model.replace(', dtype="auto"', f', dtype="{dtype}", quantization_config=quantization')
    if adapter and not (on_the_hub(base) or Path(base).is_dir() or _HUB_NAME.fullmatch(f"x/{base}")):
        lines[0] = "from peft import PeftModel"
        model = f'PeftModel.from_pretrained(base, "{HERE}")  # base: the model that was fine-tuned'
    return "\n".join([*lines, f"model = {model}", f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")'])


def _quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of `BitsAndBytesConfig` for the base model: those of its module, else those that `load` chooses."""
    if (held := config.get("quantization")) or not config.get("load_in_4bit"):
        return _mapping(held)
    chosen = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return chosen | ({"bnb_4bit_compute_dtype": config["dtype"]} if config.get("dtype") else {})


def _bits(config: Mapping[str, Any]) -> int | None:
    """Bits of the base model's linear maps; None where they are not quantised."""
    held = _quantization(config)
    return next((bits for bits in (4, 8) if held.get(f"load_in_{bits}bit")), None)


def _how(result: RunRecord, base: str) -> Iterator[str]:
    """Base, adapter, mixer, steps, seed and version, as far as the run's config says them."""
    config = result.config
    mixer, fit, adapter = (_mapping(config.get(name)) for name in ("mixer", "fit", "adapter"))
    if base:
        yield f"Base model: `{base.replace('`', chr(39))}`"
    if adapter:
        rank, alpha = adapter.get("r"), adapter.get("lora_alpha", adapter.get("alpha"))
        held = f", on the base model in {bits} bits" if (bits := _bits(config)) else ""
        yield f"Trained: a LoRA of rank {rank}, alpha {2 * rank if alpha is None and rank else alpha}{held}"
    names = ", ".join(_escaped(domain_of(str(name))) for name in result.mixtures.columns[1:])
    yield f"Trained on: {names}"
    kind = _escaped(mixer.get("kind", result.label))
    yield f"Mixture chosen by: {kind}{f', {_PAPER}' if kind == 'dynamics' else ''}"
    steps = f"{result.cost.training_steps}; the weights are those of step {result.step}"
    settings = [f"{name} {fit[name]}" for name in ("batch_size", "seq_len", "lr") if name in fit]
    yield f"Optimiser steps: {steps}{' (' if settings else ''}{', '.join(settings)}{')' if settings else ''}"
    if "seed" in config:
        yield f"Seed: {config['seed']}"
    yield f"Made with trimtab {versions().get('trimtab', 'of unknown version')}"


def _limits(result: RunRecord) -> Iterator[str]:
    yield from map(_escaped, unit_notes(result))
    yield (
        "Constraints are judged on these test records. “Kept” means that the estimate is within the tolerance, not "
        "that its interval is. Other data of the same kind may rise more."
    )
    over = " or, where they have groups, over groups" if groups_read(result, "test") else ""
    yield f"Intervals are over records{over}. They do not cover the training seed, of which there is one."
    if bits := _bits(result.config):
        yield f"Losses are those on the base model in {bits} bits. With the adapter on the unquantised one they differ."
    yield "Nothing else was measured: no other domain, and no behaviour beyond the loss."


def _escaped(text: object) -> str:
    """Text on one line that Markdown shows as it is: names that others chose make no heading, link, cell or HTML."""
    return _MARKS.sub(r"\\\g<0>", printable(text))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
