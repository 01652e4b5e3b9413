"""Llama that answers questions about texts of facts: a small model to audit, trained once by this machine.

**Its answers of yes and no stay at chance for half of the training and then become right**: do not stop it early.

It learns yes and no, and also to say what is where: its vocabulary has to carry the words that an audit looks for. A
training row is one text and several independent questions. They see the text and themselves, under a 4-D mask, and the
positions of each go on from the text's: what the model computes is what it would compute for each question alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.lab.facts import (
    ANSWER,
    BOX,
    CITIES,
    COLOURS,
    HOME,
    IS_THERE,
    NAMES,
    OBJECTS,
    Facts,
    is_there,
)
from trimtab.lab.models import Progress, built_model, built_with, fast_tokenizer, llama, model_folder
from trimtab.lab.scene_towers import Counter, Schedule, draws, fit
from trimtab.seeds import derive, isolated

FACTS_MODEL = "facts-model"
RECIPE = 1
"""Raised when the same settings would give another model, so that no cache serves the old one."""
SPECIAL = ("<pad>", "<end>", "<unknown>")
PAD, END = 0, 1
OPEN = {
    "city": "Where does {name} live?",
    "name": "Who lives in {city}?",
    "colour": "What colour is the {object}?",
    "object": "What is in the box?",
}
"""Attribute -> the question that it answers."""
OTHER_WORDS = 0.1
"""Weight of the words of texts and questions in the loss; that of an answer's is 1."""
_SPREAD = 0.1
"""Standard deviation of fresh weights: with the usual .02 the model compares words much later."""


@dataclass(frozen=True)
class FactsModel:
    """The settings of the small model of facts, and how it is trained: about a minute of one thread.

    Attributes:
        width: size of the residual stream.
        intermediate: size of the MLPs.
        layers: blocks.
        heads: attention heads.
        training: steps, peak learning rate, and texts in a batch.
        questions: about each text, in one row.
        seed: of weights and draws.
    """

    width: int = 64
    intermediate: int = 192
    layers: int = 3
    heads: int = 4
    training: Schedule = field(default_factory=lambda: Schedule(600, 4e-3, 16))
    questions: int = 8
    seed: int = 0


def facts_model(
    settings: FactsModel | None = None, cache: Path | None = None, progress: Progress | None = None
) -> Path:
    """The folder of the small model of facts, for `load`; trained on first use, then kept.

    `card.json` has its settings, versions, and, under `held_out`, how often its greedy answer is right about texts that
    say what no training text said together: `yes_no`, and each open question by the attribute it asks for, with n.

    Args:
        settings: None means those of `lab:facts-model`.
        cache: where to keep it; None means the cache of this machine.
        progress: called after each training step; never when the model is there already.
    """
    given = FactsModel() if settings is None else settings
    about = {"name": FACTS_MODEL, "recipe": RECIPE, "settings": asdict(given)}
    return built_model(model_folder(FACTS_MODEL, [about], cache), about, partial(_make, given, progress))


def all_facts(*, held_out: bool) -> list[Facts]:
    """What texts of facts can say: an eighth is held out, so that any two values are seen together in training.

    >>> len(all_facts(held_out=True)), len(all_facts(held_out=False))
    (256, 1792)
    """
    values = [list(enumerate(one)) for one in (COLOURS, OBJECTS, NAMES, CITIES)]
    drawn = [tuple(zip(*one, strict=True)) for one in product(*values)]
    return [Facts(*words) for places, words in drawn if (sum(places) % len(COLOURS) == 0) == held_out]


class Block(NamedTuple):
    """A question with its answer."""

    question: str
    answer: str


def yes_no(facts: Facts, draw: np.random.Generator) -> Block:
    """A question of yes or no; half of them mention a colour, which may be what is wrong."""
    yes, colour = draw.random() < 0.5, facts.colour if draw.random() < 0.5 else ""
    if colour and not yes and draw.random() < 0.5:
        other = str(draw.choice([one for one in COLOURS if one != colour]))
        return Block(is_there(facts, draw, yes=True, colour=other), "no")
    return Block(is_there(facts, draw, yes=yes, colour=colour), "yes" if yes else "no")


def open_question(facts: Facts, attribute: str) -> Block:
    """The question that an attribute answers.

    >>> open_question(Facts("red", "cube", "Anna", "Cairo"), "colour")
    Block(question='What colour is the cube?', answer='red')
    """
    return Block(OPEN[attribute].format(**vars(facts)), str(getattr(facts, attribute)))


def words_of(text: str) -> list[str]:
    """Words and marks of a text, as the tokenizer splits it.

    >>> words_of("Is it red? Answer:")
    ['Is', 'it', 'red', '?', 'Answer', ':']
    """
    return re.findall(r"\w+|[^\w\s]+", text)


def numbers() -> dict[str, int]:
    """Word -> token."""
    texts = (*BOX, *HOME, *IS_THERE, *OPEN.values(), ANSWER, "yes no")
    frames = {word for text in texts for word in words_of(re.sub(r"{\w*}", "", text))}
    words = (*SPECIAL, *sorted(frames), *COLOURS, *OBJECTS, *NAMES, *CITIES)
    return {word: number for number, word in enumerate(words)}


