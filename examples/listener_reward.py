"""A reward from a listener inside TRL: GRPO makes a captioner say what the listener needs to find the picture.

python examples/listener_reward.py [OUT]        about half a minute; needs the extra `trl`; writes OUT/model

Pictures are drawn, and both models are trained here from nothing: a CLIP that hears full captions, and a Llava that has
learnt from people who name the colour and little else.
"""

from __future__ import annotations

import random
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from trimtab import Listener, ListenerReward

COLOURS = ("red", "green", "blue", "yellow", "white", "black")
SHAPES = ("disc", "square", "triangle", "bar")
PLACES = ("left", "right")
KINDS = tuple(product(COLOURS, SHAPES, PLACES))
WORDS = (
    "<pad>",
    "<s>",
    "<image>",
    "</s>",
    "describe",
    *COLOURS,
    *SHAPES,
    *PLACES,
)  # not </s> at 2: CLIP's trap
SIGHT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGHT |= {"image_size": 32, "patch_size": 16}
TEXT = {"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1}
TEXT |= {"eos_token_id": 3, "initializer_range": 0.1}


def draw(colour: str, shape: str, place: str, chance: random.Random) -> Image.Image:
    """One thing on grey, 32 x 32, in one half of it."""
    image = Image.new("RGB", (32, 32), "#888888")
    pen, x, y = ImageDraw.Draw(image), chance.randint(1, 3) + 16 * (place == "right"), chance.randint(9, 11)
    if shape == "disc":
        pen.ellipse((x, y, x + 11, y + 11), fill=colour)
    elif shape == "triangle":
        pen.polygon([(x, y + 11), (x + 11, y + 11), (x + 5, y)], fill=colour)
    else:
        pen.rectangle((x, y, x + 11, y + (11 if shape == "square" else 4)), fill=colour)
    return image


def pictures(seed: int) -> dict[str, Image.Image]:
    """A picture of every kind, by its full caption."""
    chance = random.Random(seed)
    return {" ".join(kind): draw(*kind, chance) for kind in KINDS}


def terse(caption: str, chance: random.Random) -> str:
    """What people say: the colour, often nothing else."""
    return " ".join(
        word for place, word in enumerate(caption.split()) if place == 0 or chance.random() < 0.35
    )


def tokenizer(*, ends: bool) -> hf.PreTrainedTokenizerFast:
    """A token a word; `ends` puts <s> and </s> around a text, as CLIP expects."""
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        around = [("<s>", 1), ("</s>", 3)]
        inner.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=around)
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<pad>"}
    more = {"extra_special_tokens": {"image_token": "<image>"}, "padding_side": "right" if ends else "left"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, **named, **more)


def eyes() -> CLIPImageProcessorPil:
    """Pixels as they are, scaled only."""
    return CLIPImageProcessorPil(do_resize=False, do_center_crop=False)


def trained(module: torch.nn.Module, batches: Any, lr: float) -> torch.nn.Module:
    """The module after a step of Adam on the loss of each batch."""
    adam = torch.optim.Adam(module.parameters(), lr)
    for batch in batches:
        adam.zero_grad()
        module(**batch).loss.backward()
        adam.step()
    return module.eval()


def listener(steps: int = 300, seed: int = 0) -> Listener:
    """A CLIP that has heard full captions."""
    torch.manual_seed(seed)
    config = hf.CLIPConfig(text_config=TEXT | {"projection_dim": 32}, vision_config=SIGHT, projection_dim=32)
    words, look = tokenizer(ends=True), eyes()

    def batches() -> Any:
        for step in range(steps):
            shown = pictures(1000 + step)
            texts = words(list(shown), padding=True, return_tensors="pt")
            pixels = look(list(shown.values()), return_tensors="pt")
            yield {**texts, **pixels, "return_loss": True}

    return Listener.from_pretrained(
        trained(hf.CLIPModel(config), batches(), 2e-3), tokenizer=words, processor=look
    )


TEMPLATE = """{% for message in messages %}{% for part in message['content'] %}
{%- if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"""


def processor() -> hf.LlavaProcessor:
    """Pictures and words of the captioner."""
    seen = {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaProcessor(
        eyes(), tokenizer(ends=False), image_token="<image>", chat_template=TEMPLATE, **seen
    )


def captioner(steps: int = 200, seed: int = 0) -> hf.LlavaForConditionalGeneration:
    """A Llava that has learnt terse captions."""
    torch.manual_seed(seed)
    parts = {"vision_config": hf.CLIPVisionConfig(**SIGHT), "text_config": hf.LlamaConfig(**TEXT)}
    module = hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(**parts, image_token_index=2, vision_feature_layer=-1)
    )
    read, chance = processor(), random.Random(seed)

    def batches() -> Any:
        for step in range(steps):
            shown = pictures(5000 + step)
            said = [f"<image> describe {terse(caption, chance)} </s>" for caption in shown]
            batch = read(images=list(shown.values()), text=said, padding=True, return_tensors="pt")
            places = torch.arange(batch["input_ids"].shape[1])
            asked = (batch["input_ids"] == 4).int().argmax(1, keepdim=True)  # after "describe"
            yield {**batch, "labels": batch["input_ids"].where(places > asked, torch.tensor(-100))}

    return trained(module, batches(), 2e-3)


def captions(module: torch.nn.Module, images: list[Image.Image]) -> list[str]:
    """Greedy captions."""
    read = processor()
    asked = read(images=images, text=["<image> describe"] * len(images), return_tensors="pt")
    with torch.no_grad():
        ids = module.eval().generate(**asked, max_new_tokens=6, do_sample=False)
    return read.batch_decode(ids[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)


def tune(module: torch.nn.Module, reward: ListenerReward, out: Path, steps: int = 60) -> Any:
    """The trainer after GRPO: eight captions a picture, compared with each other."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    prompt = [{"role": "user", "content": "describe"}]
    shown = [image for draws in range(4) for image in pictures(draws).values()]
    data = Dataset.from_list([{"prompt": prompt, "image": image} for image in shown])
    settings = GRPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=6,
        max_steps=steps,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        seed=0,
    )
    trainer = GRPOTrainer(module, reward, settings, train_dataset=data, processing_class=processor())
    trainer.train()
    return trainer


def main(out: Path) -> None:
    hears, speaks, test = listener(), captioner(), pictures(99)
    reward = ListenerReward(hears, bank=pictures(0), negatives=31)
    for step in (0, 60):
        if step:
            tune(speaks, reward, out, step).save_model(str(out / "model"))
        said = captions(speaks, list(test.values()))
        found = hears.precision_at(1, said, test, n=32)
        print(
            f"at step {step}: P@1 of 32 {found.value:.2f} [{found.low:.2f}, {found.high:.2f}], such as {said[::9]}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-listener-reward"))
