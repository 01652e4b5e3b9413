"""Models that cannot do everything: tokens without embeddings, weights put away, quantised, shared or never loaded."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import transformers as hf
from accelerate import cpu_offload, disk_offload
from torch import nn

import tiny_models
from trimtab import ConceptSet, Domain, ExpertLens, Fit, LinEAS, MeanAcT, Uniform, finetune
from trimtab.errors import ModelError, TrimtabError
from trimtab.models.hooks import capture, intervene
from trimtab.models.inspection import check_model, quantised
from trimtab.models.language import log_likelihood
from trimtab.models.load import as_model, load
from trimtab.models.tokenizer import longest, vocabulary

TEXTS = ["the quick fox", "Hello there", "zz top", "a b c", "one more", "two or three"]
FIT = Fit(
    steps=2, batch_size=2, seq_len=8, eval_sequences=4, probe_sequences=2, test_sequences=4, eval_points=2
)


def domain(mark=""):
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = [f"{mark}{letters[k % 26]}{letters[k // 26]} and more {mark}" for k in range(60)]
    return Domain("d", train=texts[:40], validation=texts[40:50], test=texts[50:])


def trained(model, mark=""):
    return finetune(model, train={"d": domain(mark)}, mixer=Uniform(targets=["d"]), fit=FIT)


def concepts(texts):
    return ConceptSet.one_against_rest({"a": texts[:3], "b": texts[3:]}, words=False)


VERBS = {
    "generate": lambda model, texts: model.generate(texts[:2], 3),
    "likelihood": lambda model, texts: log_likelihood(model, texts).nats.tolist(),
    "steering": lambda model, texts: _maps(MeanAcT(), model, texts),
    "descent": lambda model, texts: _maps(LinEAS(steps=2, sites="mlp_out"), model, texts),
    "experts": lambda model, texts: ExpertLens.fit(model, concepts(texts)).precision.tolist(),
    "fingerprint": lambda model, texts: model.fingerprint(),
}


def _maps(method, model, texts):
    return {
        site: [part.tolist() for part in pair]
        for site, pair in method.fit(model, texts[:3], texts[3:]).maps.items()
    }


# Tokens -------------------------------------------------------------------------------------------------


def with_tokens(*added, **special):
    words = tiny_models.tokenizer()
    words.add_tokens(list(added))
    words.add_special_tokens(special) if special else None
    return words


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "fingerprint"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_tokens_without_embedding_are_refused_with_both_sizes(verb, name):
    model = load(tiny_models.build(name), tokenizer=with_tokens("<|user|>"))
    message = (
        r"token 64 \('<\|user\|>'\) in .* of a tokenizer with 65 tokens.*embeddings for 64.*_embeddings\(65\)"
    )
    with pytest.raises(ModelError, match=message):
        VERBS[verb](model, ["<|user|>" + text for text in TEXTS])


def test_training_refuses_them_as_well():
    model = load(tiny_models.build("llama"), tokenizer=with_tokens("<|user|>"))
    before = model.fingerprint()
    with pytest.raises(ModelError, match=r"token 64 .* in d, split train, of a tokenizer with 65 tokens"):
        trained(model, "<|user|>")
    assert model.fingerprint() == before


def test_tokens_added_after_load_and_a_model_that_was_resized():
    words = tiny_models.tokenizer()
    model = load(tiny_models.build("llama"), tokenizer=words)
    words.add_tokens(["<new>"])
    with pytest.raises(ModelError, match="resize_token_embeddings"):
        model.generate(["a <new>"])
    model.module.resize_token_embeddings(len(words))
    assert np.isfinite(log_likelihood(model, ["a <new>"]).nats).all()


def test_tokens_that_no_text_has_do_no_harm():
    """Gemma 3's tokenizer has a token for pictures that its text models have no embedding for."""
    plain, more = load(tiny_models.build("llama"), tokenizer=tiny_models.tokenizer()), with_tokens("<image>")
    model = load(tiny_models.build("llama"), tokenizer=more)
    assert model.generate(TEXTS, 4) == plain.generate(TEXTS, 4)
    assert trained(model).status


