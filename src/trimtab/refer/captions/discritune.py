"""DiscriTune: fine-tuning of a captioner by what a listener makes of its captions.

Dessi, Bevilacqua, Gualdoni, Rakotonirina, Franzon, Baroni, "Cross-Domain Image Captioning with Discriminative
Finetuning", CVPR 2023 (arXiv 2304.01662). Written from the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from trimtab.data.captions import CaptionSource
from trimtab.data.captions import references as read_references
from trimtab.data.pictures import Pictures, read_pictures
from trimtab.errors import ConfigProblems, DataError, ModelError, Problem, explain, refusal
from trimtab.models import captioner as captioners
from trimtab.models.captioner import Captioner
from trimtab.models.inspection import check_model
from trimtab.refer.captions.listener import Listener
from trimtab.refer.captions.training import HeldOut, Row, Training, check_pictures
from trimtab.refer.captions.tuning import Tuning
from trimtab.runs.brief import one_line
from trimtab.runs.folder import at_work
from trimtab.runs.paths import as_path
from trimtab.runs.serialise import numeric, plain

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Tuned:
    """A speaker after DiscriTune.

    Attributes:
        model: the captioner that was given, changed in place.
        history: diagnostics, one row a step: step, reward, reward_sd, advantage_sd, found (how often the listener finds
            the picture among its negatives), kl_nats (per token, from the start), length (words), repetition,
            vocabulary, ended, loss, gradient_norm; cross_entropy_nats and people_reward with people's captions.
        evaluations: scores on held-out pictures: step, set, p_at_1 (greedy captions, random sets), cross_entropy_nats
            (of people's captions, per token), length, repetition, vocabulary.
    """

    model: Captioner
    history: pd.DataFrame
    evaluations: pd.DataFrame

    def __repr__(self) -> str:
        told = f"{len(self.history)} steps", f"{len(self.evaluations)} evaluations"
        return one_line("Tuned", repr(self.model), *told)

    def to_frame(self) -> pd.DataFrame:
        """The evaluations; without held-out pictures the first and the last step."""
        if len(self.evaluations):
            return self.evaluations.copy()
        return self.history.iloc[[0, -1]].reset_index(drop=True)


@dataclass(frozen=True)
class DiscriTune(Tuning):
    """DiscriTune: REINFORCE on the captions of a speaker, rewarded by a frozen listener who looks for the picture.

    Args:
        listener: a `Listener`, or what `Listener.from_pretrained` takes: CLIP, SigLIP or another pair of towers.

    The settings are those of `Tuning`; `preset="paper"` gives the published ones.
    """

    listener: Any

    def fit(
        self,
        captioner: Any,
        pictures: Any,
        references: CaptionSource | None = None,
        out: str | Path | None = None,
        *,
        held_out: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Tuned:
        """Tune a captioner on pictures, resumably in a folder.

        Everything is checked before the first step: settings, every picture, the captioner and the listener.

        Args:
            captioner: what `trimtab.models.captioner.captioner` takes; changed in place, all but its vision part.
            pictures: what `read_pictures` takes.
            references: captions by people, of the pictures to train on where `cross_entropy` or `human` ask for them,
                and of held-out ones to watch; see `trimtab.data.captions.references`.
            out: folder of the run. The same call goes on with a run that was killed, bit for bit; None keeps nothing.
            held_out: pictures to watch, by name, such as those of another domain.
            progress: called with the steps done and the steps in all.

        Raises:
            ConfigProblems: settings that cannot work, all at once.
            DataError: a picture that cannot be read, too few of them, or one without a reference that is needed.
            ModelError: no captioner, no two towers, or a captioner of another vocabulary than its tokenizer.
            DivergedError: a reward, loss or gradient that is not finite; the checkpoint of the step before is kept.
            CheckpointError: the folder holds another run.
        """
        problems = list(self.problems())
        given: Any = out
        if not isinstance(given, str | Path | None):
            problems.append(Problem("out", f"a {type(given).__name__}", "the folder of a run, or None"))
        if problems:
            raise ConfigProblems(problems)
        place = None if out is None else as_path(out, "out", "the folder of a run")
        listener = (
            self.listener if isinstance(self.listener, Listener) else Listener.from_pretrained(self.listener)
        )
        known = hasattr(captioner, "log_probabilities")
        model = captioner if known else captioners.captioner(captioner)
        training = prepared(self, listener, model, read_pictures(pictures), references, held_out or {})
        tell = progress or (lambda *_: None)
        if place is None:
            training.run(None, tell)
        else:
            settings = {one.name: getattr(self, one.name) for one in fields(Tuning)}
            config = {"system": "discritune", "listener": listener.name, **plain(settings)}
            with at_work(place, config) as folder:
                training.run(folder, tell)
        return tuned(training)


def prepared(
    tuning: Tuning,
    listener: Listener,
    speaker: Captioner,
    pictures: Pictures,
    references: CaptionSource | None,
    held_out: Mapping[str, Any],
) -> Training:
    """A run whose pictures and references were read and checked.

    Raises:
        DataError: see `DiscriTune.fit`.
        ModelError: weights to train that are not finite; or a captioner that cannot be trained, such as a quantised
            one without an adapter.
    """
    if isinstance(speaker, Captioner):
        check_model(speaker.model, "training")
    told: dict[str, list[str]] = {} if references is None else read_references(references)
    if tuning.reads_people:
        check_references(pictures.names, told)
        check_readable(speaker, pictures, {name: told[name] for name in pictures.names})
    for name, parameter in speaker.parameters().items():
        if not bool(parameter.isfinite().all()):
            got = f"weights of the captioner that are nan or infinite ({name})"
            raise ModelError(explain(got, "finite numbers", "other weights"))
    gallery = listener.gallery(pictures)
    check_pictures(tuning, gallery)
    watched = {}
    for name, source in held_out.items():
        shown = read_pictures(source, f"held_out.{name}")
        first = {one: told[one][0] for one in shown.names if one in told}
        check_readable(speaker, shown, {one: [text] for one, text in first.items()})
        watched[name] = HeldOut(shown, listener.gallery(shown), first)
    return Training(tuning, listener, speaker, pictures, gallery, told, watched)


def check_references(names: Sequence[str], told: Mapping[str, Sequence[str]]) -> None:
    """Refuse pictures to train on without a caption by people.

    Raises:
        DataError: the first of them, and how many there are.
    """
    missing = [name for name in names if name not in told]
    if missing:
        got = f"no reference of the picture {missing[0]!r} ({len(missing)} such pictures of {len(names)})"
        hint = "cross_entropy: 0 and human: 0"
        raise DataError(
            f"references: {explain(got, 'a caption by people of each picture to train on', hint)}"
        )


def check_readable(speaker: Captioner, pictures: Pictures, told: Mapping[str, Sequence[str]]) -> None:
    """Refuse references that the captioner has no tokens or no places for, before a step reads one of them.

    Raises:
        DataError: the first picture of which it has no tokens, or that with the longest caption.
    """
    longest: tuple[str, list[int]] | None = None
    name = ""
    try:
        for name, texts in told.items():
            ids = max(speaker.encode(texts), key=len, default=[])
            if longest is None or len(ids) > len(longest[1]):
                longest = name, ids
        if longest is not None:
            name, ids = longest
            with torch.no_grad():
                speaker.log_probabilities(speaker.features(pictures.images([name])), [ids], [True])
    except ModelError as error:
        reason = str(error).partition("; try ")[0]
        got = f"a caption of the picture {name!r} that the captioner cannot score ({reason})"
        raise refusal("references", got, "captions that fit it", "leaving that caption out") from error


def tuned(training: Training) -> Tuned:
    """The speaker and the history of a run that ended."""
    return Tuned(training.speaker, history(training.rows, "step"), history(training.rows, "evaluation"))


def history(rows: Sequence[Row], kind: str) -> pd.DataFrame:
    """The rows of a kind as a frame, missing numbers as nan."""
    frame = pd.DataFrame(
        [{k: v for k, v in row.items() if k != "kind"} for row in rows if row["kind"] == kind]
    )
    return numeric(frame)
