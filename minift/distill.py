"""Make a small BERT out of a larger one: trim its vocabulary, keep a few layers, and let them imitate the teacher on
plain text. This is how data/models/bert-nano was made; no labels are needed.

    python -m minift.distill --teacher path/to/all-MiniLM-L6-v2 --text books/*.txt --out runs/nano

The student learns, for every token, the teacher's hidden states (Romero et al. 2015, FitNets; Jiao et al. 2020,
TinyBERT, section 3.1: each of its layers imitates one a fixed distance further down in the teacher), and for every
passage the direction of the teacher's sentence embedding, in its own mean and in its pooler, so that a classifier that
starts from the pooler finds the meaning of the whole text there.

    B rows, T tokens, C channels (student and teacher have the same)
"""

import argparse
import random
import re
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import data, files, pretrained, settings, tokenizers, train
from .errors import Error
from .models.bert import BERT

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def passages(paths: list[str], seed: int) -> list[str]:
    """Stretches of one to four sentences from .txt files (blank lines part paragraphs) and the first column of .tsv
    files, shuffled."""
    chance, found = random.Random(seed), []
    for path in paths:
        text = files.read_text(path)
        if path.endswith(".tsv"):
            found += dict.fromkeys(line.split("\t")[0] for line in text.split("\n")[1:] if line)
            continue
        for paragraph in re.split(r"\n\s*\n", text):
            sentences = re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split()))
            while sentences:
                n = chance.choice((1, 1, 1, 2, 2, 3, 4))
                found.append(" ".join(sentences[:n])[:600])
                sentences = sentences[n:]
    found = [passage for passage in found if len(passage) > 12]
    chance.shuffle(found)
    return found


def vocabulary(tokenizer, texts: list[str], size: int) -> list[int]:
    """The teacher's ids that the student keeps, ascending: the special tokens, every ASCII character, and then the most
    frequent. A piece's frequency is its share of `texts` plus what Zipf's law gives its place in the teacher's list,
    which is sorted by frequency in the teacher's own pre-training text (its words begin at "the")."""
    pieces = tokenizer.tokens(range(tokenizer.vocab_size))
    counts = torch.zeros(tokenizer.vocab_size, dtype=torch.float64)
    for text in texts:
        ids = torch.tensor(tokenizer.encode(text)[1:-1])
        counts.index_add_(0, ids, torch.ones(len(ids), dtype=torch.float64))
    first = pieces.index("the")
    zipf = torch.zeros_like(counts)
    zipf[first:] = 1 / (torch.arange(len(pieces) - first, dtype=torch.float64) + 2.7)
    score = counts / counts.sum() + 2 * zipf / zipf.sum()
    for i, piece in enumerate(pieces):
        bare = piece.removeprefix("##")
        if piece in SPECIAL or (len(bare) == 1 and (bare.isascii() or bare in "“”‘’–—…£€°½é©·•")):
            score[i] = torch.inf
        elif piece.startswith("[unused"):
            score[i] = -1
    return score.topk(min(size, len(pieces))).indices.sort().values.tolist()


