"""ListenerReward inside TRL beside our own loop: the same pictures, speaker, listener and numbers of captions.

    OMP_NUM_THREADS=1 python benchmarks/captions/in_trl.py [--seeds 0 1 2] [--steps 60] [--smoke]

The speaker is a tiny Llava on the vision tower of `lab:listener`, taught here on `lab:scenes` in both dialects, a
fifth of captions full. It is tuned with each arm and judged on `lab:scenes-test` by the listener of the training and by
`lab:listener-other`. A seed is that of the speaker's weights and lessons, of the tuning and of the candidate sets;
pictures and listeners are the same for all. An arm of a seed is kept in `runs/benchmark-captions-trl` once it is done.
Arms that end in "own batch" take negatives from TRL's batch, where each picture has four copies. Writes
benchmarks/results/captions/trl.json.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import platform
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from trimtab import Listener, ListenerReward
from trimtab.data.pictures import Pictures, read_pictures
from trimtab.lab import registry
from trimtab.lab.scene_captions import vocabulary
from trimtab.lab.scene_models import LISTENER, OTHER, scene_model
from trimtab.lab.scene_sets import training_scenes
from trimtab.lab.scenes import SceneWorld
from trimtab.models.captioner import captioner
from trimtab.numerics.bootstrap import student
from trimtab.refer.captions.discritune import DiscriTune
from trimtab.refer.captions.listener import Gallery
from trimtab.refer.captions.rewards import listener_rewards
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import read_json, to_json
from trimtab.seeds import derive

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "captions" / "trl.json"
RUNS = Path("runs/benchmark-captions-trl")
PICTURES, COPIES, NEGATIVES, LR, MOST_TOKENS = 16, 4, 99, 3e-4, 24
FULL, LESSONS, LESSON_LR = 0.2, 400, 3e-3
PROMPT = "<image> describe"
WORDS = ("<pad>", "<start>", "<unknown>", "<end>", *vocabulary(SceneWorld()), "<image>", "describe")
MEASURES = ("random", "hard", "random, independent", "hard, independent", "words")


# The speaker


def processor() -> hf.LlavaProcessor:
    inner = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = {"pad_token": "<pad>", "bos_token": "<start>", "unk_token": "<unknown>", "eos_token": "<end>"}
    words = hf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
        **roles,
    )
    sees = hf.CLIPImageProcessorPil.from_pretrained(scene_model(LISTENER))
    template = (
        "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        "<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    seen = {"patch_size": 16, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 1}
    return hf.LlavaProcessor(sees, words, image_token="<image>", chat_template=template, **seen)


def taught(seed: int, lessons: int) -> hf.LlavaForConditionalGeneration:
    """A Llava that has learnt captions of both dialects; its vision tower is the listener's, and stays so."""
    torch.manual_seed(derive(seed, "speaker"))
    tower = hf.CLIPModel.from_pretrained(scene_model(LISTENER)).vision_model
    text = hf.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.05,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    image = WORDS.index("<image>")
    sees = {
        "vision_config": tower.config,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }
    config = hf.LlavaConfig(text_config=text, image_token_index=image, **sees)
    module = hf.LlavaForConditionalGeneration(config)
    # A picture's token is never said: TRL bans it from what is drawn, and our loop draws whatever the model gives.
    module.lm_head = torch.nn.Linear(96, len(WORDS))
    torch.nn.init.normal_(module.lm_head.weight, std=0.05)
    module.lm_head.bias.data.zero_()[image] = -1e4
    module.model.vision_tower.load_state_dict(tower.state_dict())
    module.model.vision_tower.requires_grad_(False)
    scenes, draws = training_scenes(), np.random.default_rng(derive(seed, "lessons"))
    both = zip(scenes.captions("full"), scenes.captions("terse"), draws.random(len(scenes)), strict=True)
    told = [full if chance < FULL else terse for full, terse, chance in both]
    read, asked = processor(), WORDS.index("describe")
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(learnt, LESSON_LR, betas=(0.9, 0.98), weight_decay=0.05)
    plan = hf.get_cosine_schedule_with_warmup(adam, lessons // 15, lessons)
    shown = training_pictures()
    for _ in range(lessons):
        rows = draws.integers(len(scenes), size=64)
        texts = [f"{PROMPT} {told[row]} <end>" for row in rows]
        images = shown.images([scenes.names[row] for row in rows])
        batch = read(images=images, text=texts, padding=True, return_tensors="pt")
        ids = batch["input_ids"]
        said = torch.arange(ids.shape[1]) > (ids == asked).int().argmax(1, keepdim=True)
        module(**batch, labels=ids.where(said, torch.tensor(-100))).loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        adam.step()
        plan.step()
        adam.zero_grad()
    return module.eval()


@cache
def training_pictures() -> Pictures:
    folder = read_pictures(registry.pictures("scenes"))
    return Pictures({name: folder[name] for name in folder.names}, folder.table)  # decoded once


@cache
def bank() -> Gallery:
    return listener(LISTENER).gallery(training_pictures())


@cache
def listener(name: str) -> Listener:
    return Listener.from_pretrained(scene_model(name))


# Arms


def ours(**settings: Any) -> Callable[..., None]:
    """Our loop."""

    def tune(module: Any, seed: int, steps: int) -> None:
        speaker = captioner(module, PROMPT, tokenizer=processor().tokenizer, processor=processor())
        DiscriTune(
            listener(LISTENER),
            n_negatives=NEGATIVES,
            samples=COPIES,
            batch_size=PICTURES,
            lr=LR,
            steps=steps,
            max_new_tokens=MOST_TOKENS,
            evaluate_every=steps,
            seed=seed,
            **settings,
        ).fit(speaker, training_pictures())

    return tune


class OwnBatch(ListenerReward):
    """Negatives are all completions' pictures but the one of this completion, as the paper's batch is read naively."""

    def __call__(self, prompts: Any = None, completions: Any = (), **columns: Any) -> list[float]:  # noqa: ARG002
        texts = [completion[-1]["content"] for completion in completions]
        _, shown = self._shown(columns[self.column])
        cosines = self.listener.encoder.texts(texts).double() @ shown.double().T
        rest = cosines[~torch.eye(len(texts), dtype=torch.bool)].reshape(len(texts), -1)
        own = cosines.diagonal()
        return listener_rewards(own, rest, reward=self.reward, tau=self.listener.tau).tolist()


def trl(
    kind: str, reward: type[ListenerReward] = ListenerReward, earns: str = "log-probability"
) -> Callable[..., None]:
    """A trainer of TRL."""

    def tune(module: Any, seed: int, steps: int) -> None:
        import trl as library
        from datasets import Dataset

        shown = training_pictures()
        prompt = [{"role": "user", "content": "describe"}]
        rows = [{"prompt": prompt, "image": shown[name]} for name in shown.names]
        settings = getattr(library, f"{kind}Config")(
            output_dir=str(RUNS / "trl"),
            per_device_train_batch_size=PICTURES * COPIES,
            num_generations=COPIES,
            max_completion_length=MOST_TOKENS,
            max_steps=steps,
            learning_rate=LR,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            beta=0.0,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=steps,
            use_cpu=True,
            bf16=False,
            seed=seed,
        )
        earned = reward(listener(LISTENER), bank(), reward=earns, negatives=NEGATIVES, seed=seed, empty=-40.0)
        trainer = getattr(library, f"{kind}Trainer")
        trainer(
            module, earned, settings, train_dataset=Dataset.from_list(rows), processing_class=processor()
        ).train()

    return tune


ARMS: dict[str, Callable[..., None] | None] = {
    "start": None,
    "ours, leave-one-out": ours(estimator="leave-one-out"),
    "ours, group, whitened": ours(estimator="group", whitening="group"),
    "TRL GRPO": trl("GRPO"),
    "TRL RLOO": trl("RLOO"),
    "TRL GRPO, accuracy": trl("GRPO", earns="accuracy"),
    "TRL GRPO, accuracy, own batch": trl("GRPO", OwnBatch, "accuracy"),
}
PAIRS = (
    ("TRL GRPO", "ours, group, whitened"),
    ("TRL RLOO", "ours, leave-one-out"),
    ("TRL GRPO, accuracy", "TRL GRPO, accuracy, own batch"),
)


# Measures


def judged(module: Any, seed: int) -> dict[str, Any]:
    """P@1 of greedy captions of the test's targets, among 100 and in hard sets, by both listeners."""
    sets = pd.read_csv(registry.table("scenes-hard"))
    shown = read_pictures(registry.pictures("scenes-test"))
    names = list(sets["item"])
    speaker = captioner(module.eval(), PROMPT, tokenizer=processor().tokenizer, processor=processor())
    features = speaker.features(shown.images(names))
    texts = speaker.generate(features, max_new_tokens=MOST_TOKENS).texts
    said, found = dict(zip(names, texts, strict=True)), {}
    for name, label in ((LISTENER, ""), (OTHER, ", independent")):
        ears = listener(name)
        gallery = ears.gallery(shown)
        found[f"random{label}"] = float(
            ears.hits(1, said, ears.gallery(shown.select(names)), 100, seed).mean()
        )
        found[f"hard{label}"] = float(ears.hits(1, said, gallery, candidates=sets).mean())
    found["words"] = float(np.mean([len(text.split()) for text in texts]))
    return {"measures": found, "captions": texts[:4], "n": len(names)}


def measured(seed: int, steps: int, lessons: int, runs: Path, *, kept_only: bool) -> list[dict[str, Any]]:
    """The arms of a seed; those that are kept are read."""
    rows, start = [], None
    for arm, tune in ARMS.items():
        asked = {"seed": seed, "arm": arm, "steps": steps, "lessons": lessons}
        kept = runs / f"{seed}-{arm.replace(', ', '-').replace(' ', '-')}.json"
        if kept.is_file() and (row := read_json(kept))["asked"] == asked:
            rows.append(row)
            continue
        if kept_only:
            continue
        start = taught(seed, lessons) if start is None else start
        module, cpu = copy.deepcopy(start), time.process_time()
        if tune is not None:
            tune(module, seed, steps)
        row = {"asked": asked, "cpu_s": time.process_time() - cpu, **judged(module, seed)}
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, to_json(row) + "\n")
        print(
            arm,
            seed,
            {k: round(v, 3) for k, v in row["measures"].items()},
            round(row["cpu_s"], 1),
            file=sys.stderr,
        )
        rows.append(row)
    return rows