def test_a_padding_token_without_embedding_is_not_used(make):
    """Padding that was added and the model not resized: any other id does as well under the mask."""
    words = with_tokens(pad_token="<pad>")
    model, plain = (load(make("llama"), tokenizer=one) for one in (words, tiny_models.tokenizer()))
    assert words.pad_token_id == 64
    assert model.generate(TEXTS, 4) == plain.generate(TEXTS, 4)
    np.testing.assert_array_equal(log_likelihood(model, TEXTS).nats, log_likelihood(plain, TEXTS).nats)


def test_a_head_of_another_size_than_the_embedding(make, tokenizer):
    module = make("llama")
    module.lm_head = nn.Linear(16, 40, bias=False)
    model = load(module, tokenizer=tokenizer)
    assert vocabulary(module) == 40
    with pytest.raises(ModelError, match=r"embeddings for 64 and outputs for 40"):
        log_likelihood(model, ["the ! quick"])
    module.lm_head = nn.Linear(16, 80, bias=False)
    with pytest.raises(ModelError, match="got outputs for 80 tokens beside embeddings for 64"):
        model.generate(["a"])


# Positions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_texts_beyond_the_positions(name, make, tokenizer):
    model = load(make(name), tokenizer=tokenizer)
    assert len(model.generate(["a" * 60], 5)) == 1  # 64 positions: the fifth new token is never read
    message = r"60 tokens in prompt 0 and max_new_tokens=6, expected at most 64, the model's limit"
    with pytest.raises(ModelError, match=message):
        model.generate(["a" * 60], 6)
    for verb in ("likelihood", "steering", "experts"):
        with pytest.raises(ModelError, match=r"got 65 tokens in text \d, expected at most 64.*max_tokens=64"):
            VERBS[verb](model, ["a" * 65, *TEXTS])
    fit = Fit(steps=2, batch_size=2, seq_len=80, eval_sequences=2, probe_sequences=2, test_sequences=2)
    rows = ["ab" * 40 + f" {k}" for k in range(12)]
    parts = Domain(
        "d", train=rows[:6], validation=[r + "a" for r in rows[6:9]], test=[r + "b" for r in rows[9:]]
    )
    with pytest.raises(
        ModelError, match=r"80 tokens in a row of d, split train \(fit\.seq_len=80\).*fit\.seq_len=64"
    ):
        finetune(model, train={"d": parts}, mixer=Uniform(targets=["d"]), fit=fit)


def test_a_table_of_positions_that_begins_after_the_padding(tokenizer):
    """RoBERTa has two places less than its configuration says; one more token would be an index out of range."""
    config = hf.RobertaConfig(
        **tiny_models.SIZES | {"pad_token_id": 1, "is_decoder": True, "max_position_embeddings": 20}
    )
    model = load(hf.RobertaForCausalLM(config).eval(), tokenizer=tokenizer)
    assert longest(model.module) == 18
    assert log_likelihood(model, ["a" * 18]).tokens.tolist() == [17]
    with pytest.raises(ModelError, match="expected at most 18"):
        log_likelihood(model, ["a" * 19])


# Offloaded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cpu", "disk"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_offloaded_weights_give_the_same_numbers(how, name, make, tokenizer, tmp_path):
    away = make(name)
    where = torch.device("cpu")
    away = cpu_offload(away, where) if how == "cpu" else disk_offload(away, str(tmp_path), where)
    assert {parameter.device.type for parameter in away.parameters()} == {"meta"}
    learning = [parameter.requires_grad for parameter in away.parameters()]
    plain, model = load(make(name), tokenizer=tokenizer), load(away, tokenizer=tokenizer)
    assert model.device == where
    for verb, work in VERBS.items():
        assert work(model, TEXTS) == work(plain, TEXTS), verb
    assert [parameter.requires_grad for parameter in away.parameters()] == learning
    steering = MeanAcT(sites="mlp_out").fit(plain, TEXTS[:3], TEXTS[3:])
    with steering.on(model, 0.5), steering.on(plain, 0.5):
        assert model.generate(TEXTS[:2], 3) == plain.generate(TEXTS[:2], 3)
    for refused in (
        lambda: trained(model),
        lambda: steering.fuse(model),
        lambda: model.save_pretrained(tmp_path / "m"),
    ):
        with pytest.raises(
            ModelError, match="accelerate has offloaded, expected weights that stay on one device"
        ):
            refused()
    assert not (tmp_path / "m").exists()


