"""Training of a speaker for a listener: captions, rewards, one step of REINFORCE, and a loop that can be killed.

What a step does follows from its number and the seed alone, so a run goes on bit for bit from weights, moments and the
running mean of its rewards.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.data.pictures import Pictures
from trimtab.errors import CheckpointError, DivergedError, TrimtabError, explain, refusal
from trimtab.models.captioner import Captioner
from trimtab.models.speakers import Captions
from trimtab.refer.captions.estimators import (
    RunningMean,
    advantages,
    caption_scores_of,
    k1,
    k3,
    penalised,
    reinforce,
)
from trimtab.refer.captions.listener import Gallery, Listener
from trimtab.refer.captions.rewards import listener_rewards, lowest_reward
from trimtab.refer.captions.tuning import Tuning
from trimtab.runs.folder import RunFolder
from trimtab.seeds import derive, isolated
from trimtab.train import state
from trimtab.train.evaluation import batched
from trimtab.train.loop import Paused, interruptible

Row = dict[str, Any]
AT_ONCE = 64
"""Pictures that are captioned in one call."""


def captions_of(
    speaker: Captioner, pictures: Pictures, names: Sequence[str], *, max_new_tokens: int, num_beams: int = 1
) -> list[str]:
    """The likeliest caption of each picture: greedy, or by beam search."""
    texts: list[str] = []
    for some in batched(names, AT_ONCE):
        features = speaker.features(pictures.images(some))
        texts += speaker.generate(features, max_new_tokens=max_new_tokens, num_beams=num_beams).texts
    return texts


def cross_entropy(
    speaker: Captioner, pictures: Pictures, captions: Mapping[str, str], names: Sequence[str]
) -> Float[np.ndarray, " names"]:
    """Cross-entropy of a given caption of each picture, in nats per token, its end included."""
    losses: list[float] = []
    for some in batched(names, AT_ONCE):
        with torch.no_grad():
            features = speaker.features(pictures.images(some))
            ids = speaker.encode([captions[name] for name in some])
            tokens, known = speaker.log_probabilities(features, ids, [True] * len(ids))
        losses += (-caption_scores_of(tokens, known.bool(), "mean")).double().tolist()
    return np.array(losses)


def repetition(texts: Sequence[str]) -> float:
    """Share of pairs of neighbouring words that stood in the same caption before; nan where there is no pair.

    >>> repetition(["a red cat", "so so so so"])
    0.4
    """
    pairs = [list(pairwise(words)) for words in map(str.split, texts)]
    total = sum(map(len, pairs))
    return sum(len(each) - len(set(each)) for each in pairs) / total if total else math.nan


def words_of(texts: Sequence[str]) -> dict[str, float]:
    """Length in words, repetition and vocabulary (different words) of captions."""
    split = [text.split() for text in texts]
    length = float(np.mean([len(words) for words in split])) if split else math.nan
    return {
        "length": length,
        "repetition": repetition(texts),
        "vocabulary": float(len({word for words in split for word in words})),
    }


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Pictures that a run is watched by and never trained on.

    Attributes:
        pictures: what they are.
        gallery: the listener's view of them.
        references: a caption by people for some of them.
    """

    pictures: Pictures
    gallery: Gallery
    references: Mapping[str, str]

    def scores(self, speaker: Captioner, listener: Listener, tuning: Tuning) -> Row:
        """P@1 among random sets of 100 (or as many as differ; nan if none do), and people's cross-entropy."""
        names = self.pictures.names
        texts = captions_of(speaker, self.pictures, names, max_new_tokens=tuning.max_new_tokens)
        n, found = min(100, len(set(self.gallery.keys))), math.nan
        if n > 1:
            found = listener.precision_at(1, texts, self.gallery, n=n, seed=tuning.seed).value
        told = [name for name in names if name in self.references]
        nats = cross_entropy(speaker, self.pictures, self.references, told) if told else np.array([math.nan])
        return {"p_at_1": found, "cross_entropy_nats": float(nats.mean()), **words_of(texts)}


