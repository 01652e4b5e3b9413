"""The card of a steering: what it is, where it acts and how to use it, as the hub shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trimtab.runs.environment import versions
from trimtab.runs.plain import to_json
from trimtab.steer.steering import Steering

LONG = 8
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def card(steering: Steering) -> str:
    """A model card in Markdown, with the fields that the hub reads at its head."""
    base = steering.base.name
    return "\n".join(
        [
            "---",
            yaml.safe_dump(_head(steering), sort_keys=False).rstrip(),
            "---",
            "",
            f"# A steering for {base}",
            "",
            "Elementwise affine maps on activations, learned from examples "
            "([arXiv 2503.10679](https://arxiv.org/abs/2503.10679)). At strength s in [0, 1] each site has",
            "`(1 - s) z + s (weight * z + shift)`; at 0 the model is untouched, bit by bit.",
            "",
            f"- Base model: `{base}` (its modules at the sites are checked when the steering is used)",
            f"- Made by: {_maker(steering)}",
            f"- Version: trimtab {versions().get('trimtab', 'unknown')}",
            "",
            "## Use",
            "",
            "```python",
            "from trimtab import Steering, load",
            "",
            f'model = load("{base}")',
            'steering = Steering.from_pretrained("this folder or repository")',
            "with steering.on(model, strength=0.8):",
            '    model.generate(["..."])',
            "fused = steering.fuse(model)  # the same in the weights, at no cost",
            "```",
            "",
            "## Sites",
            "",
            *_table(steering),
            "",
            "## Settings",
            "",
            "```json",
            to_json(_short(steering.made_by), indent=2),
            "```",
            "",
        ]
    )


def _head(steering: Steering) -> dict[str, Any]:
    head: dict[str, Any] = {"library_name": "trimtab", "tags": ["steering", "activation-steering"]}
    if _HUB_NAME.fullmatch(steering.base.name) and not Path(steering.base.name).exists():
        head["base_model"] = steering.base.name
    return head


def _maker(steering: Steering) -> str:
    return str(steering.made_by.get("estimator", "unknown" if not steering.made_by else "see below"))


def _short(value: Any) -> Any:
    """Without long lists, such as the loss of every step; the configuration has them."""
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    return f"{len(value)} values" if isinstance(value, list | tuple) and len(value) > LONG else value


def _table(steering: Steering) -> list[str]:
    alone = steering.sparsity()
    rows = [
        f"| `{site}` | {len(weight)} | {alone[site]:.1%} |" for site, (weight, _) in steering.maps.items()
    ]
    return ["| site | units | left alone |", "|---|---|---|", *rows]
