"""Tiny models in the published form, with weights by a formula, the same on every machine, for the laws of verify.py.

The stored numbers are what transformers and torch.optim.AdamW make of them; tests/test_verify.py derives them again."""

import math
import re
import tempfile
from functools import partial
from pathlib import Path

import torch

from . import files, pretrained, safetensors

CONFIG = {  # what it leaves out, such as which GELU and which epsilon, has the published default
    "gpt2": {"n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 4}
    | {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0},
    "gpt_neo": {"max_position_embeddings": 24, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "window_size": 3}
    | {"attention_types": [[["global", "local"], 1]]}
    | {"embed_dropout": 0.0, "attention_dropout": 0.0, "resid_dropout": 0.0},
    "opt": {"max_position_embeddings": 24, "hidden_size": 16, "ffn_dim": 64, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "dropout": 0.0, "attention_dropout": 0.0},
    "bert": {"max_position_embeddings": 24, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "distilbert": {"max_position_embeddings": 24, "dim": 16, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
    | {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
    "bart": {"max_position_embeddings": 24, "d_model": 16, "dropout": 0.0, "decoder_start_token_id": 2}
    | {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 2), ("ffn_dim", 64))}
    | {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    "t5": {"d_model": 16, "d_kv": 6, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    | {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "decoder_start_token_id": 0},
}
CONFIG["roberta"] = CONFIG["bert"] | {"max_position_embeddings": 29, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
CONFIG["roberta"] |= {"pad_token_id": 4}  # another than 1, and in no text: positions begin behind it
SIDE = CONFIG["bert"] | {"model_type": "bert", "vocab_size": 29, "pad_token_id": 0}
CONFIG["bert2bert"] = {"model_type": "encoder-decoder", "decoder_start_token_id": 1, "encoder": SIDE}
CONFIG["bert2bert"] |= {"decoder": SIDE | {"is_decoder": True, "add_cross_attention": True}}
CONFIG["t5-1.1"] = CONFIG["t5"] | {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CONFIG["opt-350m"] = CONFIG["opt"] | {"model_type": "opt", "word_embed_proj_dim": 12, "do_layer_norm_before": False}
CONFIG["marian"] = CONFIG["bart"] | {"activation_function": "swish", "scale_embedding": True}
CONFIG["kim_cnn"] = {"embedding_size": 16, "channels": "multichannel", "widths": [2, 4], "maps": 6, "dropout": 0.0}
# The tensors of a published file, as weight+bias. GPT-2 stores its matrices (in, out), BERT (out, in).
GPT2 = """transformer.wte.weight:29x16 transformer.wpe.weight:24x16 transformer.h.*.ln_1:16+16
    transformer.h.*.attn.c_attn:16x48+48 transformer.h.*.attn.c_proj:16x16+16 transformer.h.*.ln_2:16+16
    transformer.h.*.mlp.c_fc:16x64+64 transformer.h.*.mlp.c_proj:64x16+16 transformer.ln_f:16+16 """
NEO = """transformer.wte.weight:29x16 transformer.wpe.weight:24x16 transformer.h.*.ln_1:16+16
    transformer.h.*.attn.attention.k_proj.weight:16x16 transformer.h.*.attn.attention.v_proj.weight:16x16
    transformer.h.*.attn.attention.q_proj.weight:16x16 transformer.h.*.attn.attention.out_proj:16x16+16
    transformer.h.*.ln_2:16+16 transformer.h.*.mlp.c_fc:64x16+64 transformer.h.*.mlp.c_proj:16x64+16
    transformer.ln_f:16+16 """
BERT = """bert.embeddings.word_embeddings.weight:29x16 bert.embeddings.position_embeddings.weight:24x16
    bert.embeddings.token_type_embeddings.weight:2x16 bert.embeddings.LayerNorm:16+16
    bert.encoder.layer.*.attention.self.query:16x16+16 bert.encoder.layer.*.attention.self.key:16x16+16
    bert.encoder.layer.*.attention.self.value:16x16+16 bert.encoder.layer.*.attention.output.dense:16x16+16
    bert.encoder.layer.*.attention.output.LayerNorm:16+16 bert.encoder.layer.*.intermediate.dense:64x16+64
    bert.encoder.layer.*.output.dense:16x64+16 bert.encoder.layer.*.output.LayerNorm:16+16 """
MLM = "cls.predictions.transform.dense:16x16+16 cls.predictions.transform.LayerNorm:16+16 cls.predictions.bias:29"
ROBERTA = BERT.replace("bert.", "roberta.").replace(":24x16", ":29x16").replace(":2x16", ":1x16")
ROBERTA_MLM = "lm_head.dense:16x16+16 lm_head.layer_norm:16+16 lm_head.bias:29"
DISTIL = """distilbert.embeddings.word_embeddings.weight:29x16 distilbert.embeddings.position_embeddings.weight:24x16
    distilbert.embeddings.LayerNorm:16+16 distilbert.transformer.layer.*.attention.q_lin:16x16+16
    distilbert.transformer.layer.*.attention.k_lin:16x16+16 distilbert.transformer.layer.*.attention.v_lin:16x16+16
    distilbert.transformer.layer.*.attention.out_lin:16x16+16 distilbert.transformer.layer.*.sa_layer_norm:16+16
    distilbert.transformer.layer.*.ffn.lin1:64x16+64 distilbert.transformer.layer.*.ffn.lin2:16x64+16
    distilbert.transformer.layer.*.output_layer_norm:16+16 """
DISTIL_MLM = "vocab_transform:16x16+16 vocab_layer_norm:16+16 vocab_projector.bias:29"
ACROSS = " ".join(entry.replace(".attention.", ".crossattention.") for entry in BERT.split() if ".attention." in entry)
BERT2BERT = f"""{BERT.replace("bert.", "encoder.")} encoder.pooler.dense:16x16+16
    {" ".join(f"decoder.{entry}" for entry in (BERT + ACROSS + " " + MLM).split())}"""
SCORE, POOLED = "score.weight:3x16", "bert.pooler.dense:16x16+16 classifier:3x16+3"
DENSE, RELU = "classifier.dense:16x16+16 classifier.out_proj:3x16+3", "pre_classifier:16x16+16 classifier:3x16+3"
SEEN = " ".join(f"model.SIDE.layers.*.{{0}}.{name}_proj:16x16+16" for name in ("k", "v", "q", "out"))
ENCODER = f"""{SEEN.format("self_attn")} model.SIDE.layers.*.self_attn_layer_norm:16+16
    model.SIDE.layers.*.fc1:64x16+64 model.SIDE.layers.*.fc2:16x64+16 model.SIDE.layers.*.final_layer_norm:16+16 """
OPT350 = f"""model.decoder.embed_tokens.weight:29x12 model.decoder.embed_positions.weight:26x16
    model.decoder.project_in.weight:16x12 model.decoder.project_out.weight:12x16
    {ENCODER.replace("SIDE", "decoder")} """
OPT = f"""model.decoder.embed_tokens.weight:29x16 model.decoder.embed_positions.weight:26x16
    model.decoder.final_layer_norm:16+16 {ENCODER.replace("SIDE", "decoder")} """
DECODER = f"{ENCODER} {SEEN.format('encoder_attn')} model.SIDE.layers.*.encoder_attn_layer_norm:16+16 "
STACKS = ENCODER.replace("SIDE", "encoder") + DECODER.replace("SIDE", "decoder")
MARIAN = f"model.shared.weight:29x16 final_logits_bias:1x29 {STACKS}"
BART = MARIAN + " ".join(
    f"model.{side}.embed_positions.weight:26x16 model.{side}.layernorm_embedding:16+16"
    for side in ("encoder", "decoder")
)
QKVO = " ".join(f"{{0}}.{name}.weight:{'16x24' if name == 'o' else '24x16'}" for name in "qkvo")
T5 = f"""SIDE.block.*.layer.0.layer_norm.weight:16 {QKVO.format("SIDE.block.*.layer.0.SelfAttention")}
    SIDE.block.0.layer.0.SelfAttention.relative_attention_bias.weight:8x4 SIDE.final_layer_norm.weight:16
    SIDE.block.*.layer.LAST.layer_norm.weight:16 SIDE.block.*.layer.LAST.DenseReluDense.wi.weight:64x16
    SIDE.block.*.layer.LAST.DenseReluDense.wo.weight:16x64 """
T5 = f"""shared.weight:29x16 {T5.replace("SIDE", "encoder").replace("LAST", "1")}
    {T5.replace("SIDE", "decoder").replace("LAST", "2")} decoder.block.*.layer.1.layer_norm.weight:16
    {QKVO.format("decoder.block.*.layer.1.EncDecAttention")}"""
GATED = re.sub(r"(\S+)\.wi\.(\S+)", r"\1.wi_0.\2 \1.wi_1.\2", T5) + " lm_head.weight:29x16"
KIM = "static:29x16 embed.weight:29x16 convs.0:6x16x2+6 convs.1:6x16x4+6 classifier:3x12+3"
KINDS = {  # by family: kind, the name that config.json gives it, its tensors; first the one that ends in the vocabulary
    "gpt2": {"lm": ("GPT2LMHeadModel", GPT2), "classify": ("GPT2ForSequenceClassification", GPT2 + SCORE)},
    "gpt_neo": {"lm": ("GPTNeoForCausalLM", NEO), "classify": ("GPTNeoForSequenceClassification", NEO + SCORE)},
    "opt": {"lm": ("OPTForCausalLM", OPT), "classify": ("OPTForSequenceClassification", OPT + SCORE)},
    "opt-350m": {
        "lm": ("OPTForCausalLM", OPT350),
        "classify": ("OPTForSequenceClassification", OPT350 + "score.weight:3x12"),
    },
    "bert": {"mlm": ("BertForMaskedLM", BERT + MLM), "classify": ("BertForSequenceClassification", BERT + POOLED)},
    "roberta": {
        "mlm": ("RobertaForMaskedLM", ROBERTA + ROBERTA_MLM),
        "classify": ("RobertaForSequenceClassification", ROBERTA + DENSE),
    },
    "distilbert": {
        "mlm": ("DistilBertForMaskedLM", DISTIL + DISTIL_MLM),
        "classify": ("DistilBertForSequenceClassification", DISTIL + RELU),
    },
    "bart": {"seq2seq": ("BartForConditionalGeneration", BART)},
    "marian": {"seq2seq": ("MarianMTModel", MARIAN)},
    "t5": {"seq2seq": ("T5ForConditionalGeneration", T5)},
    "t5-1.1": {"seq2seq": ("T5ForConditionalGeneration", GATED)},
    "bert2bert": {"seq2seq": ("EncoderDecoderModel", BERT2BERT)},
    "kim_cnn": {"classify": ("KimCNN", KIM)},
}
# The file in models/ of a family that does not bear its name.
FILES = {"marian": "bart", "t5-1.1": "t5", "opt-350m": "opt"}
HEADS = {family: ["score.weight"] for family in ("gpt2", "gpt_neo", "opt", "opt-350m")}  # what fine-tuning adds
HEADS |= {"bert": ["classifier.bias", "classifier.weight"]}
HEADS["roberta"] = [f"classifier.{layer}.{name}" for layer in ("dense", "out_proj") for name in ("bias", "weight")]
HEADS["kim_cnn"] = HEADS["bert"]
HEADS["distilbert"] = [*HEADS["bert"], "pre_classifier.bias", "pre_classifier.weight"]
IDS, OTHER = torch.tensor([[5, 17, 2, 26, 11, 8]]), torch.tensor([[23, 7, 14, 20]])
EXAMPLES = [{"ids": list(range(5 * n + 1, 5 * n + 4 + 2 * n % 7)), "target": n % 3} for n in range(5)]  # 3 to 9 tokens
PAIRS = [e | {"target": [(3 * id + n) % 29 for id in e["ids"][:: n % 2 + 1]]} for n, e in enumerate(EXAMPLES)]
BATCHES = [[0, 1, 2, 3], [4]]  # so unequal that the mean of their means is not the mean of all
REFERENCE = {  # the logits of IDS, of the language models every thirtieth; the losses of steps 1, 2, 10 and 20
    ("lm", "gpt2"): [0.031579, 0.230418, -0.036412, -0.087228, -0.032898, 0.088179],
    ("classify", "gpt2"): [-1.03315, -1.43333, -1.044165],
    ("lm", "gpt_neo"): [0.130152, 0.132584, 0.045585, -0.153938, -0.521095, -0.344136],
    ("classify", "gpt_neo"): [-1.542746, 2.180957, 0.047406],
    ("lm", "opt"): [-0.371622, 0.263102, -0.378506, 0.464759, -0.109645, 0.199741],
    ("classify", "opt"): [0.207628, 0.136962, -1.065858],
    ("lm", "opt-350m"): [0.500067, -0.046846, 0.07746, 0.277343, 0.223196, 0.141797],
    ("classify", "opt-350m"): [3.485171, -2.607619, -2.664421],
    ("losses", "gpt_neo"): [2.477469, 0.451443, 0.167439, 0.07224],
    ("losses", "opt"): [1.489232, 2.573225, 1.2654, 0.353647],
    ("losses", "opt-350m"): [1.878838, 3.86758, 1.489493, 0.320977],
    ("mlm", "bert"): [0.023577, 0.119477, 0.010029, 0.036565, -0.201387, 0.078939],
    ("classify", "bert"): [-0.314137, 0.211597, -2.512387],
    ("losses", "gpt2"): [1.175656, 0.662136, 0.164017, 0.0438],
    ("losses", "bert"): [1.665348, 1.652458, 0.505565, 0.257982],
    ("mlm", "roberta"): [0.002763, -0.07765, 0.192873, 0.509122, 0.14775, -0.160564],
    ("classify", "roberta"): [-1.562153, -0.191102, -0.820704],
    ("losses", "roberta"): [0.905859, 1.411085, 0.403764, 0.112226],
    ("mlm", "distilbert"): [-0.183777, -0.294379, 0.088543, -0.122874, -0.623967, -0.199228],
    ("classify", "distilbert"): [-0.171347, 0.209369, 0.822555],
    ("losses", "distilbert"): [1.648915, 2.439871, 0.845502, 0.197226],
    ("seq2seq", "bart"): [-0.150946, 0.365912, 0.258956, 0.76542],
    ("seq2seq", "marian"): [-0.123806, 0.322957, 0.408855, 0.623289],
    ("losses", "bart"): [3.343955, 3.206288, 2.98272, 2.841196],
    ("losses", "marian"): [3.342792, 3.395717, 3.136591, 2.955741],
    ("seq2seq", "t5"): [-0.032256, 0.108419, -0.011864, 0.039297],
    ("seq2seq", "t5-1.1"): [-0.580986, 0.276433, 0.307818, 0.188242],
    ("losses", "t5"): [3.364793, 3.331808, 3.280972, 3.225512],
    ("losses", "t5-1.1"): [3.511674, 3.554305, 3.191687, 2.871734],
    ("seq2seq", "bert2bert"): [-0.223675, -0.330531, 0.405801, -0.477871],
    ("losses", "bert2bert"): [3.393667, 3.147826, 3.01547, 2.857636],
}
SMALL = (
    "wte.weight",
    "wpe.weight",
    "embeddings.weight",
    "shared.weight",
    "embed_tokens.weight",
    "embed_positions.weight",
    "logits_bias",
    "head.weight",
)
temporary = partial(tempfile.TemporaryDirectory, ignore_cleanup_errors=True)  # Windows keeps a file that is mapped


def weights(family: str, kind: str) -> dict[str, torch.Tensor]:
    """The tiny model's file: sin(k² / 7 + n) for element k of tensor n, so that no two rows are alike and nothing is as
    it is initialised. The embeddings are small, so that the epsilon of the norm behind them counts."""
    shapes, tensors = {}, {}
    for entry in KINDS[family][kind][1].split():
        for layer in "01" if "*" in entry else "0":
            name, size = entry.replace("*", layer).split(":")
            weight, plus, bias = size.partition("+")
            shapes |= {f"{name}.weight": weight, f"{name}.bias": bias} if plus else {name: size}
    for n, (key, size) in enumerate(shapes.items()):
        shape = [int(length) for length in size.split("x")]
        k = torch.arange(math.prod(shape), dtype=torch.float64)
        wave = torch.sin(k * k / 7 + n).float().view(shape)
        matrix = len(shape) == 2 and not key.endswith(SMALL)
        tensors[key] = wave * (0.5 if matrix else 0.1) + (len(shape) == 1 and key.endswith("weight"))
    return tensors


def publish(folder, family: str, kind: str, **more):
    """Write the tiny model's folder as Hugging Face would, without dropout."""
    config = {"model_type": family, "architectures": [KINDS[family][kind][0]], "vocab_size": 29, "pad_token_id": 0}
    config |= CONFIG[family] | more
    if kind == "classify":
        config["id2label"] = {"0": "blue", "1": "green", "2": "red"}
    safetensors.save(Path(folder) / "model.safetensors", weights(family, kind))
    files.write_json(Path(folder) / "config.json", config)


def tiny(family: str, kind: str, **more):
    with temporary() as folder:
        publish(folder, family, kind, **more)
        return pretrained.load_model(folder)


def saved(model, folder) -> dict[str, torch.Tensor]:
    """The file that `minift.save` writes."""
    pretrained.save(model, None, folder)
    return {key: tensor.clone() for key, tensor in safetensors.load(Path(folder) / "model.safetensors").items()}


class Letters:
    """A tokenizer for the laws of the language tasks: a letter is a token, from 5 to 28."""

    pad, cls, sep, mask, eos, vocab_size = 0, 1, 2, 3, 4, 29

    def encode(self, text):
        return [5 + ord(letter) % 24 for letter in text]


class Framed(Letters):
    """As BERT's: [CLS] before a text, [SEP] behind it."""

    def encode(self, text):
        return [self.cls, *super().encode(text), self.sep]


def windows(rows):
    """The (ids, target) of each text in rows where several may share one."""
    for row in rows:
        for n in dict.fromkeys(row["mask"]):
            at = [i for i, number in enumerate(row["mask"]) if number == n]
            yield [row["ids"][i] for i in at], [row["target"][i] for i in at]