def cut(teacher: BERT, keep: list[int], layers: list[int]) -> BERT:
    """The student before training: the kept rows of the embedding, the kept layers, all the rest as it is; no dropout,
    since its target is exact."""
    config = replace(
        teacher.config,
        vocab_size=len(keep),
        num_hidden_layers=len(layers),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    student, source = BERT(config), teacher.state_dict()
    state = {}
    for name in student.state_dict():
        old = re.sub(r"\.layer\.(\d+)\.", lambda m: f".layer.{layers[int(m[1])]}.", name)
        state[name] = source[old][keep] if "word_embeddings" in name else source[old]
    student.load_state_dict(state)
    return student


def states(model: BERT, ids, mask) -> list[torch.Tensor]:
    """The hidden states (B, T, C) after each layer."""
    found = []
    hooks = [layer.register_forward_hook(lambda module, args, out: found.append(out)) for layer in model.blocks]
    model.hidden(ids, mask)
    for hook in hooks:
        hook.remove()
    return found


class Imitation(nn.Module):
    """The student, and a projection from its pooler to the teacher's sentence embedding that is thrown away at the end."""

    def __init__(self, student: BERT, teacher: BERT, keep: list[int]):
        super().__init__()
        self.student, self.project = student, nn.Linear(student.config.hidden_size, teacher.config.hidden_size)
        self.imitated = [teacher] if teacher else []  # in a list: no part of the module, so it neither learns nor is saved
        self.keep = torch.tensor(keep)

    def loss(self, _, batch) -> tuple[torch.Tensor, int]:
        """(sum, tokens): relative squared error of each token's states, and 1 - cosine of the passage's embeddings."""
        ids, mask = batch["ids"], batch["mask"]
        teacher = self.imitated[0]
        with torch.no_grad():
            targets = [state.float() for state in states(teacher, self.keep[ids], mask)]
        step = len(targets) // len(self.student.blocks)  # student layer j imitates teacher layer (j + 1) * step
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU the fused kernel's bfloat16 backward is ten times slower
            ours = states(self.student, ids, mask)
        pooled = self.project(torch.tanh(self.student.bert.pooler.dense(ours[-1][:, 0]))).float()
        ours, targets = [state.float() for state in ours], targets[step - 1 :: step]
        real, length = mask[..., None], mask.sum(1)  # (B, T, 1), (B,)
        total = sum(
            ((s - t).square().sum(-1) / t.square().sum(-1))[mask].sum() for s, t in zip(ours, targets, strict=True)
        )
        mean, wanted = ((h * real).sum(1) / length[:, None] for h in (ours[-1], targets[-1]))
        for guess in (mean, pooled):
            total = total + ((1 - F.cosine_similarity(guess, wanted)) * length).sum()
        return total, int(length.sum())


def main():
    parser = argparse.ArgumentParser(prog="python -m minift.distill", description=__doc__.split("\n\n")[0])
    parser.add_argument("--teacher", required=True, help="the folder of a BERT with a pooler")
    parser.add_argument("--text", required=True, nargs="+", help=".txt files, or .tsv files whose first column is text")
    parser.add_argument("--out", required=True, help="the student's folder")
    parser.add_argument("--student", help="go on from this student instead of cutting the teacher")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--layers", default="0,5", help="the teacher's layers to begin with (default 0,5)")
    parser.add_argument("--tokens", type=float, default=20e6, help="how many to train on (default 20e6)")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 where the processor has it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    teacher, words = pretrained.load(args.teacher)
    texts = passages(args.text, args.seed)
    print(f"{len(texts):,} passages of {len(args.text)} files", flush=True)
    if args.student:
        student, tokenizer = pretrained.load(args.student)
        all_pieces = words.tokens(range(words.vocab_size))
        keep = [all_pieces.index(piece) for piece in tokenizer.tokens(range(tokenizer.vocab_size))]
    else:
        keep = vocabulary(words, texts, args.vocab)
        student = cut(teacher, keep, [int(layer) for layer in args.layers.split(",")])
        out = Path(args.out)
        files.write_text(out / "vocab.txt", "".join(piece + "\n" for piece in words.tokens(keep)))
        files.write_json(out / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
        tokenizer = tokenizers.load(out)

    rows = [tokenizer.encode(text, max_length=128) for text in texts]
    held, rows = rows[:500], rows[500:]
    lengths = [len(row) for row in rows]
    if not rows:
        raise Error(f"{len(texts)} passages are too few: 500 are held out to measure by")
    print(f"{sum(lengths):,} tokens, {sum(len(words.encode(text)) for text in texts[:500]) / sum(map(len, held)):.3f} of them under the teacher's vocabulary")

    # The plan's "epochs" are tenths of the training, after each of which the student is measured and saved.
    batches, epoch = [], 0
    while sum(sum(lengths[i] for i in batch) for batch in batches) < args.tokens:
        batches += data.length_batches(lengths, batch_tokens=args.batch_tokens, seed=args.seed, epoch=epoch)
        epoch += 1
    total = sum(lengths[i] for batch in batches for i in batch)
    batches = batches[: round(len(batches) * min(1, args.tokens / total))]
    tenth = -(-len(batches) // 10)
    plan = [batches[i : i + tenth] for i in range(0, len(batches), tenth)]

    imitation = Imitation(student, teacher, keep)

    def tensors(rows):
        ids, mask = data.pad(rows, tokenizer.pad)
        return {"ids": ids, "mask": mask}

    @torch.no_grad()
    def evaluate(_):
        imitation.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            sums = [
                imitation.loss(None, tensors([held[i] for i in batch]))
                for batch in data.length_batches([len(row) for row in held], 64, shuffle=False)
            ]
        usual = replace(student.config, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        trained, student.config = student.config, usual
        pretrained.save(student, tokenizer, args.out)
        student.config = trained
        return {"loss": sum(float(s) for s, _ in sums) / sum(n for _, n in sums)}

    options = settings.make(settings.Finetune, {"lr": args.lr, "precision": args.precision, "warmup": 0.04, "schedule": "cosine"})
    started = time.perf_counter()
    train.train(
        imitation,
        plan,
        lambda batch: tensors([rows[i] for i in batch]),
        imitation.loss,
        options,
        evaluate=evaluate,
        score=lambda metrics: -metrics["loss"],
        log=lambda record: print(record, flush=True) if "valid" in record else None,
    )
    print(f"before {args.out} was written last: {evaluate(None)}; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
