"""The model's own task: whether answers are right, whatever their case and the blanks around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from trimtab.models.load import Model
from trimtab.numerics.cluster_bootstrap import wilson_of_clusters
from trimtab.read.leaks.questions import Questions
from trimtab.read.leaks.readings import Readings


def folded(text: str) -> str:
    """An answer as it is compared: without the blanks around it, in no case.

    >>> folded(" No\\n") == folded("no")
    True
    """
    return text.strip().casefold()


def begins(said: str, answer: str) -> bool:
    """Whether an answer begins with what was said, such as its first token; in any case, outer blanks ignored.

    >>> begins(" No", "no"), begins("N", "no"), begins("not", "no"), begins(" ", "no")
    (True, True, False, False)
    """
    start = folded(said)
    return bool(start) and folded(answer).startswith(start)


def graded(
    said: Sequence[str],
    answers: Sequence[str] | None,
    tokens: Sequence[int] | Int[np.ndarray, " n"] = (),
    options: Mapping[str, set[int]] | None = None,
) -> Float[np.ndarray, " n"]:
    """Grade of each answer: 1 where the right one begins with what was said, 0 where not, nan where none is known.

    Args:
        said: (n,) texts of the first tokens that were said.
        answers: (n,) the right ones, "" where there is none; None where no row has one.
        tokens: (n,) ids of what was said, with `options`: parts of a character have no text of their own.
        options: see `first_tokens`; a right answer that is not among them is not known. None: all are.

    >>> graded([" No", "yes", "no"], ["no", "No", ""]).tolist()
    [1.0, 0.0, nan]
    """
    grades = np.full(len(said), np.nan)
    for row, answer in enumerate(answers or ()):
        starts = None if options is None else options.get(folded(answer))
        if folded(answer) and (options is None or starts is not None):
            same = starts is not None and int(tokens[row]) in starts
            grades[row] = same or begins(said[row], answer)
    return grades


def all_known(grades: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"] | None:
    """Whether each answer is right; None where some right answer is not known."""
    return None if np.isnan(grades).any() else grades.astype(bool)


def first_tokens(model: Model, answers: Sequence[str]) -> dict[str, set[int]]:
    """Tokens with which each distinct right answer may start: as it is written, in other cases, after a space.

    A token of another case counts where it says the same as the first token of the answer as it is written. Answers of
    which no token is known, and "" for none, are left out.

    Returns:
        The answer as it is compared, see `folded` -> ids.
    """
    tokenizer, found = model.tokenizer, dict[str, set[int]]()
    if tokenizer is None:
        return found

    def first(text: str) -> dict[int, str]:
        row = tokenizer(text, add_special_tokens=False)["input_ids"]
        said = ((int(token), folded(str(tokenizer.decode([token])))) for token in row)
        token, start = next((one for one in said if one[1]), (None, ""))
        return {} if token is None or token == tokenizer.unk_token_id else {token: start}

    for answer in dict.fromkeys(answers):
        bare = answer.strip()
        if not bare:
            continue
        written = first(answer) | first(f" {answer}")
        forms = [form for one in (bare.lower(), bare.upper(), bare.capitalize()) for form in (one, f" {one}")]
        others = {token: start for form in forms for token, start in first(form).items()}
        ids = {*written, *(token for token, start in others.items() if start in written.values())}
        if ids:
            found.setdefault(folded(answer), set()).update(ids)
    return found


def texts_of(model: Model, tokens: Int[np.ndarray, " n"]) -> list[str]:
    """Text of each token; "" where the model has no tokenizer."""
    names = {int(token): "" for token in np.unique(tokens)}
    if model.tokenizer is not None:
        names = {token: str(model.tokenizer.decode([token])) for token in names}
    return [names[int(token)] for token in tokens]


def task_accuracy(
    grades: Float[np.ndarray, " n"], readings: Readings, questions: Questions, options: Mapping[str, set[int]]
) -> dict[str, dict[str, float]]:
    """Accuracy of the model in its own task, with Wilson's interval over groups; empty where no right answer is known.

    Args:
        grades: of the greedy answers, see `graded`.
        readings: of the questions.
        questions: with their right answers.
        options: tokens with which each right answer may start, see `first_tokens`.

    Returns:
        `task_accuracy`: the right answer begins with the greedy token. `task_accuracy_among_answers`: the right answer
        has the largest logit among all right answers of the file, as yes against no. Each value, low, high and n.
    """
    rows = np.flatnonzero(~np.isnan(grades))
    if not len(rows):
        return {}
    groups, given = questions.groups[rows], [folded(one) for one in questions.answers or ()]
    accuracies = {"task_accuracy": accuracy(grades[rows], groups)}
    if len(options) > 1:
        best = np.stack([readings.tokens(sorted(ids))[rows].max(axis=1) for ids in options.values()], axis=1)
        chosen = np.array(list(options))[best.argmax(axis=1)]
        right = (chosen == np.array(given)[rows]).astype(float)
        accuracies["task_accuracy_among_answers"] = accuracy(right, groups)
    return accuracies


def accuracy(grades: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Mean of grades, with Wilson's interval over groups: value, low, high and n."""
    clusters = np.unique(groups, return_inverse=True)[1]
    low, high = wilson_of_clusters(grades, np.zeros(len(grades), dtype=int), clusters, 1)
    return {"value": float(grades.mean()), "low": float(low[0]), "high": float(high[0]), "n": len(grades)}