def test_weights_partly_on_disk(make, tokenizer, tmp_path):
    make("llama").save_pretrained(tmp_path / "m")
    places = {
        "model.layers.1": "disk",
        "model.layers.0": "cpu",
        "model.embed_tokens": "cpu",
        "lm_head": "cpu",
    }
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu"}
    part = hf.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", device_map=places, offload_folder=str(tmp_path)
    )
    model, plain = load(part, tokenizer=tokenizer), load(make("llama"), tokenizer=tokenizer)
    for verb, work in VERBS.items():
        assert work(model, TEXTS) == work(plain, TEXTS), verb


@pytest.mark.parametrize("some", [True, False])
def test_weights_that_were_never_loaded(some, make, tokenizer):
    module = make("llama")
    (module.model.layers[1] if some else module).to("meta")
    with pytest.raises(
        ModelError, match=r"weight without values \(on the meta device\), expected weights that are loaded"
    ):
        load(module, tokenizer=tokenizer)
    with pytest.raises(ModelError, match="expected weights that are loaded"):
        MeanAcT(sites="model.layers.0.mlp").fit(module, [{"input_ids": torch.ones(2, 3).long()}] * 2, [{}])


# Quantised ----------------------------------------------------------------------------------------------


def int8(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, torch.qint8)


def test_int8_of_torch(make, tokenizer, tmp_path):
    model = load(int8(make("llama")), tokenizer=tokenizer)
    assert "Linear at model.layers.0.self_attn.q_proj" in quantised(model.module)
    for verb in ("generate", "likelihood", "steering", "experts"):
        VERBS[verb](model, TEXTS)
    assert model.fingerprint() == load(int8(make("llama")), tokenizer=tokenizer).fingerprint()
    assert model.fingerprint() != load(int8(make("llama", seed=1)), tokenizer=tokenizer).fingerprint()
    steering = MeanAcT(sites="mlp_out").fit(model, TEXTS[:3], TEXTS[3:])
    for refused in (
        lambda: trained(model),
        lambda: steering.fuse(model),
        lambda: VERBS["descent"](model, TEXTS),
        lambda: model.save_pretrained(tmp_path / "m"),
        lambda: load(model.module, tokenizer=tokenizer, adapter={"r": 2}),
    ):
        with pytest.raises(TrimtabError, match=r"got .*expected"):
            refused()
    assert not (tmp_path / "m").exists()


class Linear8bitLt(nn.Linear):
    """Packed integers in the place of weights, as bitsandbytes and others have them."""

    def __init__(self, like: nn.Linear) -> None:
        super().__init__(like.in_features, like.out_features, bias=False)
        self.scale = float(like.weight.detach().abs().max()) / 127
        packed = (like.weight.data / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x):
        return x @ (self.weight.to(x.dtype) * self.scale).T


def packed(module):
    for layer in module.model.layers:
        layer.mlp.down_proj = Linear8bitLt(layer.mlp.down_proj)
    return module


def test_packed_integers_as_weights(make, tokenizer):
    model = load(packed(make("llama")), tokenizer=tokenizer)
    for verb in VERBS:
        VERBS[verb](model, TEXTS)
    steering = MeanAcT(sites="mlp_out").fit(model, TEXTS[:3], TEXTS[3:])
    with pytest.raises(
        ModelError,
        match=r"got a quantised model \(a Linear8bitLt at model\..*\) for folding into its weights",
    ):
        steering.fuse(model)
    with pytest.raises(ModelError, match=r"got a quantised model .* for training.*; try adapter=\{'r': 16\}"):
        trained(model)
    with_adapter = load(packed(make("llama")), tokenizer=tokenizer, adapter={"r": 2, "targets": ["q_proj"]})
    check_model(with_adapter, "training")