def over_seeds(values: list[float]) -> dict[str, float]:
    """The mean over seeds with Student's 95 % interval."""
    return vars(student(np.array(values)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--kept", action="store_true", help="run nothing: the result of the arms that are done"
    )
    parser.add_argument("--smoke", action="store_true", help="does it run? Writes no result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    steps, lessons = (2, 150) if given.smoke else (given.steps, LESSONS)
    runs = RUNS / "smoke" if given.smoke else RUNS
    rows = [row for seed in given.seeds for row in measured(seed, steps, lessons, runs, kept_only=given.kept)]
    by_arm = {arm: [row for row in rows if row["asked"]["arm"] == arm] for arm in ARMS}

    def seeds(arm: str) -> list[int]:
        return [row["asked"]["seed"] for row in by_arm[arm]]

    def values(arm: str, measure: str, of: list[int] | None = None) -> list[float]:
        """One a seed; `of` are the seeds that count."""
        rows = [row for row in by_arm[arm] if of is None or row["asked"]["seed"] in of]
        return [row["measures"][measure] for row in rows]

    def gap(first: str, second: str, measure: str) -> dict[str, float]:
        both = sorted(set(seeds(first)) & set(seeds(second)))
        return over_seeds(list(np.subtract(values(first, measure, both), values(second, measure, both))))

    body = {
        "command": f"python benchmarks/captions/in_trl.py {' '.join(sys.argv[1:])}".strip(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {one: version(one) for one in ("trimtab", "torch", "transformers", "trl", "accelerate")},
        "python": platform.python_version(),
        "hardware": hardware(),
        "settings": {
            "seeds": sorted({row["asked"]["seed"] for row in rows}),
            "steps": steps,
            "pictures a step": PICTURES,
            "captions a picture": COPIES,
            "negatives": NEGATIVES,
            "lr": LR,
            "lessons": lessons,
            "share of full captions in lessons": FULL,
            "test pictures": rows[0]["n"],
        },
        "interval": "Student's t over seeds, 95 %; differences are paired by seed",
        "arms": {
            arm: {measure: over_seeds(values(arm, measure)) for measure in MEASURES}
            | {"cpu_s": over_seeds([row["cpu_s"] for row in by_arm[arm]])}
            for arm in ARMS
            if by_arm[arm]
        },
        "differences": [
            {"arm": first, "less": second} | {measure: gap(first, second, measure) for measure in MEASURES}
            for first, second in PAIRS
            if set(seeds(first)) & set(seeds(second))
        ],
        "runs": rows,
    }
    if given.smoke:
        print(to_json({key: body[key] for key in ("settings", "arms")}, indent=1))
        return
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULT, to_json(body, indent=1) + "\n")
    print(RESULT)


if __name__ == "__main__":
    main()
