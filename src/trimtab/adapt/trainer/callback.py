"""The events of a trainer, told to a mixture."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.finetune import refuse, refuse_unreadable
from trimtab.adapt.metrics import Row
from trimtab.adapt.mixer import Mixer
from trimtab.adapt.session import Roles
from trimtab.adapt.tracking import scalars
from trimtab.adapt.trainer.arguments import fit_of, loader_problems, trial_problems
from trimtab.adapt.trainer.hearing import Hearing
from trimtab.adapt.trainer.logs import TrainerLogs
from trimtab.adapt.trainer.run import HostedRun, Saved
from trimtab.data.mixture_rows import MixtureRows, MixtureSampler
from trimtab.data.tokens import TokenDomain
from trimtab.errors import CheckpointError, DivergedError, explain
from trimtab.models.load import load
from trimtab.models.quantization import refuse_repacked
from trimtab.train.hosted import HostedLoop, reshard
from trimtab.train.losses import Change, change
from trimtab.train.settings import Fit


class Mixture(Protocol):
    """What a callback needs of its mixture."""

    fit: Fit
    roles: Roles
    mixer: Mixer
    seed: int | None
    load_best: bool
    tokenizer: PreTrainedTokenizerBase | None
    tokens: dict[str, TokenDomain]
    dataset: MixtureRows
    sampler: MixtureSampler
    run: HostedRun | None
    changes: dict[str, Change]
    result: FinetuneResult | None

    @property
    def key(self) -> str:
        """What it is known by in checkpoints."""

    def prepare(self, args: TrainingArguments, processing_class: Any) -> None:
        """Look at the arguments of a trainer."""

    def config(self, run: HostedRun) -> dict[str, Any]:
        """What is needed to do a run again."""


_LIVE: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""Mixtures by key: a trainer that restores its callbacks makes them anew from what a checkpoint holds."""