# Shared layers, compiled models ---------------------------------------------------------------------------


def test_a_layer_at_two_places(make, tokenizer):
    module = make("gpt2")
    module.config.use_cache = False
    module.transformer.h[1].mlp = module.transformer.h[0].mlp
    model = load(module, tokenizer=tokenizer)
    message = r"transformer\.h\.0\.mlp\.c_proj:out: got a module that runs several times in one forward pass"
    with pytest.raises(ModelError, match=message):
        MeanAcT(sites="mlp_out").fit(model, TEXTS[:3], TEXTS[3:])
    with (
        pytest.raises(ModelError, match=message),
        intervene(model, {"transformer.h.0.mlp.c_proj": lambda h: 2 * h}),
    ):
        log_likelihood(model, TEXTS)
    with pytest.raises(
        ModelError, match=r"got another name of transformer\.h\.0\.mlp\.c_proj, which both places share"
    ):
        MeanAcT(sites="transformer.h.1.mlp.c_proj").fit(model, TEXTS[:3], TEXTS[3:])
    assert model.generate(["ab"], 2)
    plain = MeanAcT(sites="transformer.h.0.mlp").fit(
        load(make("gpt2"), tokenizer=tokenizer), TEXTS[:3], TEXTS[3:]
    )
    with pytest.raises(ModelError, match=r"transformer\.h\.0\.mlp.*is also|runs several times"):
        plain.fuse(model)


def test_a_layer_that_runs_again_and_again():
    """ALBERT has one block for all its layers."""
    albert = hf.AlbertModel(
        hf.AlbertConfig(**tiny_models.SIZES | {"embedding_size": 8, "pad_token_id": 2})
    ).eval()
    keywords = tiny_models.inputs("bert")
    path = "encoder.albert_layer_groups.0.albert_layers.0.ffn_output"
    with pytest.raises(ModelError, match="runs several times in one forward pass"), capture(albert, path):
        albert(**keywords)
    with torch.no_grad(), capture(albert, "pooler") as taken:  # what runs once is read as ever
        albert(**keywords)
        albert(**keywords)
    assert taken["pooler:out"].shape == (4, 16)


def test_a_compiled_model(make, tokenizer):
    plain = load(make("llama"), tokenizer=tokenizer)
    model = load(torch.compile(make("llama"), backend="eager"), tokenizer=tokenizer)
    with torch.compiler.set_stance("force_eager"):  # wrapped, and quick
        for verb in ("generate", "likelihood", "fingerprint"):
            assert VERBS[verb](model, TEXTS) == VERBS[verb](plain, TEXTS)
    for refused in (lambda: trained(model), lambda: VERBS["steering"](model, TEXTS)):
        with pytest.raises(ModelError, match="compiled"):
            refused()


@pytest.mark.parametrize("what", ["a path", nn.Linear(2, 2), None])
def test_no_handle(what):
    with pytest.raises(ModelError, match=r"got a \w+, expected a loaded model; try load"):
        log_likelihood(what, ["a"])


def test_training_takes_what_load_takes(make, tokenizer, tmp_path):
    make("llama").save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    assert trained(str(tmp_path / "m")).status == trained(load(tmp_path / "m")).status
    with pytest.raises(ModelError, match="got a LlamaForCausalLM without tokenizer"):
        trained(make("llama"))
    handle = load(make("llama"))
    assert as_model(handle) is handle


def test_a_module_without_logits(tokenizer):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Embedding(64, 4)

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids)

    with pytest.raises(
        ModelError, match="got a Own that returns no logits, expected a causal language model"
    ):
        log_likelihood(load(Own(), tokenizer=tokenizer), ["ab"])
