from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
import torch
import transformers as hf
from peft import LoraConfig
from torch import nn

import tiny_models
from trimtab.errors import ModelError
from trimtab.models.families import FAMILIES
from trimtab.models.inspection import require_language_model
from trimtab.models.load import load


@pytest.fixture
def folder(tmp_path, make, tokenizer):
    make("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_folder_gives_the_saved_weights(folder, make):
    model = load(folder)
    saved = make("llama").state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in model.module.state_dict().items())
    assert not model.module.training
    assert model.name == str(folder)
    assert model.family == FAMILIES["llama"]
    assert model.tokenizer("ab")["input_ids"] == [3, 4]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_dtype_is_the_one_asked_for(folder, dtype):
    model = load(str(folder), dtype=dtype)
    assert {parameter.dtype for parameter in model.module.parameters()} == {getattr(torch, dtype)}


def test_without_dtype_the_checkpoint_decides(tmp_path, make, tokenizer):
    make("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    assert load(tmp_path, tokenizer=tokenizer).module.dtype == torch.bfloat16


EMULATED = "no arithmetic for bfloat16"


@pytest.mark.parametrize(("processor", "told"), [("AVX2", 1), ("NO AVX", 1), ("AVX512", 0), ("DEFAULT", 0)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_emulated_bfloat16_is_warned_of(folder, dtype, processor, told, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(str(folder), dtype=dtype)
    about = [one for one in caught if EMULATED in str(one.message)]
    assert len(about) == (told if dtype == "bfloat16" else 0)
    assert all(one.filename == __file__ for one in about)


def test_module_is_kept_as_it_is(make, tokenizer):
    module = make("gpt2").train()
    model = load(module, tokenizer=tokenizer)
    assert model.module is module
    assert module.training
    assert model.tokenizer is tokenizer
    assert model.device == torch.device("cpu")


def test_plain_module_is_accepted(tokenizer):
    model = load(nn.Linear(2, 3), tokenizer=tokenizer)
    assert list(model.trainable()) == ["weight", "bias"]
    assert model.name == "Linear"


def test_handle_is_frozen(make, tokenizer):
    model = load(make("gpt2"), tokenizer=tokenizer)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_full_mode_trains_every_parameter_once(name, make, tokenizer):
    model = load(make(name), tokenizer=tokenizer)
    found = model.trainable()
    assert len({id(parameter) for parameter in found.values()}) == len(found)
    assert {id(p) for p in found.values()} == {id(p) for p in model.module.parameters()}


def test_frozen_parameters_are_not_trainable(make, tokenizer):
    module = make("llama")
    module.model.embed_tokens.requires_grad_(False)
    assert "model.embed_tokens.weight" not in load(module, tokenizer=tokenizer).trainable()


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_adapter_trains_only_itself_and_starts_as_the_identity(name, make, tokenizer):
    ids = torch.tensor([[3, 4, 5, 6]])
    module = make(name)
    with torch.no_grad():
        before = module(ids).logits
    model = load(module, tokenizer=tokenizer, adapter={"r": 2, "alpha": 4, "dropout": 0.0})
    with torch.no_grad():
        assert torch.equal(model.module(ids).logits, before)
    found = model.trainable()
    assert all(".lora_A." in key or ".lora_B." in key for key in found)
    assert all(key.startswith(FAMILIES[name].blocks + ".") for key in found)
    model.module(ids).logits.square().sum().backward()
    grown = {id(p) for p in model.module.parameters() if p.grad is not None}
    assert grown == {id(p) for p in found.values()}


def test_adapter_targets_and_strength(make, tokenizer):
    model = load(make("llama"), tokenizer=tokenizer, adapter={"r": 2, "targets": ["q_proj"]})
    assert len(model.trainable()) == 2 * 2
    assert all(".q_proj.lora_" in key for key in model.trainable())
    assert model.module.peft_config["default"].lora_alpha == 4


def test_adapter_start_is_seeded_and_leaves_the_callers_generator(make, tokenizer):
    def start(seed):
        return load(make("llama"), tokenizer=tokenizer, adapter={"r": 2, "seed": seed}).fingerprint()

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = start(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert start(0) == first
    assert start(1) != first


def test_lora_config_of_peft_is_accepted(make, tokenizer):
    from peft import LoraConfig

    config = LoraConfig(r=3, target_modules=["down_proj"], task_type="CAUSAL_LM")
    model = load(make("llama"), tokenizer=tokenizer, adapter=config)
    assert {p.shape[0] for key, p in model.trainable().items() if "lora_A" in key} == {3}


def test_fingerprint_follows_the_weights(make, tokenizer):
    model = load(make("llama"), tokenizer=tokenizer)
    first = model.fingerprint()
    assert first == load(make("llama"), tokenizer=tokenizer).fingerprint()
    assert first != load(make("llama", seed=1), tokenizer=tokenizer).fingerprint()
    with torch.no_grad():
        model.module.model.norm.weight[3] += 1e-6
    assert model.fingerprint() != first


def test_an_adapter_with_dropout_is_in_the_mode_of_its_model(folder):
    ids = torch.tensor([[5, 6, 7, 8]])
    model = load(folder, adapter={"r": 2, "dropout": 0.5})
    for name, weight in model.module.named_parameters():
        if "lora_B" in name:
            nn.init.ones_(weight)  # they are 0 at first, so that dropout before them changes nothing
    assert not any(part.training for part in model.module.modules())
    assert torch.equal(model.module(input_ids=ids).logits, model.module(input_ids=ids).logits)
    training = load(tiny_models.build("llama").train(), adapter={"r": 2, "dropout": 0.5})
    assert all(part.training for part in training.module.modules())


# Other kinds --------------------------------------------------------------------------------------------


def make_clip(folder, name="clip"):
    tiny_models.build(name).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["bert", "bert_masked_lm", "clip", "clip_text_model", "clip_vision_model"])
def test_folder_is_loaded_with_the_class_that_saved_it(name, tmp_path):
    module = tiny_models.build(name)
    module.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert type(model.module) is type(module)
    assert not model.module.training
    assert (model.tokenizer, model.processor) == (None, None)
    keywords = tiny_models.inputs(name)
    with torch.no_grad():
        assert torch.equal(model.module(**keywords)[0], module(**keywords)[0])
        assert model.fingerprint() == load(module).fingerprint()


def test_a_class_with_another_head_is_kept(tmp_path):
    module = hf.BertForSequenceClassification(tiny_models.CONFIGS["bert"](num_labels=3))
    module.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert torch.equal(model.module.classifier.weight, module.classifier.weight)


def test_checkpoint_that_names_no_class_is_loaded_bare(tmp_path):
    tiny_models.build("bert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(load(tmp_path).module) is hf.BertModel


def test_encoder_with_a_tokenizer_beside_it(tmp_path, tokenizer):
    tiny_models.build("bert").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load(tmp_path).tokenizer("ab")["input_ids"] == [3, 4]


def test_processor_beside_it_or_given(tmp_path, tokenizer):
    pictures = hf.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    make_clip(tmp_path / "with", "clip_vision_model")
    pictures.save_pretrained(tmp_path / "with")
    found = load(tmp_path / "with").processor
    assert found.crop_size["height"] == 16
    make_clip(tmp_path / "without")
    assert load(tmp_path / "without", processor=pictures).processor is pictures
    assert load(tmp_path / "without", processor=tmp_path / "with").processor.crop_size["height"] == 16
    assert load(tiny_models.build("clip"), processor=pictures, tokenizer=tokenizer).processor is pictures


@pytest.mark.parametrize("name", ["unet", "pixart", "clip"])
def test_any_module_is_a_model_without_a_tokenizer(name):
    module = tiny_models.build(name)
    model = load(module)
    assert model.module is module
    assert model.tokenizer is None
    assert model.family is None
    assert model.device == torch.device("cpu")
    assert len(model.fingerprint()) == 16


def test_adapter_in_an_encoder():
    keywords = tiny_models.inputs("bert")
    module = tiny_models.build("bert")
    with torch.no_grad():
        before = module(**keywords)[0]
        model = load(module, adapter={"r": 2})
        assert torch.equal(model.module(**keywords)[0], before)
    assert all(key.startswith("encoder.layer.") or "pooler" in key for key in model.trainable())
    assert model.family.name == "bert"


# Refusals -----------------------------------------------------------------------------------------------


def test_missing_folder(tmp_path):
    with pytest.raises(ModelError, match=r"got the folder .*nowhere.*, which does not exist, expected"):
        load(tmp_path / "nowhere")


def test_folder_without_config(tmp_path):
    with pytest.raises(
        ModelError, match=r"without config\.json, expected a folder written by save_pretrained"
    ):
        load(str(tmp_path))


def test_adapter_folder(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="but with an adapter, expected a whole model; try PeftModel"):
        load(tmp_path)


def test_broken_config(tmp_path):
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(
        ModelError, match=r"config\.json: got text that is not JSON .* expected a model's conf"
    ):
        load(tmp_path)


def test_folder_without_tokenizer(tmp_path, make):
    make("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"without a tokenizer, expected tokenizer files; try tokenizer="):
        load(tmp_path)


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"expected weights in safetensors; try save_pretrained again"):
        load(folder)


def bert(decodes=False):
    return hf.BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        is_decoder=decodes,
    )


def t5():
    return hf.T5Config(vocab_size=64, d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8)


@pytest.mark.parametrize("config", [bert(), t5(), hf.ViTConfig()], ids=["bert", "t5", "vit"])
def test_folder_of_another_kind_than_asked_for_is_refused_before_its_weights(tmp_path, config):
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r", which is \w+, expected a causal language model; try"):
        load(tmp_path, kind="language model")


def test_headless_checkpoint_is_no_language_model_because_its_head_would_be_random(tmp_path, make, tokenizer):
    make("llama").model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"which is LlamaModel, expected a causal language model"):
        load(tmp_path, kind="language model")
    assert type(load(tmp_path).module) is hf.LlamaModel


OTHER_MODULES = [lambda: hf.BertModel(bert()), lambda: hf.T5ForConditionalGeneration(t5())]


@pytest.mark.parametrize("build", OTHER_MODULES)
def test_module_of_another_kind_than_asked_for(build, tokenizer):
    message = r"got a \w+, expected a causal language model; try its ...ForCausalLM"
    with pytest.raises(ModelError, match=message):
        load(build(), tokenizer=tokenizer, kind="language model")
    with pytest.raises(ModelError, match=message):
        require_language_model(load(build(), tokenizer=tokenizer))


def test_another_kind_inside_an_adapter_is_refused_too(tokenizer):
    model = load(hf.BertModel(bert()), tokenizer=tokenizer, adapter={"r": 2})
    with pytest.raises(ModelError, match="got a BertModel, expected a causal language model"):
        require_language_model(model)


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_language_models_pass_as_they_are(name, make, tokenizer):
    module = make(name)
    model = load(module, tokenizer=tokenizer, kind="language model")
    require_language_model(model)
    assert model.module is module


def test_bert_set_to_decode_is_causal(tokenizer):
    model = load(hf.BertLMHeadModel(bert(decodes=True)), tokenizer=tokenizer, kind="language model")
    assert model.family.name == "bert"


def test_module_without_tokenizer(make):
    model = load(make("llama"))
    assert model.tokenizer is None
    message = r"got a LlamaForCausalLM without tokenizer, expected tokenizer= beside a module; try load\(module, tok"
    for refused in (model.need_tokenizer, lambda: require_language_model(model)):
        with pytest.raises(ModelError, match=message):
            refused()
    with pytest.raises(ModelError, match=message):
        load(make("llama"), kind="language model")


def test_unknown_kind_is_refused_before_the_folder_is_looked_at():
    with pytest.raises(ModelError, match=r"kind: got 'language', expected one of .*; try 'language model'"):
        load("./nowhere", kind="language")


def test_pipeline_folder_where_a_language_model_is_wanted(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(
        ModelError, match=r"but with a pipeline, expected one model; try load\(pipeline\.unet\)"
    ):
        load(tmp_path, kind="language model")


def test_processor_that_is_not_there(tmp_path):
    make_clip(tmp_path)
    with pytest.raises(ModelError, match=r"expected a processor; try processor="):
        load(tmp_path, processor=tmp_path / "empty")


def test_unknown_dtype_is_refused_before_the_folder_is_looked_at():
    with pytest.raises(ModelError, match=r"dtype: got 'bfloat', expected one of .*; try 'bfloat16'"):
        load("./nowhere", dtype="bfloat")


def test_dtype_beside_a_module(make, tokenizer):
    with pytest.raises(
        ModelError, match=r"got dtype=, device= or load_in_4bit= beside a module, .*try module\.to"
    ):
        load(make("llama"), tokenizer=tokenizer, dtype="float64")


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"rank": 4}, r"adapter: got 'rank', expected keys among"),
        ({"dropuot": 0.1}, r"adapter: got 'dropuot', expected keys among .*; try 'dropout'"),
        ({"r": 0}, r"adapter r: got 0, expected a whole number of at least 1"),
        ({"r": True}, r"adapter r: got True, expected a whole number of at least 1"),
        ({"alpha": -1}, r"adapter alpha: got -1, expected a number above 0"),
        ({"dropout": 1.0}, r"adapter dropout: got 1\.0, expected a number in \[0, 1\)"),
        ({"targets": []}, r"adapter targets: got \[\], expected 'all-linear' or a list of module names"),
        ({"targets": 3}, r"adapter targets: got 3, expected 'all-linear'"),
    ],
)
def test_wrong_adapters_are_refused_before_the_folder_is_looked_at(adapter, message):
    with pytest.raises(ModelError, match=message):
        load("./nowhere", adapter=adapter)


