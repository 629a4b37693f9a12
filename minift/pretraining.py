"""Pre-train a model from nothing: a vocabulary, a file of tokens, random weights, the loop.

texts  -> vocabulary   trained on them (tokenizers/training.py)
       -> tokens.bin   the ids of all documents, one after the other, two bytes each: may be larger than memory
tokens -> rows         T tokens each, in their order; every 200th row is held out to measure by
rows   -> model        GPT-2 (lm: every token from those before it) or BERT (mlm: hidden tokens from both sides)
                       or AWD-LSTM (lstm: as lm; its rows follow each other, and it goes on from one to the next)

For translate the texts are tables of pairs, a row is a pair, and the model is a BART.

All of it lies in the run's folder; a training that was interrupted goes on from there, to the same end. Documents
follow each other within a row, as they did when GPT-2 was trained, parted by <|endoftext|> (in BERT's, by [SEP]).

    T tokens of a row, `context`
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from . import data, files, optim, pretrained, runs, settings, tokenizers, train, use
from .errors import Error, nearest
from .models import awd_lstm, bart, bert, gpt2
from .tasks.denoise import Denoise
from .tasks.lm import LM, Streams, packed
from .tasks.mlm import MLM
from .tasks.translate import SOURCE, TARGET, Translate
from .tokenizers import training

TASKS = {"lm": LM, "mlm": MLM, "denoise": Denoise, "translate": Translate, "lstm": Streams}
HELD = 200  # of so many rows one is held out
BLOCK = 2**20  # characters read at once
ID = "<u2"  # how tokens.bin stores an id


def pretrain(task: str, say=lambda line: None, **values) -> Path:
    """Pre-train a model; `values` are fields of `settings.Pretrain`. Returns its folder. Called again with the same
    settings and folder it goes on where it stopped. Raises `Error`."""
    if task not in TASKS:
        raise Error(f"unknown task '{task}'; there is {', '.join(TASKS)}{nearest(task, TASKS)}")
    options = runs.prepare(settings.make(settings.Pretrain, values))
    if not options.text or not options.out:
        raise Error("pretrain needs --text F … to learn from, and --out DIR to keep what it learns")
    folder = Path(options.out)
    settle(folder, task, options)
    tokenizer = vocabulary(task, options, folder, say)
    read = {"lm": stream, "mlm": stream, "lstm": streams}.get(task, table)
    worker, example, lengths = read(task, tokenizer, options, folder, say)
    if task == "lstm":  # whose rows go on from each other: the last ones are held out
        learned = [*range(len(lengths) - max(len(lengths) // HELD, 1))]
        ids = [id for row in range(len(learned), len(lengths)) for id in example(row)["ids"]]
        held = [packed([window]) for window in worker.windows(ids, 0, worker.stride)]
    else:
        held = [example(row) for row in range(HELD // 2, len(lengths), HELD)]
        learned = [row for row in range(len(lengths)) if row % HELD != HELD // 2]
    if not held:
        found = f"{sum(lengths):,} tokens in {len(lengths)} rows are too few"
        raise Error(f"{found}: {HELD // 2 + 1} rows are the least; give more --text, or less --context")
    total = sum(lengths[row] for row in learned)
    say(f"rows       {len(learned):,} of {total:,} tokens to learn from, {len(held):,} held out")
    if options.model:
        model = pretrained.load_model(options.model, TASKS[task].kinds)
    else:
        model = fresh(task, tokenizer, options)
    model.to(options.device)
    size = sum(p.numel() for p in model.parameters())
    say(f"model      {model.FAMILY}, {size:,} parameters; {options.device}, {options.precision}, rate {options.lr:g}")
    if hasattr(worker, "fixed"):  # mlm and denoise: what they draw is drawn once
        held = worker.fixed(held)

    def collate(numbers):
        return use.on(options.device, worker.batch([example(row) for row in numbers]))

    history = train.train(
        model,
        plan(worker, learned, lengths, options),
        collate,
        worker.loss,
        options,
        evaluate=lambda model: {"loss": held_loss(worker, model, held, options)},
        score=lambda metrics: -metrics["loss"],
        log=runs.logger(folder),
        state=folder / "training.pt",
        optimizer=optim.muon,
    )
    result = {
        "task": task,
        "metrics": {"held": history.best},
        "train": {"steps": history.steps, "tokens": history.tokens, "seconds": round(history.seconds, 2)},
    }
    files.write_json(folder / "result.json", result)
    pretrained.save(model, tokenizer, folder)
    say(f"trained    {history.steps:,} steps, {history.tokens:,} tokens in {history.seconds:,.0f} s")
    say(f"held out   {runs.shown(history.best)}")
    say(f"saved      {folder}; now: {worker.then.format(folder)}")
    return folder


def settle(folder: Path, task: str, options):
    """Note the settings in the folder, or see that they are those noted there."""
    values = {"task": task} | {k: v for k, v in asdict(options).items() if k not in ("out", "device", "threads")}
    path = folder / "pretrain.json"
    if path.exists():
        before = files.read_json(path)
        changed = [name for name in values if values[name] != before.get(name)]
        if changed:
            what = ", ".join(f"{name} was {before.get(name)!r}, is {values[name]!r}" for name in changed)
            raise Error(f"{path}: another training began here: {what}; give its settings to go on, or another --out")
    elif folder.exists() and any(folder.iterdir()):
        raise Error(f"--out {folder}: is not empty; name another folder, or remove it first")
    files.write_json(path, values)


def vocabulary(task: str, options, folder: Path, say):
    """The tokenizer in the folder, trained on the texts if there is none yet."""
    if options.model:
        pretrained.load_tokenizer(options.model).save(folder)
    elif not any((folder / name).exists() for name in ("vocab.json", "vocab.txt", "words.json")):
        say(f"vocabulary training {options.vocab:,} tokens …")
        if task == "translate":
            texts = (row[side] for row in pairs(options.text).rows for side in row)
        else:
            texts = (text for path in options.text for text, _ in blocks(path))
        if task == "mlm":
            training.train_wordpiece(texts, options.vocab, folder)
        elif task == "lstm":
            training.train_words(texts, options.vocab, folder)
        else:
            training.train_bpe(texts, options.vocab, folder, training.GPT2 if task == "lm" else training.BART)
    return tokenizers.load(folder)


def table(task, tokenizer, options, folder, say):
    """(the task's worker, row number -> example, the tokens of each row) of pairs, or of texts to be damaged."""
    if task == "translate":
        worker, rows = Translate(tokenizer, options.context, smoothing=0.1), pairs(options.text)
    else:
        worker = Denoise(tokenizer, options.context)
        rows = data.read([row for path in options.text for row in data.read(path).rows])
    examples = worker.training(rows)
    use.say_cut(worker, say)
    return worker, examples.__getitem__, [len(e["ids"]) + len(e.get("target", e["ids"])) for e in examples]


def pairs(paths: list[str]) -> data.Table:
    """The pairs of all files."""
    tables = [data.read(path) for path in paths]
    sides = [(t.column(*SOURCE), t.column(*TARGET)) for t in tables]
    return data.read([{"src": r[a], "tgt": r[b]} for t, (a, b) in zip(tables, sides, strict=True) for r in t.rows])


def stream(task, tokenizer, options, folder, say):
    """The same of texts of any size: rows of T tokens, whatever documents they are of."""
    tokens = encoded(tokenizer, options.text, folder, say)
    T, cls = options.context, [] if tokenizer.cls is None else [tokenizer.cls]
    step = T - len(cls)

    def example(row: int) -> dict:
        ids = cls + tokens[row * step : (row + 1) * step + 1].astype(int).tolist()
        target = ids[1:] if task == "lm" else []  # mlm hides tokens when it makes a batch
        return {"ids": ids[:T], "target": target, "mask": [1] * T, "tokens": T, "bytes": 0}

    return TASKS[task](tokenizer, T), example, [T] * max((len(tokens) - 1) // step, 0)  # one more: the last target


def streams(task, tokenizer, options, folder, say):
    """The same for a model that goes on from row to row."""
    tokens, worker = encoded(tokenizer, options.text, folder, say), Streams(tokenizer, 2**31, bptt=options.context)
    rows = range(max(len(tokens) - 1, 0) // options.context)
    return worker, lambda row: worker.window(tokens, row), [options.context for _ in rows]


def blocks(path: str):
    """(text, whether a document ends with it): about BLOCK characters at a time, cut between paragraphs, so that the
    file may be larger than memory."""
    rest = ""
    try:
        with open(path, encoding="utf-8-sig") as f:
            while more := f.read(BLOCK):
                *documents, rest = training.END_LINE.split(rest + more)
                yield from ((document, True) for document in documents)
                at = rest.rfind("\n\n") + 2
                if at > 1 and len(rest) >= BLOCK:
                    yield rest[:at], False
                    rest = rest[at:]
    except UnicodeDecodeError:
        files.read_text(path)  # says where and how to convert it
    except OSError as e:
        raise Error(f"{path}: cannot be read ({e.strerror})") from None
    yield rest, True


def encoded(tokenizer, paths: list[str], folder: Path, say) -> np.ndarray:
    """The ids of all texts, mapped from tokens.bin; it is written if it is not there yet."""
    path = folder / "tokens.bin"
    if not path.exists():
        if tokenizer.vocab_size > 2**16:
            raise Error(f"--vocab {tokenizer.vocab_size}: at most {2**16:,}, two bytes a token")
        say(f"tokens     encoding {len(paths)} files …")
        end = [next(id for id in (tokenizer.sep, tokenizer.eos, tokenizer.bos) if id is not None)]
        before, behind = int(tokenizer.eos is None), int(tokenizer.sep is not None)  # [CLS], or xxbos; [SEP]
        with files.written(path) as f:
            f.write(np.array(end, ID).tobytes())
            for source in paths:
                for text, ends in blocks(source):
                    ids = tokenizer.encode(text.strip("\n") if ends else text)
                    ids = ids[before : len(ids) - behind] + (end if ends else [])
                    f.write(np.array(ids, ID).tobytes() if text.strip() else b"")
    return np.memmap(path, ID, "r")


def fresh(task: str, tokenizer, options):
    """A model of the shape asked for, with random weights and without dropout: text that is seen once or a few times
    needs none."""
    if task == "lm":
        zero = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
        shape = {
            "n_embd": options.width,
            "n_layer": options.layers,
            "n_head": options.heads,
            "n_positions": options.context,
        }
        ends = {"bos_token_id": tokenizer.eos, "eos_token_id": tokenizer.eos}
        return gpt2.GPT2(gpt2.Config(vocab_size=tokenizer.vocab_size, **shape, **zero, extra=ends))
    if task in ("translate", "denoise"):
        return encoder_decoder(tokenizer, options)
    if task == "lstm":
        shape = {"vocab_size": tokenizer.vocab_size, "emb_sz": options.width, "n_hid": 2 * options.width}
        config = awd_lstm.Config(**shape, n_layers=options.layers, bptt=options.context, pad_token_id=tokenizer.pad)
        model = awd_lstm.AWDLSTM(replace(config, **dict.fromkeys(awd_lstm.DROPOUT["lm"], 0.0)))
        model.config = config  # when it is fine-tuned, on texts that are seen often, it drops as published
        ends = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.bos}  # a text ends where the next one begins
        model.generation = ends | {"suppress_tokens": [tokenizer.unk, tokenizer.pad]}
        return model
    zero = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    shape = {"hidden_size": options.width, "num_hidden_layers": options.layers, "num_attention_heads": options.heads}
    shape |= {"intermediate_size": 4 * options.width, "max_position_embeddings": options.context}
    return bert.BERT(bert.Config(vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad, **shape, **zero), "mlm")


def encoder_decoder(tokenizer, options):
    """The same as `fresh`, with dropout: pairs are few, and seen often."""
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "forced_eos_token_id": tokenizer.eos}
    start = {"pad_token_id": tokenizer.pad, "decoder_start_token_id": tokenizer.eos}
    shape = {"d_model": options.width, "max_position_embeddings": options.context}
    for side in ("encoder", "decoder"):
        shape |= {f"{side}_layers": options.layers, f"{side}_attention_heads": options.heads}
        shape |= {f"{side}_ffn_dim": 4 * options.width}
    model = bart.BART(bart.Config(vocab_size=tokenizer.vocab_size, **shape, **start, extra=ids))
    model.generation = {**ids, **start, "max_length": options.context}
    return model


def plan(worker, rows: list[int], lengths: list[int], options) -> list[list[list[int]]]:
    """Batches of rows of like length, each row once before any comes again, until there are `tokens`; in stretches,
    after each of which the training is saved."""
    batches, left, epoch, sizes = [], options.tokens, 0, [lengths[row] for row in rows]
    while left > 0:
        if hasattr(worker, "in_order"):
            found = worker.in_order(len(rows), options.batch_size)
        else:
            found = data.length_batches(sizes, options.batch_size, seed=options.seed, epoch=epoch)
        for batch in found:
            batches.append([rows[i] for i in batch])
            left -= sum(sizes[i] for i in batch)
            if left <= 0:
                break
        epoch += 1
    stretch = options.save_every
    return [batches[i : i + stretch] for i in range(0, len(batches), stretch)]


@torch.inference_mode()
def held_loss(worker, model, examples: list[dict], options) -> float:
    """The mean loss of the held-out rows."""
    model.eval()
    total, units = 0.0, 0
    for rows in data.length_batches([len(e["ids"]) for e in examples], options.batch_size, shuffle=False):
        batch = use.on(options.device, worker.batch([examples[i] for i in rows]))
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
            summed, count = worker.loss(model, batch)
        total, units = total + float(summed), units + count
    return total / units
