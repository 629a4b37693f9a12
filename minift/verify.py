"""The laws of minift, checked on tiny models in seconds: run me after you changed the internals.

A law is a function here; its docstring is the law in words, and then where to look when it is broken. The models come
in the published form, with weights by a formula, the same on every machine. The stored numbers are what transformers
and torch.optim.AdamW make of them; tests/test_verify.py derives them again.

    B rows      T tokens      V vocabulary, 29      C channels, 16      Run me: minift verify
"""

import io
import math
import tempfile
import textwrap
import time
import traceback
from contextlib import redirect_stderr
from pathlib import Path

import torch
from torch.nn.functional import pad

from . import adapters, files, generation, pretrained, safetensors, settings, tokenizers, train
from .errors import Error
from .tasks.classify import Classify

LM = {"gpt2": "lm", "bert": "mlm"}  # the kind that ends in the vocabulary
LABELS = ["blue", "green", "red"]
SIZES = {  # what they leave out, such as which GELU and which epsilon, has the published default
    "gpt2": dict(vocab_size=29, n_positions=24, n_embd=16, n_layer=2, n_head=4),
    "bert": dict(vocab_size=29, max_position_embeddings=24, hidden_size=16, intermediate_size=64)
    | dict(num_hidden_layers=2, num_attention_heads=4),
}
ARCHITECTURES = {
    "lm": "GPT2LMHeadModel",
    "mlm": "BertForMaskedLM",
    "gpt2": "GPT2ForSequenceClassification",
    "bert": "BertForSequenceClassification",
}
DROPOUTS = {
    "gpt2": ["embd_pdrop", "attn_pdrop", "resid_pdrop"],
    "bert": ["hidden_dropout_prob", "attention_probs_dropout_prob"],
}
MATRICES = {  # module: shape of its weight in the file; GPT-2's are stored (in, out), BERT's (out, in)
    "gpt2": """wte 29 16  wpe 24 16  h.*.ln_1 16  h.*.attn.c_attn 16 48  h.*.attn.c_proj 16 16
        h.*.ln_2 16  h.*.mlp.c_fc 16 64  h.*.mlp.c_proj 64 16  ln_f 16""",
    "bert": """embeddings.word_embeddings 29 16  embeddings.position_embeddings 24 16
        embeddings.token_type_embeddings 2 16  embeddings.LayerNorm 16  encoder.layer.*.attention.self.query 16 16
        encoder.layer.*.attention.self.key 16 16
"""
}
