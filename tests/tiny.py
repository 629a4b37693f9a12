"""Model folders of a few kilobytes, and rows to learn from, for the tests of whole runs."""

import json

import torch

import minift
from minift.models import bart, bert, distilbert, gpt2, gpt_neo, opt, roberta
from minift.tokenizers.bpe import CHARACTERS

WORDS = ["the", "film", "meal", "was", "good", "bad", "very", "not", "dull", "fine", "and", "never", "again"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MERGES = ["Ġ a", "Ġ t", "h e", "Ġt he", "o o", "g oo", "goo d", "b a", "ba d"]


def bert_folder(path):
    """A BERT of two layers with random weights, uncased, for texts of up to 48 tokens; every letter is a token."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?'-"]
    pieces += dict.fromkeys([*LETTERS, *("##" + c for c in LETTERS), *WORDS])
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = bert.Config(vocab_size=len(pieces), max_position_embeddings=48, **sizes)
    files = {"vocab.txt": "\n".join(pieces) + "\n", "tokenizer_config.json": json.dumps({"do_lower_case": True})}
    return folder(path, bert.BERT(config), files)


def bpe(tokens, **config):
    """The files of a BPE that knows nine merges."""
    return {
        "vocab.json": json.dumps({token: i for i, token in enumerate(tokens)}),
        "merges.txt": "#version: 0.2\n" + "\n".join(MERGES) + "\n",
        "tokenizer_config.json": json.dumps({"tokenizer_class": "GPT2Tokenizer"} | config),
    }


MERGED = [*CHARACTERS, *(merge.replace(" ", "") for merge in MERGES)]


def gpt2_folder(path):
    """A GPT-2 of two blocks with random weights, for texts of up to 48 tokens."""
    tokens = [*MERGED, "<|endoftext|>"]
    config = gpt2.Config(vocab_size=len(tokens), n_positions=48, n_embd=16, n_layer=2, n_head=2)
    return folder(path, gpt2.GPT2(config), bpe(tokens))


def gpt_neo_folder(path):
    """A GPT-Neo of two blocks with random weights, for texts of up to 48 tokens; its second block sees seven."""
    tokens, types = [*MERGED, "<|endoftext|>"], [[["global", "local"], 1]]
    sizes = {"max_position_embeddings": 48, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 7}
    return folder(path, gpt_neo.GPTNeo(gpt_neo.Config(len(tokens), attention_types=types, **sizes)), bpe(tokens))


def opt_folder(path):
    """An OPT of two blocks with random weights, for texts of up to 48 tokens."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *MERGED]
    sizes = {"max_position_embeddings": 48, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    files = bpe(tokens, add_bos_token=True, **special)
    return folder(path, opt.OPT(opt.Config(len(tokens), ffn_dim=24, **sizes)), files)


def folder(path, model, files):
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():  # far enough from where training starts that every input matters
            p += torch.empty_like(p).uniform_(-0.3, 0.3, generator=chance)
    minift.save(model, None, path)
    for name, text in files.items():
        (path / name).write_text(text, encoding="utf-8")
    return path


def rows(count, labels=("bad", "good"), start=0):
    """Rows whose texts are of many lengths and hold the name of their label."""
    return [
        {"text": f"The film was {'very ' * (i % 5)}{labels[i % len(labels)]}, {i}.", "label": labels[i % len(labels)]}
        for i in range(start, start + count)
    ]


def tsv(path, rows):
    """The rows as a .tsv file; the path as a string."""
    lines = ["\t".join(map(str, row.values())) for row in rows]
    path.write_text("\n".join(["\t".join(rows[0]), *lines]) + "\n", encoding="utf-8")
    return str(path)


def bart_folder(path):
    """A BART of two layers a side with random weights, for texts of up to 24 tokens; its BPE knows nine merges."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *MERGED, "<mask>"]
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 48))}
    sizes |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    ends = {"eos_token_id": 2, "decoder_start_token_id": 2, "pad_token_id": 1}
    config = bart.Config(vocab_size=len(tokens), max_position_embeddings=24, d_model=32, dropout=0.0, **sizes)
    files = bpe(tokens, tokenizer_class="BartTokenizer") | {
        "generation_config.json": json.dumps({**ends, "forced_eos_token_id": 2, "max_length": 24}),
    }
    return folder(path, bart.BART(config), files)


def roberta_folder(path):
    """A RoBERTa of two layers with random weights, for texts of up to 48 tokens; its BPE knows nine merges."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *CHARACTERS, *(merge.replace(" ", "") for merge in MERGES), "<mask>"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = roberta.Config(vocab_size=len(tokens), max_position_embeddings=50, **sizes)
    files = {
        "vocab.json": json.dumps({token: i for i, token in enumerate(tokens)}),
        "merges.txt": "#version: 0.2\n" + "\n".join(MERGES) + "\n",
        "tokenizer_config.json": json.dumps({"tokenizer_class": "RobertaTokenizer"}),
    }
    return folder(path, roberta.RoBERTa(config, "mlm"), files)


def distilbert_folder(path):
    """A DistilBERT of two layers with random weights, uncased, for texts of up to 48 tokens; letters are tokens."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?'-"]
    pieces += dict.fromkeys([*LETTERS, *("##" + c for c in LETTERS), *WORDS])
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 48}
    files = {
        "vocab.txt": "\n".join(pieces) + "\n",
        "tokenizer_config.json": json.dumps({"do_lower_case": True, "tokenizer_class": "DistilBertTokenizer"}),
    }
    return folder(path, distilbert.DistilBERT(distilbert.Config(vocab_size=len(pieces), **sizes), "mlm"), files)
