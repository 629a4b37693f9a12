"""Make a small BERT out of a larger one: trim its vocabulary, keep a few layers, and let them imitate the teacher on
plain text. This is how data/models/bert-nano was made; no labels are needed.

    python -m minift.distill --teacher path/to/all-MiniLM-L6-v2 --text books/*.txt --out runs/nano

The student learns, for every word (it may spell it otherwise), the teacher's hidden states (Romero et al. 2015,
FitNets; Jiao et al. 2020, TinyBERT, section 3.1: layer for layer, the teacher's being evenly spaced), and for every
passage the teacher's mean states, in its own mean and in its pooler, so that a classifier that starts from the pooler
finds the meaning of the whole text there; all of it whitened, so that every direction counts.

    B rows, T tokens, C channels (student and teacher have the same)
"""

import argparse
import random
import re
import time
from dataclasses import replace
from pathlib import Path

import torch
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
                found.append(" ".join(sentences[:n])[:400])
                sentences = sentences[n:]
    found = [passage for passage in found if len(passage) > 12]
    chance.shuffle(found)
    return found


def vocabulary(tokenizer, texts: list[str], size: int) -> list[int]:
    """The teacher's ids that the student keeps, ascending: the special tokens, every ASCII character, and then the most
    frequent. A piece's frequency is its share of `texts` plus twice what Zipf's law (in Mandelbrot's form, the rank
    moved by 2.7) gives its place in the teacher's list, which is sorted by frequency in the teacher's own pre-training
    text (its words begin at "the"): a modern word that old books lack is kept too."""
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


