"""Warm against cold: what is a pre-trained BERT worth on either side of an encoder-decoder, at equal steps?

    python tests/bench/bert2bert.py PAIRS --out OUT --epochs 6

PAIRS has train.tsv, valid.tsv and test.tsv with the columns src (English) and tgt (French). Three tasks, each learned
twice from the same rows in the same order:

    en-fr   English to French: the encoder BERT or random, the decoder random
    fr-en   French to English: the encoder random, the decoder BERT or random
    en-en   English words, shuffled, back into order: BERT on both sides, or random on both

The French side has a WordPiece of its own, trained on the training pairs, and the BERT's shape. The BERT's vocabulary
is uncased, so English is lower-cased. A WordPiece forgets where spaces were ("l ' eau"), so references go through it
too: these BLEU compare with each other and with nothing else. The shuffle test gives each row another's source: what
remains of BLEU is what the decoder writes from memory. Writes OUT/bleu.svg and prints the table; what lies in OUT is
not run again.
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import torch

import minift
from minift import data, plots, pretrained
from minift.models import bert
from minift.tokenizers.training import train_wordpiece

PARTS = ("train", "valid", "test")


def french(folder: Path, texts: list[str], shape: bert.Config) -> Path:
    """The folder of a BERT of this shape with a cased vocabulary of these texts and random weights."""
    if not (folder / "model.safetensors").exists():
        tokenizer = train_wordpiece(texts, 8192, folder, lower=False)
        torch.manual_seed(0)
        pretrained.save(bert.BERT(replace(shape, vocab_size=tokenizer.vocab_size), "mlm"), tokenizer, folder)
    return folder


def turned(rows: list[dict], task: str, seed: int) -> list[dict]:
    chance = random.Random(seed)
    if task == "en-en":
        return [
            {"src": " ".join(chance.sample(words := row["src"].split(), len(words))), "tgt": row["src"]} for row in rows
        ]
    return rows if task == "en-fr" else [{"src": row["tgt"], "tgt": row["src"]} for row in rows]


def by_epoch(folder: Path) -> list[tuple[int, float]]:
    entries = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return [(entry["epoch"], entry["valid"]["bleu"]) for entry in entries if "valid" in entry]


def main(given):
    out, read = given.out, {part: data.read(given.pairs / f"{part}.tsv").rows for part in PARTS}
    read["train"] = random.Random(0).sample(read["train"], min(given.rows, len(read["train"])))
    read |= {"valid": read["valid"][:300], "test": read["test"][:1000]}  # writing takes longer than learning
    shape = pretrained.load_model(given.bert).config
    other = french(out / "french", [row["tgt"] for row in read["train"]], shape)
    ends = {language: minift.load_tokenizer(name) for language, name in (("en", given.bert), ("fr", other))}
    warm, cold, random_french = given.bert, f"random:{given.bert}", f"random:{other}"
    tasks = {
        "en-fr": {"BERT reads": (warm, random_french), "random": (cold, random_french)},
        "fr-en": {"BERT writes": (random_french, warm), "random": (random_french, cold)},
        "en-en": {"BERT reads and writes": (warm, warm), "random": (cold, cold)},
    }
    curves, lines = {}, []
    for task in given.tasks:
        tokenizer = ends[task[-2:]]
        rows = {part: turned(some, task, i) for i, (part, some) in enumerate(read.items())}
        for row in (row for some in rows.values() for row in some):
            row["tgt"] = tokenizer.decode(tokenizer.encode(row["tgt"]), skip_special=True)
        for way, sides in tasks[task].items():
            folder = out / f"{task} {way}".replace(" ", "-")
            if not (folder / "result.json").exists():
                settings = {"epochs": given.epochs, "lr": given.lr, "lr_new": given.lr_new, "seed": given.seed}
                settings |= {"max_length": 64, "smoothing": 0.1, "batch_size": 64, "device": given.device}
                minift.finetune("translate", model=f"bert2bert:{','.join(sides)}", out=folder, **settings, **rows)
            if not (folder / "shuffled.json").exists():
                shuffled = minift.shuffle_test(folder, rows["test"][:500])["another's"]["bleu"]
                (folder / "shuffled.json").write_text(json.dumps(shuffled), encoding="utf-8")
            curves[f"{task}, {way}"] = by_epoch(folder)
            test = json.loads((folder / "result.json").read_text("utf-8"))["metrics"]["test"]
            shuffled = json.loads((folder / "shuffled.json").read_text("utf-8"))
            lines.append(f"| {task} | {way} | {test['bleu']:.1f} | {test['chrf']:.1f} | {shuffled:.1f} |")
            print(lines[-1], flush=True)
    title = f"bert2bert on {given.pairs.name}: BLEU on validation pairs"
    (out / "bleu.svg").write_text(plots.curves(curves, title, "epoch", "BLEU"), encoding="utf-8")
    print("\n| task | start | test BLEU | chrF | BLEU, another's source |\n| --- | --- | ---: | ---: | ---: |")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bert", default="bert-nano", help="the English BERT: an uncased one")
    parser.add_argument("--tasks", nargs="+", default=["en-fr", "fr-en", "en-en"])
    parser.add_argument("--rows", type=int, default=10**9, help="training pairs to take, at random")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--lr-new", type=float, default=1e-3, help="of what is drawn at random when the two are joined")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    main(parser.parse_args())