class Training:
    """One run of DiscriTune in memory.

    Args:
        tuning: checked settings.
        listener: frozen.
        speaker: changed in place.
        pictures: to train on.
        references: captions by people of each picture; read only where the settings ask for them.
        held_out: to watch, by name.
        start: values of the parameters at the start, where the speaker has others by now.

    Raises:
        DataError: fewer pictures than a step needs.
    """

    def __init__(
        self,
        tuning: Tuning,
        listener: Listener,
        speaker: Captioner,
        pictures: Pictures,
        gallery: Gallery,
        references: Mapping[str, Sequence[str]],
        held_out: Mapping[str, HeldOut],
    ) -> None:
        self.tuning, self.listener, self.speaker, self.pictures = tuning, listener, speaker, pictures
        self.gallery, self.references, self.held_out = gallery, references, held_out
        self.codes = torch.as_tensor(gallery.codes)
        self.vectors = gallery.vectors.double()
        self.parameters = speaker.parameters()
        self.start = state.copy_parameters(self.parameters)
        self.optimizer = torch.optim.Adam(
            self.parameters.values(), lr=tuning.setting("lr"), betas=tuning.betas
        )
        self.step_count = 0
        self.mean = RunningMean()
        self.rows: list[Row] = []

    # What a step is made of.

    def batch(self, step: int) -> list[int]:
        """Rows of the pictures of a step: every picture once an epoch, in an order by the seed."""
        size, count = self.tuning.setting("batch_size"), len(self.pictures)
        rows: list[int] = []
        for place in range(step * size, (step + 1) * size):
            epoch, at = divmod(place, count)
            if at == 0 or not rows:
                order = np.random.default_rng(derive(self.tuning.seed, "order", epoch)).permutation(count)
            rows.append(int(order[at]))
        return rows

    def distractors(self, rows: Sequence[int], step: int) -> Int[Tensor, "n k"]:
        """Rows of the negatives of each picture of a batch, the picture itself never among them."""
        tuning, kind = self.tuning, self.tuning.setting("negatives")
        if kind == "batch":
            places = torch.as_tensor(rows)
            beside = [torch.cat([places[:place], places[place + 1 :]]) for place in range(len(rows))]
            return self._with_one_other(rows, torch.stack(beside), step)
        drawn, near = tuning.n_negatives, None
        if kind == "hard":
            cosines = self.vectors[rows] @ self.vectors.T
            own = torch.as_tensor(rows)[:, None]
            same = self.codes[own] == self.codes if tuning.masking else own == torch.arange(len(self.vectors))
            near = cosines.masked_fill(same, -torch.inf).topk(tuning.n_hard, dim=1).indices
            drawn -= tuning.n_hard
        draws = np.random.default_rng(derive(tuning.seed, "negatives", step))
        others = torch.empty(len(rows), drawn, dtype=torch.long)
        for place, row in enumerate(rows):
            if near is not None:  # a neighbour that is drawn again would count twice
                left = np.setdiff1d(np.arange(len(self.vectors)), [row, *near[place].tolist()])
                others[place] = torch.as_tensor(draws.choice(left, drawn, replace=False))
                continue
            picked = draws.choice(len(self.vectors) - 1, drawn, replace=False)
            others[place] = torch.as_tensor(picked + (picked >= row))
        return self._with_one_other(rows, others if near is None else torch.cat([near, others], dim=1), step)

    def _with_one_other(
        self, rows: Sequence[int], others: Int[Tensor, "n k"], step: int
    ) -> Int[Tensor, "n k"]:
        """The negatives, of which one is no copy of its picture: masking would leave nothing to tell it from."""
        own = self.codes[torch.as_tensor(rows)]
        copies = (self.codes[others] == own[:, None]).all(dim=1).nonzero()[:, 0].tolist()
        if not (self.tuning.masking and copies):
            return others
        others, draws = (
            others.clone(),
            np.random.default_rng(derive(self.tuning.seed, "beside copies", step)),
        )
        for place in copies:
            others[place, -1] = int(draws.choice((self.codes != own[place]).nonzero()[:, 0].numpy()))
        return others

    def heard(
        self, texts: Sequence[str], rows: Sequence[int], others: Int[Tensor, "b k"]
    ) -> tuple[Float[Tensor, " b"], float]:
        """Reward of each caption, and the share of captions by which the listener finds the picture.

        A caption without words earns the infimum of the reward.

        Raises:
            DivergedError: a reward that is not finite.
        """
        tuning, worded = self.tuning, torch.tensor([bool(text.strip()) for text in texts])
        words = torch.zeros(len(texts), self.vectors.shape[1], dtype=torch.float64)
        if bool(worded.any()):
            words[worded] = (
                self.listener.encoder.texts([text for text in texts if text.strip()]).double().cpu()
            )
        target = (self.vectors[list(rows)] * words).sum(dim=1)
        cosines = torch.einsum("bkd,bd->bk", self.vectors[others], words)
        masked: Bool[Tensor, "b k"] | None = None
        if tuning.masking:
            masked = self.codes[others] == self.codes[list(rows)][:, None]
        how = {"tau": self.listener.tau, "masked": masked}
        values = listener_rewards(target, cosines, reward=tuning.reward, **how)  # type: ignore[arg-type]
        lowest = lowest_reward(tuning.reward, tau=self.listener.tau, negatives=others.shape[1])
        values = torch.where(worded, values, lowest)
        found = listener_rewards(target, cosines, reward="accuracy", **how) * worded  # type: ignore[arg-type]
        if not bool(values.isfinite().all()):
            row = int((~values.isfinite()).int().argmax())
            got = f"the reward {float(values[row])} of {texts[row][:60]!r}"
            raise DivergedError(explain(got, "a finite number", "a listener whose weights are finite"))
        return values, float(found.mean())

    @contextmanager
    def as_at_start(self) -> Iterator[None]:
        """The parameters of the start for a block, then those of now again, bit for bit."""
        now = state.copy_parameters(self.parameters)
        state.put_parameters(self.parameters, self.start)
        try:
            yield
        finally:
            state.put_parameters(self.parameters, now)

    def step(self) -> Row:
        """One step: captions, rewards, the loss and its descent; its diagnostics.

        Raises:
            DivergedError: a reward, a loss or a gradient that is not finite; nothing is changed then.
        """
        step, tuning = self.step_count, self.tuning
        with isolated(derive(tuning.seed, "step", step)):
            loss, row, values = self._loss(step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            limit = math.inf if tuning.clip_norm is None else tuning.clip_norm
            norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit))
            if not math.isfinite(float(loss.detach())) or not math.isfinite(norm):
                got = f"a loss of {float(loss.detach())} and a gradient of norm {norm} at step {step}"
                raise DivergedError(explain(got, "finite numbers", f"lr: {tuning.setting('lr') / 10:g}"))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.mean = self.mean.after(values)
        self.step_count += 1
        return {"step": self.step_count, "kind": "step", **row, "gradient_norm": norm}

    def _drawn(self, features: Any, step: int, count: int, *, greedy: bool) -> Captions:
        seeds = None if greedy else [derive(self.tuning.seed, "caption", step, row) for row in range(count)]
        return self.speaker.generate(
            features,
            max_new_tokens=self.tuning.max_new_tokens,
            temperature=0.0 if greedy else 1.0,
            seeds=seeds,
        )

    def _loss(self, step: int) -> tuple[Tensor, Row, Tensor]:
        """Loss of a step with its graph, diagnostics, and the rewards (pictures, captions)."""
        tuning, speaker, rows = self.tuning, self.speaker, self.batch(step)
        estimator, samples = tuning.setting("estimator"), tuning.setting("samples")
        length, shape = tuning.setting("length"), (len(rows), samples)
        features = speaker.features(self.pictures.images([self.pictures.names[row] for row in rows]))
        places = [place for place in range(len(rows)) for _ in range(samples)]
        others, each = self.distractors(rows, step), [rows[place] for place in places]
        several = features[places]
        drawn = self._drawn(several, step, len(places), greedy=estimator == "greedy")
        values, found = self.heard(drawn.texts, each, others[places])
        greedy = None
        if estimator == "self-critical":
            best = self._drawn(features, step, len(rows), greedy=True)
            greedy, _ = self.heard(best.texts, rows, others)
        with torch.no_grad(), self.as_at_start():
            before, _ = speaker.log_probabilities(several, drawn.ids, drawn.ended)
        tokens, known = speaker.log_probabilities(several, drawn.ids, drawn.ended)
        mask = known.bool()
        scores = caption_scores_of(tokens, mask, length)
        inside = tuning.kl if tuning.kl_estimator == "k1" else 0.0
        shaped = penalised(
            values.to(scores),
            scores,
            caption_scores_of(before, mask, length),
            kl=inside,
            entropy=tuning.entropy,
        )
        advantage = advantages(
            shaped.reshape(shape),
            estimator,
            running=self.mean.value,
            greedy=None if greedy is None else greedy.to(scores),
            whitening=tuning.whitening,
        )
        loss = reinforce(advantage.flatten(), scores)
        if tuning.kl and not inside:
            loss = loss + tuning.kl * k3(tokens, before, mask)
        row: Row = {
            "reward": float(values.mean()),
            "reward_sd": float(values.std()) if len(values) > 1 else math.nan,
            "advantage_sd": float(advantage.std()) if advantage.numel() > 1 else math.nan,
            "found": found,
            "kl_nats": float(k1(tokens.detach(), before, mask)),
            "ended": sum(drawn.ended) / len(drawn.ended),
            **words_of(drawn.texts),
        }
        if tuning.cross_entropy or tuning.human:
            loss = loss + self._people(step, rows, features, others, shaped.reshape(shape), row)
        return loss, row | {"loss": float(loss.detach())}, shaped

    def _people(
        self, step: int, rows: Sequence[int], features: Any, others: Tensor, shaped: Tensor, row: Row
    ) -> Tensor:
        """Loss of a caption by people of each picture: cross-entropy, and REINFORCE as a further trajectory.

        A person's caption was not drawn from the speaker. It pulls where it earns more than the speaker's captions of
        the picture do on average, and never pushes: the chance of what the speaker would not say has no lower bound.
        """
        draws = np.random.default_rng(derive(self.tuning.seed, "people", step))
        told = [self.references[self.pictures.names[one]] for one in rows]
        texts = [each[int(draws.integers(len(each)))] for each in told]
        ids = self.speaker.encode(texts)
        tokens, known = self.speaker.log_probabilities(features, ids, [True] * len(ids))
        mask = known.bool()
        scores = caption_scores_of(tokens, mask, self.tuning.setting("length"))
        nats = -caption_scores_of(tokens, mask, "mean").mean()
        row["cross_entropy_nats"] = float(nats.detach())
        loss = self.tuning.cross_entropy * nats
        if self.tuning.human:
            values, _ = self.heard(texts, rows, others)
            above = (values.to(shaped) - shaped.mean(dim=1)).clamp_min(0.0)
            row["people_reward"] = float(values.mean())
            loss = loss + self.tuning.human * reinforce(above, scores)
        return loss

    # The loop, and what is kept of it.

    def run(self, folder: RunFolder | None, progress: Callable[[int, int], None]) -> None:
        """Train to the end, or go on; metrics and checkpoints go to the folder, where there is one.

        Raises:
            DivergedError: a reward, loss or gradient that is not finite; a checkpoint of the step before is written.
            CheckpointError: the folder holds a run on other pictures, or a damaged one.
            KeyboardInterrupt: stopped at the end of a step, with a checkpoint.
        """
        if folder is not None:
            self._resume(folder)
        steps, every = self.tuning.steps, self.tuning.checkpoint_every
        with interruptible() as pause:
            try:
                if not self.rows:
                    self._evaluate(folder)
                progress(self.step_count, steps)
                while self.step_count < steps:
                    pause()
                    self._note(self.step(), folder)
                    if self.step_count % self.tuning.evaluate_every == 0 or self.step_count == steps:
                        self._evaluate(folder)
                    if folder is not None and (self.step_count % every == 0 or self.step_count == steps):
                        self._save(folder)
                    progress(self.step_count, steps)
            except Paused as stop:
                if folder is not None:
                    self._save(folder)
                raise KeyboardInterrupt(f"stopped at step {self.step_count} of {steps}") from stop
            except TrimtabError:
                if folder is not None:
                    self._save(folder)
                raise

    def _evaluate(self, folder: RunFolder | None) -> None:
        for name, one in self.held_out.items():
            with isolated(derive(self.tuning.seed, "evaluation")):
                scores = one.scores(self.speaker, self.listener, self.tuning)
            self._note({"step": self.step_count, "kind": "evaluation", "set": name, **scores}, folder)
        if not self.held_out and not self.rows:
            self._note({"step": 0, "kind": "start"}, folder)

    def _note(self, row: Row, folder: RunFolder | None) -> None:
        self.rows.append(row)
        if folder is not None:
            folder.append(row)

    def fingerprint(self) -> str:
        """Digest of what a run is trained on: pictures by name and pixels, the listener, shapes of the weights."""
        parts = hashlib.sha256("\n".join((*self.gallery.names, *self.gallery.keys)).encode())
        shapes = [(name, tuple(p.shape)) for name, p in self.parameters.items()]
        parts.update(repr([self.listener.name, self.gallery.vectors.shape[1], shapes]).encode())
        return parts.hexdigest()

    def _save(self, folder: RunFolder) -> None:
        moments = state.copy_moments(self.parameters, self.optimizer)
        snapshot = state.Snapshot(self.step_count, state.copy_parameters(self.parameters), moments, {}, {})
        extra = {
            "offset": folder.metrics_offset(sync=True),
            "reward_total": self.mean.total,
            "reward_count": self.mean.count,
            "fingerprint": self.fingerprint(),
        }
        state.save_checkpoint(folder.artifacts / "checkpoints", snapshot, extra, keep=2)

    def _resume(self, folder: RunFolder) -> None:
        """Go on from the newest whole checkpoint; a damaged one is warned of, and the one before it taken."""
        start = folder.artifacts / "start"
        if not start.is_dir():
            state.save_weights(start, self.start)
        values = state.load_weights(start)
        state.check_parameters(self.parameters, values)
        device = {name: parameter.device for name, parameter in self.parameters.items()}
        self.start = {name: value.to(device[name]) for name, value in values.items()}
        state.put_parameters(self.parameters, self.start)
        unusable: list[state.DamagedCheckpointError] = []
        for saved in reversed(state.checkpoints(folder.artifacts / "checkpoints")):
            try:
                snapshot, extra = state.load_checkpoint(saved)
            except state.DamagedCheckpointError as error:
                unusable.append(error)
                continue
            if extra.get("fingerprint") != self.fingerprint():
                got = "other pictures, another listener or another speaker than those of the run"
                raise CheckpointError(f"{folder.path}: {explain(got, 'the same ones', 'another folder')}")
            if unusable:
                warnings.warn(f"{unusable[0]}; going on from {saved.name}, which is whole", stacklevel=3)
            state.put_parameters(self.parameters, snapshot.parameters)
            state.put_moments(self.parameters, self.optimizer, snapshot.moments)
            self.step_count = snapshot.step
            self.mean = RunningMean(float(extra["reward_total"]), int(extra["reward_count"]))
            folder.truncate_metrics(int(extra["offset"]))
            self.rows = folder.rows()
            return
        if unusable:
            raise unusable[0]
        folder.truncate_metrics(0)


def check_pictures(tuning: Tuning, gallery: Gallery) -> None:
    """Refuse fewer pictures than a step needs.

    Raises:
        DataError: how many there are, and how many are needed.
    """
    check_number(tuning, len(gallery))
    if (different := len(set(gallery.keys))) < 2:
        raise refusal("pictures", f"{different} different pictures", "at least 2")


def check_number(tuning: Tuning, there: int) -> None:
    """Refuse fewer pictures than a step needs, by their number alone.

    Raises:
        DataError: how many there are, and how many are needed.
    """
    if there < (size := tuning.setting("batch_size")):
        raise refusal("pictures", f"{there} pictures", f"at least batch_size={size}", f"batch_size: {there}")
    if tuning.setting("negatives") != "batch" and there < tuning.n_negatives + 1:
        hint = f"n_negatives: {max(there - 1, 1)}"
        raise refusal("pictures", f"{there} pictures", f"more than n_negatives={tuning.n_negatives}", hint)