def cut(teacher: BERT, keep: list[int], layers: list[int], mlp: list[torch.Tensor] | None = None) -> BERT:
    """The student before training: the kept rows of the embedding, the kept layers, of each one's MLP the neurons `mlp`
    (None: all), all the rest as it is; no dropout, since its target is exact."""
    config = replace(
        teacher.config,
        vocab_size=len(keep),
        num_hidden_layers=len(layers),
        intermediate_size=len(mlp[0]) if mlp else teacher.config.intermediate_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    student, source, neurons = BERT(config), teacher.state_dict(), mlp or [slice(None)] * len(layers)
    state = {}
    for name in student.state_dict():
        layer = re.search(r"\.layer\.(\d+)\.", name)
        j = int(layer[1]) if layer else None
        state[name] = source[name.replace(layer[0], f".layer.{layers[j]}.") if layer else name]
        if "word_embeddings" in name:
            state[name] = state[name][keep]
        elif ".intermediate." in name:  # (F, C) or (F,)
            state[name] = state[name][neurons[j]]
        elif name.endswith(f"{j}.output.dense.weight"):  # (C, F)
            state[name] = state[name][:, neurons[j]]
    student.load_state_dict(state)
    return student


@torch.no_grad()
def busiest(teacher: BERT, layers: list[int], ids, mask, size: int) -> list[torch.Tensor]:
    """For each of the layers the `size` neurons of its MLP that add most to the stream in these texts: by the mean size
    of the activation, times the length of the vector that it scales."""
    found, hooks = [], []
    for layer in layers:
        dense = teacher.blocks[layer].output.dense
        hook = lambda dense, args: found.append(args[0][mask].abs().mean(0) * dense.weight.norm(dim=0))  # (F,)
        hooks.append(dense.register_forward_pre_hook(hook))
    teacher.hidden(ids, mask)
    for hook in hooks:
        hook.remove()
    return [weight.topk(min(size, len(weight))).indices.sort().values for weight in found]


def states(model: BERT, ids, mask) -> list[torch.Tensor]:
    """The hidden states (B, T, C) after each layer."""
    found = []
    hooks = [layer.register_forward_hook(lambda module, args, out: found.append(out)) for layer in model.blocks]
    model.hidden(ids, mask)
    for hook in hooks:
        hook.remove()
    return found


def whitener(vectors: torch.Tensor) -> torch.Tensor:
    """(N, C) -> (C, C): multiplied by it, the vectors vary by about 1 in every direction. Without it a student spends
    itself on the few directions in which the teacher varies most, such as the topic, and loses finer ones, such as
    whether a text praises or complains. The smallest directions, mostly noise, are held down: a fifth of the mean
    variance is added to each."""
    variance, axes = torch.linalg.eigh(torch.cov(vectors.double().T))
    return (axes / (variance + 0.2 * variance.mean()).sqrt()).float()


def gather(state, owner, n: int) -> torch.Tensor:
    """The means of the states (B, T, C) that have the same owner (B, T), a number below n: (n, C). -1 owns nothing."""
    real = owner >= 0
    sums = torch.zeros(n, state.shape[-1]).index_add_(0, owner[real], state[real])
    return sums / torch.zeros(n).index_add_(0, owner[real], torch.ones(int(real.sum())))[:, None]


class Imitation(nn.Module):
    """The student, and a projection from its pooler to the teacher's passage means that is thrown away at the end.
    Student layer j imitates teacher layer (j + 1) * step."""

    def __init__(self, student: BERT, teacher: BERT):
        super().__init__()
        C = student.config.hidden_size
        self.student, self.step = student, len(teacher.blocks) // len(student.blocks)
        self.project = nn.Linear(C, len(student.blocks) * C)
        self.imitated = [teacher]  # in a list: no part of the module, so it neither learns nor is saved
        self.white = []  # for each layer: that of its words, that of its passages

    @torch.no_grad()
    def targets(self, batch):
        """For each imitated layer (the words' states, the passages' means)."""
        found = states(self.imitated[0], batch["teacher_ids"], batch["teacher_mask"])[self.step - 1 :: self.step]
        return [averages(state.float(), batch, "teacher_") for state in found]

    def measure(self, batches):
        """Learn the whitening from a sample of batches."""
        found = [self.targets(batch) for batch in batches]
        layers = range(len(self.student.blocks))
        self.white = [[whitener(torch.cat([t[i][k] for t in found])) for k in (0, 1)] for i in layers]

    def loss(self, _, batch) -> tuple[torch.Tensor, int]:
        """(sum, tokens): for each word the share of the teacher's variance that the student's state misses; for each
        passage the same of its mean, and of what the pooler tells of the teacher's mean."""
        targets, units = self.targets(batch), int(batch["mask"].sum())
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU the fused kernel's bfloat16 backward is ten times slower
            ours = states(self.student, batch["ids"], batch["mask"])
        pooled = torch.tanh(self.student.bert.pooler.dense(ours[-1][:, 0]))
        guesses, total = self.project(pooled).float().chunk(len(ours), 1), 0.0
        with torch.autocast(batch["ids"].device.type, enabled=False):
            for state, (words, mean), guess, white in zip(ours, targets, guesses, self.white, strict=True):
                our_words, our_mean = averages(state.float(), batch, "")
                for said, true, w in (
                    (our_words, words, white[0]),
                    (our_mean, mean, white[1]),
                    (guess, mean, white[1]),
                ):
                    total = total + ((said - true) @ w).square().mean() * units
        return total, units


def averages(state, batch, whose: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(words, C), (B, C): the means over each word's pieces, which student and teacher may spell differently, and over
    each passage."""
    rows = torch.arange(len(state))[:, None].where(batch[whose + "mask"], -1)
    return gather(state, batch[whose + "word"], batch["words"]), gather(state, rows, len(state))


def main():
    parser = argparse.ArgumentParser(prog="python -m minift.distill", description=__doc__.split("\n\n")[0])
    parser.add_argument("--teacher", required=True, help="the folder of a BERT with a pooler")
    parser.add_argument("--text", required=True, nargs="+", help=".txt files, or .tsv files whose first column is text")
    parser.add_argument("--out", required=True, help="the student's folder")
    parser.add_argument("--student", help="go on from this student instead of cutting the teacher")
    parser.add_argument("--vocab", type=int, default=12288, help="word pieces to keep (default 12288)")
    parser.add_argument("--layers", default="0,5", help="the teacher's layers to begin with (default 0,5)")
    parser.add_argument("--mlp", type=int, default=768, help="neurons of each layer's MLP to keep (default 768)")
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
        student = cut(student, list(range(tokenizer.vocab_size)), list(range(len(student.blocks))))  # without dropout
    else:
        keep = vocabulary(words, texts, args.vocab)
        layers = [int(layer) for layer in args.layers.split(",")]
        sample = data.pad([words.encode(text) for text in texts[:256]], words.pad)
        student = cut(teacher, keep, layers, busiest(teacher, layers, *sample, args.mlp))
        out = Path(args.out)
        files.write_text(out / "vocab.txt", "".join(piece + "\n" for piece in words.tokens(keep)))
        usual = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
        files.write_json(out / "tokenizer_config.json", usual)
        tokenizer = tokenizers.load(out)

    held, texts = texts[:500], texts[500:]
    if not texts:
        raise Error("too few passages: 500 are held out to measure by")
    lengths = [len(tokenizer.encode(text)) for text in texts]
    print(f"{sum(lengths):,} tokens", flush=True)

    # The plan's "epochs" are tenths of the training, after each of which the student is measured and saved.
    batches, epoch = [], 0
    while sum(sum(lengths[i] for i in batch) for batch in batches) < args.tokens:
        batches += data.length_batches(lengths, batch_tokens=args.batch_tokens, seed=args.seed, epoch=epoch)
        epoch += 1
    total = sum(lengths[i] for batch in batches for i in batch)
    batches = batches[: round(len(batches) * min(1, args.tokens / total))]
    tenth = -(-len(batches) // 10)
    plan = [batches[i : i + tenth] for i in range(0, len(batches), tenth)]

    imitation = Imitation(student, teacher)
    pieces = {t: t.tokens(range(t.vocab_size)) for t in (tokenizer, words)}
    starts = {t: torch.tensor([not piece.startswith("##") for piece in pieces[t]]) for t in pieces}
    anything = [piece for piece in pieces[words] if piece.isalpha() and len(piece) > 2]
    chance = random.Random(args.seed)

    def tensors(texts):
        batch = {}
        for whose, t in ("", tokenizer), ("teacher_", words):
            ids, mask = data.pad([t.encode(text) for text in texts], t.pad)
            first = starts[t][ids] & mask  # (B, T) where a word begins; both split a text into the same words
            batch |= {whose + "ids": ids, whose + "mask": mask}
            batch[whose + "word"] = (first.flatten().cumsum(0).view(ids.shape) - 1).where(mask, -1)
        batch["words"] = int(first.sum())
        return batch

    def noisy(texts):
        """Every second passage has a seventh of its words replaced by any that the teacher knows: it has an answer to
        all texts, and so the student learns what the words mean that its smaller vocabulary spells in pieces."""
        texts = [
            " ".join(chance.choice(anything) if chance.random() < 0.15 else word for word in text.split())
            if chance.random() < 0.5
            else text
            for text in texts
        ]
        return tensors(texts)

    imitation.measure([noisy(texts[i : i + 64]) for i in range(0, min(len(texts), 6400), 64)])

    @torch.no_grad()
    def evaluate(_):
        imitation.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            sums = [
                imitation.loss(None, tensors([held[i] for i in batch]))
                for batch in data.length_batches([len(text) for text in held], 64, shuffle=False)
            ]
        usual = replace(student.config, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        trained, student.config = student.config, usual
        pretrained.save(student, tokenizer, args.out, torch.float16)
        student.config = trained
        return {"loss": sum(float(s) for s, _ in sums) / sum(n for _, n in sums)}

    values = {"lr": args.lr, "precision": args.precision, "warmup": 0.04, "schedule": "cosine"}
    options = settings.make(settings.Finetune, values)
    started = time.perf_counter()
    train.train(
        imitation,
        plan,
        lambda batch: noisy([texts[i] for i in batch]),
        imitation.loss,
        options,
        evaluate=evaluate,
        score=lambda metrics: -metrics["loss"],
        log=lambda record: print(record, flush=True) if "valid" in record else None,
    )
    print(f"before {args.out} was written last: {evaluate(None)}; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