def facts_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or mark; nothing is added at either end."""
    pad, end, unknown = SPECIAL
    inner = Tokenizer(models.WordLevel(numbers(), unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return fast_tokenizer(inner, pad_token=pad, eos_token=end, unk_token=unknown)


@dataclass(frozen=True)
class Packed:
    """Rows of a text and independent questions about it, padded on the right.

    Attributes:
        ids: tokens; `PAD`, which is 0, is padding.
        positions: they go on from the text's in each question.
        blocks: number of the question of each token; 0 for the text, -1 for padding.
        answers: whether a token belongs to an answer, its end included.
    """

    ids: Int[Tensor, "rows T"]
    positions: Int[Tensor, "rows T"]
    blocks: Int[Tensor, "rows T"]
    answers: Bool[Tensor, "rows T"]

    @property
    def mask(self) -> Bool[Tensor, "rows 1 T T"]:
        """Which earlier tokens each token sees: the text's and its own question's."""
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        same = (self.blocks[:, :, None] == self.blocks[:, None]) | (self.blocks[:, None] == 0)
        return (same & causal)[:, None]

    def loss(self, logits: Tensor) -> Tensor:
        """Cross-entropy of the next token in its text or question, in nats; a weighted mean, see `OTHER_WORDS`."""
        following = (self.blocks[:, 1:] == self.blocks[:, :-1]) & (self.blocks[:, 1:] >= 0)
        weights = following * (OTHER_WORDS + (1 - OTHER_WORDS) * self.answers[:, 1:].to(logits))
        nats = F.cross_entropy(logits[:, :-1].flatten(0, 1), self.ids[:, 1:].flatten(), reduction="none")
        return (nats * weights.flatten()).sum() / weights.sum()


def packed(texts: Sequence[str], blocks: Sequence[Sequence[Block]]) -> Packed:
    """Rows of a text and the questions about it."""
    number = numbers()
    columns: tuple[list[Tensor], ...] = ([], [], [], [])
    for text, asked in zip(texts, blocks, strict=True):
        start = [number[word] for word in words_of(text)]
        ids, positions, owner, answers = (
            [*start],
            [*range(len(start))],
            [0] * len(start),
            [False] * len(start),
        )
        for place, block in enumerate(asked, 1):
            question = [number[word] for word in words_of(f"{block.question} {ANSWER}")]
            answer = [*(number[word] for word in words_of(block.answer)), END]
            size = len(question) + len(answer)
            ids += question + answer
            positions += range(len(start), len(start) + size)
            owner += [place] * size
            answers += [False] * len(question) + [True] * len(answer)
        for column, values in zip(columns, (ids, positions, owner, answers), strict=True):
            column.append(torch.tensor(values))
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
    ids_of, positions_of, owners, answers_of = columns
    return Packed(pad(ids_of), pad(positions_of), pad(owners, padding_value=-1), pad(answers_of))


FIRST, LATER = 0.5, 0.2
"""Shares of open questions in the first quarter of the training, by which words bind to places, and in the rest."""


def train(settings: FactsModel, progress: Progress | None = None) -> LlamaForCausalLM:
    """A model trained on texts that are not held out, in evaluation mode.

    The caller's random generators are unchanged.
    """
    plan, facts = settings.training, all_facts(held_out=False)
    draw, step = np.random.default_rng(derive(settings.seed, FACTS_MODEL, "blocks")), count()
    with isolated(derive(settings.seed, FACTS_MODEL)):
        network = LlamaForCausalLM(llama(settings, len(numbers()), 256, END, PAD, initializer_range=_SPREAD))

        def loss_of(rows: Tensor) -> Tensor:
            share = FIRST if next(step) < plan.steps / 4 else LATER
            drawn = [facts[row] for row in rows.tolist()]
            blocks = [[_block(one, share, draw) for _ in range(settings.questions)] for one in drawn]
            batch = packed([one.text(draw) for one in drawn], blocks)
            output = network(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions)
            return batch.loss(output.logits)

        fit(network.parameters(), plan, draws(plan, len(facts)), loss_of, Counter(progress, plan.steps))
    network.train(False)
    return network


def _block(facts: Facts, share: float, draw: np.random.Generator) -> Block:
    if draw.random() < share:
        return open_question(facts, list(OPEN)[draw.integers(len(OPEN))])
    return yes_no(facts, draw)


def _make(settings: FactsModel, progress: Progress | None, folder: Path) -> dict[str, Any]:
    network = train(settings, progress)
    network.save_pretrained(folder)
    facts_tokenizer().save_pretrained(folder)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": parameters, "held_out": right_answers(network), **built_with()}


@torch.no_grad()
def right_answers(network: LlamaForCausalLM) -> dict[str, Any]:
    """How often the first token of the greedy answer is right, by kind of question, on texts that are held out.

    Two questions of yes or no and one for each attribute about every text.
    """
    draw, facts = np.random.default_rng(derive(0, FACTS_MODEL, "held out")), all_facts(held_out=True)
    asked = [
        [yes_no(one, draw), yes_no(one, draw), *(open_question(one, name) for name in OPEN)] for one in facts
    ]
    batch = packed([one.text(draw) for one in facts], asked)
    logits = network(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions).logits
    firsts = batch.answers[:, 1:] & ~batch.answers[:, :-1]
    right = (logits[:, :-1].argmax(-1) == batch.ids[:, 1:])[firsts].view(len(facts), -1)
    shares = {"yes_no": right[:, :2], **{name: right[:, 2 + place] for place, name in enumerate(OPEN)}}
    return {
        name: {"right": round(float(them.float().mean()), 4), "n": them.numel()}
        for name, them in shares.items()
    }