class MixtureCallback(TrainerCallback, ExportableState):
    """The callback of a mixture.

    Args:
        key: of a mixture of this process.
    """

    def __init__(self, key: str) -> None:
        if key not in _LIVE:
            got = "a checkpoint of a mixture with other roles, mixer or readings"
            raise CheckpointError(explain(got, "those it began with", "a run from the start"))
        self.key, self.mixture = key, _LIVE[key]
        self._hearing: Hearing | None = None
        self._base = Path()
        self._loads_itself = False
        self._logs: TrainerLogs | None = None

    @classmethod
    def of(cls, mixture: Mixture) -> MixtureCallback:
        """The callback of a mixture."""
        _LIVE[mixture.key] = mixture
        return cls(mixture.key)

    def state(self) -> dict[str, Any]:
        """What the trainer writes into its checkpoints."""
        run, base = self.mixture.run, str(self._base.absolute())
        saved = {} if run is None else {**run.exported(), "base_weights": base}
        return {"args": {"key": self.key}, "attributes": {"saved": saved}}

    def on_init_end(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        """Refuse arguments that cannot work; make the rows."""
        self.mixture.prepare(args, kwargs.get("processing_class"))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the base model and ask for the first mixture, or go on; set the order of rows."""
        loader, mixture = kwargs["train_dataloader"], self.mixture
        self._stop_hearing()  # of a training that an error ended
        refuse(loader_problems(loader, mixture.dataset))
        saved = self._found(state) if state.global_step else None
        run = self._begun(args, kwargs["model"], kwargs["optimizer"], kwargs["lr_scheduler"])
        self._base = base_folder(args)
        if saved is None:
            run.start()
            if mixture.load_best:
                run.keep_base(self._base)
        else:
            run.restore(saved)
            self._find_kept(args, state, run, saved)
        mixture.run, mixture.changes, mixture.result = run, {}, None
        self._loads_itself = getattr(kwargs["model"], "is_distributed_loading_by_transformers", False)
        loader.set_sampler(mixture.sampler)
        # Without a generator of its own, each iteration of a loader draws from torch's, and dropout from what is left.
        getattr(loader, "base_dataloader", loader).generator = torch.Generator()
        self._logs = TrainerLogs(args, state)
        if getattr(mixture.mixer, "hears", True):
            self._hearing = Hearing(kwargs["model"], run)
        if saved is None:
            self._at_step(run, state, control, kwargs["model"])

    def on_epoch_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Leave the arguments as they were given, in case an error ends training."""
        if self.mixture.load_best:
            args.load_best_model_at_end = False

    def on_epoch_end(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Let the trainer load the best checkpoint, if this was the end."""
        if self.mixture.load_best:
            # Only now: a trainer that is made with it wants a metric. Weights that it has sharded it cannot load.
            args.load_best_model_at_end = not self._loads_itself

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Begin to listen to a step."""
        if self._hearing is not None:
            self._hearing.begin()

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """Listen to the next micro-batch."""
        if self._hearing is not None:
            self._hearing.go_on()

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Follow the step; read, judge and ask where that is due."""
        run = self._run()
        run.follow({} if self._hearing is None else self._hearing.heard())
        state.epoch = run.passes
        before = run.progress
        try:
            self._at_step(run, state, control, kwargs["model"])
        except DivergedError as error:
            run.progress = replace(run.progress, stop=f"diverged: {error}")
        # The rows fetched under the former mixture are let go: the trainer's loader begins anew.
        control.should_epoch_stop |= run.progress.weights != before.weights
        if run.progress.stop is not None:
            warnings.warn(f"training ends at step {state.global_step}: {run.progress.stop}", stacklevel=2)
            control.should_training_stop = True
        if self.mixture.load_best and run.progress.best_step == state.global_step:
            state.best_global_step, state.best_metric = state.global_step, -run.progress.best_change
            control.should_save = True

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Tell the trainer where the best checkpoint is, also where it saves none of its own accord."""
        if self.mixture.load_best and state.best_global_step:
            best = Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(best) if best.is_dir() else state.best_model_checkpoint

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Bring the best weights into the model, or those of the base; judge them on the test split."""
        run, mixture, model = self._run(), self.mixture, kwargs["model"]
        self._stop_hearing()
        if mixture.load_best:
            args.load_best_model_at_end = False  # as it was given
        if self._loads_itself and mixture.load_best and state.best_model_checkpoint:
            load_sharded(model, Path(state.best_model_checkpoint))
        if mixture.load_best and not run.progress.best_step:
            gone = "no checkpoint kept every constraint and improved the targets"
            warnings.warn(f"{gone}: the base weights are in the model again", stacklevel=2)
            run.put_base(self._base)
        losses = run.tested()
        mixture.changes = {name: change(read, run.base[name]) for name, read in losses.items()}
        if mixture.load_best:
            mixture.result = run.result(losses, mixture.mixer.kind, mixture.config(run))
            ended = state.global_step >= state.max_steps or run.progress.stop is not None
            if ended and state.is_world_process_zero:  # all have read it, since they read losses together
                shutil.rmtree(self._base, ignore_errors=True)
        self._log(run.rows[-1], state, control, model)
        if self._logs is not None:
            self._logs.close(state, control, model)

    def _begun(self, args: TrainingArguments, module: nn.Module, optimizer: Any, scheduler: Any) -> HostedRun:
        mixture, fit = self.mixture, fit_of(args, self.mixture.fit)
        refuse_unreadable(mixture.tokens, module, None, ids=True, seq_len=("seq_len", fit.seq_len))
        model = load(module, tokenizer=mixture.tokenizer)
        refuse_repacked(module)
        seeds = (mixture.seed, args.data_seed, args.seed)
        loop = HostedLoop(
            model,
            {name: mixture.tokens[name] for name in mixture.roles.train},
            fit,
            seed=next(seed for seed in seeds if seed is not None),
            optimizer=getattr(optimizer, "optimizer", optimizer),
            scheduler=scheduler,
        )
        refuse(trial_problems(mixture.mixer.needs(fit, mixture.roles), loop, args))
        return HostedRun(loop, mixture.roles, mixture.tokens, mixture.mixer)

    def _found(self, state: TrainerState) -> Saved:
        """The state of the mixture in the checkpoint that the trainer goes on from."""
        # A list of callbacks at first, a mapping once it was read back.
        every: Any = state.stateful_callbacks or {}
        noted = every.get(type(self).__name__) if isinstance(every, Mapping) else None
        if not isinstance(noted, Mapping) or noted.get("args") != {"key": self.key}:
            got = "a checkpoint of no mixture" if noted is None else "a checkpoint of another mixture"
            raise CheckpointError(
                explain(got, "one with the same roles, mixer and readings", "a run from the start")
            )
        saved: Saved = noted["attributes"]["saved"]
        return saved

    def _run(self) -> HostedRun:
        run: HostedRun | None = self.mixture.run
        assert run is not None  # training has begun
        return run

    def _at_step(self, run: HostedRun, state: TrainerState, control: TrainerControl, model: Any) -> None:
        for row in run.at_step():
            self._log(row, state, control, model)

    def _log(self, row: Row, state: TrainerState, control: TrainerControl, model: Any) -> None:
        if self._logs is not None and (named := scalars(row, self.mixture.roles, self._run().loop.fit)):
            self._logs.add(state, control, named, model)

    def _stop_hearing(self) -> None:
        if self._hearing is not None:
            self._hearing.close()
            self._hearing = None

    def _find_kept(self, args: TrainingArguments, state: TrainerState, run: HostedRun, saved: Saved) -> None:
        """Find what is loaded at the end: the best checkpoint, or the base weights while there is none.

        Raises:
            CheckpointError: it is neither in this output folder nor in that of the run so far.
        """
        if not self.mixture.load_best:
            return
        best, former = run.progress.best_step, Path(str(saved.get("base_weights", self._base)))
        if run.has_base(former):  # first, for another run may have left weights in this output folder
            self._base = former
        here = Path(str(args.output_dir)) / f"checkpoint-{best}"
        if best and here.is_dir():
            state.best_model_checkpoint = str(here)
        if state.best_model_checkpoint is None if best else not run.has_base(self._base):
            what = here.name if best else self._base.name
            got = f"a run that goes on without {what}, which is loaded at its end"
            hint = "copying it there from the run's former folder, or load_best=False in the mixture"
            raise CheckpointError(explain(got, f"{what} in {args.output_dir}", hint))


def base_folder(args: TrainingArguments) -> Path:
    """Where the weights that training starts from are kept while it goes on."""
    return Path(str(args.output_dir)) / "base-weights"


def load_sharded(module: nn.Module, folder: Path) -> None:
    """Load whole weights that were saved into a network of which each process holds a part.

    Args:
        module: sharded by transformers when it was loaded.
        folder: of a checkpoint, with safetensors.
    """
    weights = dict[str, Tensor]()
    for file in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(file)
    reshard(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            value = weights[name].to(parameter.device)
            if isinstance(parameter, DTensor):
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            parameter.copy_(value)
