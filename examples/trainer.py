"""A dynamic mixture inside `transformers.Trainer`: improve one domain, keep two others, with a LoRA.

python examples/trainer.py [OUT]        under half a minute; writes OUT/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import Trainer, TrainingArguments, default_data_collator

from trimtab import DynaMiCS, TrainerMixture, load
from trimtab.lab.corpora import corpus
from trimtab.lab.models import lab_model


def main(out: Path) -> None:
    model = load(lab_model("text-tiny"), adapter={"r": 8})
    mixture = TrainerMixture(
        train={"stubs": corpus("stubs"), "python": corpus("python")},
        evaluate={"tests": corpus("tests")},
        mixer=DynaMiCS(targets=["stubs"], constraints={"python": 0.02, "tests": 0.05}),
        tokenizer=model.tokenizer,
        seq_len=64,
        eval_sequences=32,
        test_sequences=64,
        eval_points=5,
    )
    trainer = Trainer(
        model.module,
        TrainingArguments(
            str(out), max_steps=20, learning_rate=1e-2, logging_steps=10, report_to="none", use_cpu=True
        ),
        train_dataset=mixture.dataset,
        data_collator=default_data_collator,
        callbacks=[mixture.callback],
    )
    trainer.train()
    print(mixture.result)
    print(mixture.result.status, "at step", mixture.result.step)
    print(mixture.result.report(out / "report.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/trainer"))