def test_adapter_targets_that_match_nothing(make, tokenizer):
    with pytest.raises(
        ModelError, match=r"adapter targets: got .*nothing_like_it.*, expected names in the model"
    ):
        load(make("llama"), tokenizer=tokenizer, adapter={"targets": ["nothing_like_it"]})


@pytest.mark.parametrize(
    ("settings", "module", "message"),
    [
        ({"init_lora_weights": "pissa"}, torch.float64, "initialize PiSSA under float32"),
        (
            {"init_lora_weights": "orthogonal", "r": 3},
            torch.float32,
            "requires the LoRA rank to be even, got 3",
        ),
    ],
    ids=["type", "value"],
)
def test_what_peft_refuses_is_told_as_it_is(make, tokenizer, settings, module, message):
    with pytest.raises(ModelError, match=rf"adapter: got .*{message}.*, expected settings that peft can put"):
        load(
            make("llama").to(module),
            tokenizer=tokenizer,
            adapter=LoraConfig(**{"r": 2, **settings}, target_modules=["q_proj"]),
        )


def test_memory_that_runs_out_is_no_mistake_of_the_settings(make, tokenizer, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("peft.get_peft_model", full)
    with pytest.raises(torch.OutOfMemoryError):
        load(make("llama"), tokenizer=tokenizer, adapter={"r": 2})


def test_second_adapter(make, tokenizer):
    once = load(make("llama"), tokenizer=tokenizer, adapter={"r": 2})
    with pytest.raises(ModelError, match="has an adapter, expected one adapter; try adapter=None"):
        load(once.module, tokenizer=tokenizer, adapter={"r": 2})


def test_nothing_to_train(make, tokenizer):
    module = make("llama").requires_grad_(False)
    with pytest.raises(
        ModelError, match=r"every parameter frozen, expected something to train; try adapter="
    ):
        load(module, tokenizer=tokenizer).trainable()


def test_hub_name_that_cannot_be_reached():
    with pytest.raises(
        ModelError, match=r"no-such-owner/no-such-model.*; try check the name and the network"
    ):
        load("no-such-owner/no-such-model")
