"""Whether experts do something: how likely a concept's words become when its experts are silenced or forced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from trimtab.errors import DataError, explain
from trimtab.models.batches import evaluating, text_batches
from trimtab.models.hooks import Intervention, intervene
from trimtab.models.inspection import require_language_model
from trimtab.models.likelihood import joined_rows, next_token_logits
from trimtab.models.load import Model
from trimtab.models.tokenizer import refuse_unknown
from trimtab.numerics.bootstrap import Interval, bootstrap, check_choice, mean
from trimtab.read.experts.lens import ExpertLens, Rivals
from trimtab.seeds import derive

Way = Literal["silence", "force"]
RIVALS: tuple[Rivals, ...] = get_args(Rivals)


def word_nats(
    model: Model,
    texts: Sequence[str],
    words: Sequence[str],
    interventions: Mapping[str, Intervention] | None = None,
    *,
    batch_size: int = 16,
) -> Float[np.ndarray, " n"]:
    """How likely a model holds a concept's words as the next word, the log of the mean over all places of a text.

    A word counts with its first token, as it is written after a space; the probability of several words is their sum.

    Args:
        model: a causal language model with a tokenizer.
        texts: at least one token each.
        words: at least one.
        interventions: in place meanwhile; None for none.
        batch_size: texts at a time.

    Returns:
        One value per text, in nats, at most 0.

    Raises:
        ModelError: not a causal language model.
        DataError: no word.
    """
    require_language_model(model)
    tokenizer, ids = model.need_tokenizer(), set()
    for word in words:
        if not tokenizer(f" {word}", add_special_tokens=False)["input_ids"]:
            raise DataError(explain(f"the word {word!r}, which has no token", "at least one token"))
        (row,), (start,) = joined_rows(
            tokenizer, ["a"], [f" {word}"]
        )  # in a text, as tokens may have no space
        refuse_unknown(model.module, tokenizer, [[row[start]]], f"the word {word!r}, token")
        ids.add(row[start])
    if not ids:
        raise DataError(explain("no word", "at least one"))
    nats = []
    with evaluating(model.module):
        for batch in text_batches(model, texts, batch_size=batch_size):
            with intervene(model, interventions) if interventions else nullcontext():
                logits = next_token_logits(model.module, batch).double()
            likely = logits.softmax(-1)[..., sorted(ids)].sum(-1)
            nats.append(((likely * batch.mask).sum(1) / batch.mask.sum(1)).log())
    return torch.cat(nats).cpu().numpy()


def causal_check(
    lens: ExpertLens,
    texts: Sequence[str],
    words: Mapping[str, Sequence[str]],
    *,
    way: Way = "silence",
    top: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """How far the probability of each concept's words moves when its experts are held, and when other units are.

    Args:
        lens: fitted on a causal language model.
        texts: none of those that the lens was fitted with; the same for all concepts.
        words: concept -> words whose probability is looked at.
        way: "silence" or "force".
        top: how many units.
        seed: of random units, which differ by concept.

    Returns:
        One row per concept: concept, then for experts, random and matched units the mean change over texts, in nats.

    Raises:
        DataError: an unknown concept or no word.
        ConfigError: an unknown way, or more units than there are.
        ModelError: not a causal language model.
    """
    check_choice("way", way, get_args(Way))
    hold: Callable[..., dict[str, Intervention]] = lens.silence if way == "silence" else lens.force
    model, rows = lens.responses.model, []
    for concept, own in words.items():
        before = word_nats(model, texts, own)
        row: dict[str, object] = {"concept": concept}
        for units in RIVALS:
            held = hold(concept, top, units=units, seed=derive(seed, "rivals", concept))
            row[units] = float((word_nats(model, texts, own, held) - before).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def contrasts(changes: pd.DataFrame, seed: int = 0) -> dict[str, Interval]:
    """Mean changes over concepts, and how far those of experts go beyond those of other units, with intervals.

    Args:
        changes: of `causal_check`.
        seed: of the bootstrap over concepts.

    Returns:
        experts, random, matched, experts - random, experts - matched.
    """
    values: dict[str, np.ndarray] = {units: changes[units].to_numpy(dtype=float) for units in RIVALS}
    for units in ("random", "matched"):
        values[f"experts - {units}"] = values["experts"] - values[units]
    return {name: bootstrap(mean, value, seed=seed) for name, value in values.items()}
