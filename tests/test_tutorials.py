"""Each tutorial runs as a script; each exercise's check tells a right answer from a plausible wrong one.

A tutorial's exercise is a stub `name` and a function `check_name(answer)` that raises AssertionError with a helpful
sentence. To add a tutorial, add its file and its answers to ANSWERS. Run me: pytest tests/test_tutorials.py
"""

import codecs
import functools
import importlib.util
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minift.data import IGNORE

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "tutorials"
QUICK = {"MINIFT_QUICK": "1"}  # shortens the loops of the slow ones, nothing else


@functools.cache
def tutorial(file):
    """The script as a module: imported, and so run, once."""
    spec = importlib.util.spec_from_file_location(f"tutorial_{file[:2]}", TUTORIALS / file)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        for name, value in QUICK.items():
            patch.setenv(name, value)
        spec.loader.exec_module(module)
    return module


# 01: what fine-tuning is


def mean_loss(logits, target):
    return (logits.logsumexp(-1) - logits[torch.arange(len(target)), target]).mean()


def log_of_softmax(logits, target):
    return -logits.softmax(-1)[torch.arange(len(target)), target].log().mean()


def momentum_step(parameters, velocity, rate, forget=True):
    with torch.no_grad():
        for i, p in enumerate(parameters):
            if p.grad is not None:
                velocity[i] = 0.9 * velocity.get(i, torch.zeros_like(p)) + p.grad
                p -= rate * velocity[i]
                p.grad = None if forget else p.grad


def gradient_kept(parameters, velocity, rate):
    momentum_step(parameters, velocity, rate, forget=False)


def luck(a, b):
    return min(1.0, 2 * one_sided(a, b))


def one_sided(a, b):
    won = [sum(x and not y for x, y in zip(*pair, strict=True)) for pair in ((a, b), (b, a))]
    n = sum(won)
    return sum(math.comb(n, i) for i in range(max(won), n + 1)) / 2**n


# 02: from text to ids and back


def encode_word(word, merges, earliest=True):
    ranks, pieces = {pair: rank for rank, pair in enumerate(merges)}, [bytes([b]) for b in word]
    while True:
        found = [i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) in ranks]
        if not found:
            return pieces
        i = min(found, key=lambda i: ranks[pieces[i], pieces[i + 1]]) if earliest else found[0]
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def from_the_left(word, merges):
    return encode_word(word, merges, earliest=False)


def stream(pieces):
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(piece) for piece in pieces]


def each_alone(pieces):
    return [piece.decode("utf-8", "replace") for piece in pieces]


def without_cls(text, start, end):
    _, offsets = tutorial("02_tokens.py").tokenizer.encode_with_offsets(text)
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    return inside[0], inside[-1] + 1


def answer_span(text, start, end):
    first, last = without_cls(text, start, end)
    return first + 1, last + 1


# 03: GPT-2 by hand


def padded_loss(logits, ids, mask):
    real = mask[:, 1:]
    return F.cross_entropy(logits[:, :-1][real], ids[:, 1:][real])


def padding_counted(logits, ids, mask):
    return padded_loss(logits, ids, torch.ones_like(mask))


def window(mask, size):
    T = mask.shape[1]
    distance = torch.arange(T)[:, None] - torch.arange(T)
    return (mask[:, :, None] == mask[:, None]) & (distance >= 0) & (distance < size)


def one_too_many(mask, size):
    return window(mask, size + 1)


def count(config):
    C = config.n_embd
    block = 2 * 2 * C + (C + 1) * 3 * C + (C + 1) * C + (C + 1) * 4 * C + (4 * C + 1) * C
    return config.vocab_size * C + config.n_positions * C + config.n_layer * block + 2 * C


def head_counted_again(config):
    return count(config) + config.vocab_size * config.n_embd


# 04: published weights, key by key


def place(key, tensor, shapes):
    name = "transformer." + key.removeprefix("transformer.")
    if name not in shapes:
        return None
    return name, tensor.T if re.search(r"c_\w+\.weight$", name) else tensor


def by_shape(key, tensor, shapes):
    name = "transformer." + key.removeprefix("transformer.")
    if name not in shapes:
        return None
    return name, tensor if tensor.shape == shapes[name] else tensor.T


def from_bfloat16(raw):
    halves = torch.frombuffer(bytearray(raw), dtype=torch.int16).int()
    return (halves << 16).view(torch.float32)


def as_float16(raw):
    return torch.frombuffer(bytearray(raw), dtype=torch.float16).float()


def split_c_attn(weight, bias):
    return list(zip(weight.T.chunk(3), bias.chunk(3), strict=True))


def not_transposed(weight, bias):
    return list(zip(weight.chunk(3, dim=1), bias.chunk(3), strict=True))


# 05: classification in earnest


def last_real(hidden, mask):
    places = (mask * torch.arange(mask.shape[1])).argmax(1)
    return hidden[torch.arange(len(hidden)), places]


def by_length(hidden, mask):
    return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]


def accumulate(model, batches, loss):
    model.zero_grad()
    total, units = 0.0, 0
    for batch in batches:
        summed, count = loss(model, batch)
        summed.backward()
        total, units = total + summed.item(), units + count
    for p in model.parameters():
        p.grad /= units
    return total / units


def mean_of_means(model, batches, loss):
    return accumulate(model, batches, lambda *args: (loss(*args)[0] / loss(*args)[1], 1))


def macro_f1(matrix):
    true, guessed = matrix.sum(1), matrix.sum(0)
    occurs = true + guessed > 0
    return (2 * matrix.diagonal() / (true + guessed))[occurs].mean().item()


def mean_recall(matrix):
    true = matrix.sum(1)
    return (matrix.diagonal() / true)[true > 0].mean().item()


# 06: a language model on your text


def shared_among_bytes(losses, texts):
    return sum(loss.sum().item() for loss in losses) / math.log(2) / sum(len(text.encode()) for text in texts)


def shared_among_characters(losses, texts):
    return sum(loss.sum().item() for loss in losses) / math.log(2) / sum(map(len, texts))


def cut(ids, T, stride):
    windows, done = [], 1
    while done < len(ids):
        start = len(windows) * stride
        inputs, targets = ids[start : start + T], ids[start + 1 : start + T + 1]
        old = done - start - 1
        windows.append((inputs[: len(targets)], [IGNORE] * old + targets[old:]))
        done = start + 1 + len(targets)
    return windows


def lost_at_the_seams(ids, T, stride):
    pieces = [ids[start : start + T] for start in range(0, len(ids), stride)]
    return [(piece[:-1], piece[1:]) for piece in pieces]


def chances(logits, temperature, k):
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[1]).float()
    logits = logits.masked_fill(logits < logits.topk(k).values[:, -1:], -torch.inf)
    return (logits / temperature).softmax(-1)


def one_limit_for_all_rows(logits, temperature, k):
    if temperature == 0:
        return chances(logits, temperature, k)
    least = logits.flatten().topk(k * len(logits)).values[-1]
    return (logits.masked_fill(logits < least, -torch.inf) / temperature).softmax(-1).nan_to_num()


# 07: BERT and masked words


def attend(q, k, v, mask):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1) @ v


def zeroed_afterwards(q, k, v, mask):
    shares = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return (shares * mask[:, None, None]) @ v


def whole_words(begins, share):
    word = begins.cumsum(0) - 1
    return (torch.rand(int(begins.sum())) < share)[word]


def piece_by_piece(begins, share):
    return torch.rand(begins.shape) < share


def pseudo_log_likelihood(model, ids, mask_id, hide=True):
    places = torch.arange(1, len(ids) - 1)
    rows = torch.tensor([ids] * len(places))
    if hide:
        rows[torch.arange(len(places)), places] = mask_id
    log_p = model(rows).log_softmax(-1)
    return sum(log_p[row, place, ids[place]].item() for row, place in enumerate(places.tolist()))


def nothing_hidden(model, ids, mask_id):
    return pseudo_log_likelihood(model, ids, mask_id, hide=False)


# 08: few labels, much text


def stratified(rows, n, seed):
    chance, counts = random.Random(seed), Counter(row["label"] for row in rows)
    wanted = {label: n * counts[label] // len(rows) for label in sorted(counts)}
    lost = sorted(wanted, key=lambda label: n * counts[label] % len(rows), reverse=True)
    for label in lost[: n - sum(wanted.values())]:
        wanted[label] += 1
    groups = {label: [row for row in rows if row["label"] == label] for label in wanted}
    return [row for label, count in wanted.items() for row in chance.sample(groups[label], count)]


def not_stratified(rows, n, seed):
    return random.Random(seed).sample(rows, n)


def confident(predictions, most):
    groups = {label: [] for label in predictions[0]["scores"]}
    for i, p in enumerate(predictions):
        groups[p["prediction"]].append(i)
    most = min(most, *map(len, groups.values()))
    surest = lambda label: sorted(groups[label], key=lambda i: -predictions[i]["scores"][label])[:most]
    return [(i, label) for label in groups for i in surest(label)]


def surest_of_all(predictions, most):
    order = sorted(range(len(predictions)), key=lambda i: -max(predictions[i]["scores"].values()))
    return [(i, predictions[i]["prediction"]) for i in order[: 2 * most]]


def runs_of_words(text, n):
    words = tutorial("08_little_labels_much_text.py").words(text)
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def near_copies(first, second, n=8):
    found = {}
    for i, text in enumerate(first):
        for run in runs_of_words(text, n):
            found.setdefault(run, set()).add(i)
    return sorted(
        {(i, j) for j, text in enumerate(second) for run in runs_of_words(text, n) for i in found.get(run, ())}
    )


def words_in_common(first, second, n=8):
    words = tutorial("08_little_labels_much_text.py").words
    sets = [[set(words(text)) for text in texts] for texts in (first, second)]
    return [
        (i, j) for i, a in enumerate(sets[0]) for j, b in enumerate(sets[1]) if len(a & b) >= min(n, len(a), len(b))
    ]


# 09: the encoder-decoder by hand


def across(attention, x, memory, mask, back=None):
    tutorial_09 = tutorial("09_encoder_decoder_by_hand.py")
    visible = mask[:, None, None] if back is None else mask[:, None, None] & back
    return tutorial_09.attend(attention, x, memory, visible)[0]


def only_back(attention, x, memory, mask):
    back = torch.ones(x.shape[1], memory.shape[1], dtype=torch.bool).tril()
    return across(attention, x, memory, mask, back)


def shift(target, start):
    fed = torch.cat((torch.full_like(target[:, :1], start), target[:, :-1]), 1)
    return fed.masked_fill(target == IGNORE, start)


def not_shifted(target, start):
    return target.masked_fill(target == IGNORE, start)


def beam_step(total, log_p):
    new, place = (total[:, None] + log_p).flatten().topk(len(total))
    return place // log_p.shape[1], place % log_p.shape[1], new


def best_of_each(total, log_p):
    new, token = (total[:, None] + log_p).max(1)
    order = new.argsort(descending=True)
    return order, token[order], new[order]


def without_source(targets, seen=None):
    places = [
        (tuple(target[:i])[-(seen or i) :] if i else (), target[i]) for target in targets for i in range(len(target))
    ]
    both, before = Counter(places), Counter(beginning for beginning, _ in places)
    return sum(math.log(before[beginning] / both[beginning, token]) for beginning, token in places) / len(places)


def by_the_word_before(targets):
    return without_source(targets, seen=1)


# 10: translate a domain


def several(said, references, join=lambda counts: functools.reduce(lambda a, b: a | b, counts)):
    runs = tutorial("10_translate_a_domain.py").runs_of
    ours = [runs(said, n) for n in (1, 2, 3, 4)]
    both = [(own & join([runs(words, n) for words in references])).total() for n, own in enumerate(ours, 1)]
    closest = min((abs(len(words) - len(said)), len(words)) for words in references)[1]
    return torch.tensor([*both, *(own.total() for own in ours), closest], dtype=torch.float64)


def references_added_up(said, references):
    return several(said, references, join=lambda counts: sum(counts, Counter()))


def smoothed_loss(logits, target, epsilon):
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    right = log_p[torch.arange(len(target)), target]
    return -((1 - epsilon) * right + epsilon * log_p.mean(-1)).mean()


def shared_among_the_others(logits, target, epsilon):
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    right = log_p[torch.arange(len(target)), target]
    others = (log_p.sum(-1) - right) / (logits.shape[1] - 1)
    return -((1 - epsilon) * right + epsilon * others).mean()


def not_better(first, second, draws=1000, seed=0):
    chance = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(first), (draws, len(first)), generator=chance)
    one, other = (tutorial("10_translate_a_domain.py").bleu_of(counts[picked].sum(1)) for counts in (first, second))
    return (other <= one).double().mean().item()


def drawn_for_each(first, second, draws=1000, seed=0):
    resampled = tutorial("10_translate_a_domain.py").resampled
    return (resampled(second, draws, seed + 1) <= resampled(first, draws, seed)).double().mean().item()


# 12: denoising


def restore(source, target):
    pieces, mark = {}, None
    for word in target:
        if re.fullmatch(r"<\d+>", word):
            mark = word
        else:
            pieces.setdefault(mark, []).append(word)
    is_mark = lambda word: re.fullmatch(r"<\d+>", word)
    return [word for s in source for word in (pieces.get(s, []) if is_mark(s) else [s])]


def one_after_another(source, target):
    pieces = re.split(r"<\d+>", " ".join(target))[1:]
    return " ".join(pieces.pop(0) if re.fullmatch(r"<\d+>", word) else word for word in source).split()


def t5_holes(n, gone, count, chance, touching=False):
    cuts = [0, *sorted(chance.sample(range(1, gone), count - 1)), gone]
    gaps = range(n - gone + 1)
    gaps = sorted(chance.choices(gaps, k=count) if touching else chance.sample(gaps, count))
    return [(gap + at, end - at) for gap, (at, end) in zip(gaps, pairwise(cuts), strict=True)]


def that_may_touch(n, gone, count, chance):
    return t5_holes(n, gone, count, chance, touching=True)


def hidden_loss(logits, target, hidden):
    chosen = hidden & (target != IGNORE)
    return F.cross_entropy(logits[chosen], target[chosen])


def shared_among_all(logits, target, hidden):
    losses = F.cross_entropy(logits.transpose(1, 2), target, ignore_index=IGNORE, reduction="none")
    return (losses * hidden).sum() / (target != IGNORE).sum()


# 11: bert to bert


def weigh(queries, keys, mask):
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    return scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)


def zeroed_behind_the_softmax(queries, keys, mask):
    return (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).softmax(-1) * mask[:, None, None]


def strangers(targets):
    order = sorted(range(len(targets)), key=lambda i: targets[i])
    half = len(order) // 2
    given = dict(zip(order, order[half:] + order[:half], strict=True))
    return [given[i] for i in range(len(targets))]


def the_row_before(targets):
    return [(i - 1) % len(targets) for i in range(len(targets))]


def may_see(mask):
    T = mask.shape[1]
    past = torch.ones(T, T, dtype=torch.bool).tril()
    return past & mask[:, :, None] & mask[:, None] | torch.eye(T, dtype=torch.bool)


def only_the_past(mask):
    T = mask.shape[1]
    return torch.ones(T, T, dtype=torch.bool).tril().expand(len(mask), T, T)


# 13: answer questions


def windows_of(n, room, overlap):
    return [(at, min(at + room, n)) for at in range(0, max(n - overlap, 1), room - overlap)]


def one_with_nothing_new(n, room, overlap):
    return [(at, min(at + room, n)) for at in range(0, n, room - overlap)]


def best_window(windows, token):
    inside = [i for i, (a, b) in enumerate(windows) if a <= token < b]
    return max(inside, key=lambda i: min(token - windows[i][0], windows[i][1] - 1 - token))


def the_first_that_has_it(windows, token):
    return next(i for i, (a, b) in enumerate(windows) if a <= token < b)


def best_threshold(odds, spoken, silent):
    mean = lambda t: sum(a if o <= t else b for o, a, b in zip(odds, spoken, silent, strict=True))
    return max([min(odds) - 1, *odds], key=mean)


def until_an_answer_loses(odds, spoken, silent):
    threshold = min(odds) - 1
    for o, a, b in sorted(zip(odds, spoken, silent, strict=True)):
        if a < b:
            break
        threshold = o
    return threshold


# 15: prompt or fine-tune


def score_of(logits, ids, start):
    log_p = logits.log_softmax(-1)[start - 1 : -1]
    return log_p.gather(1, ids[start:, None]).mean().item()


def said_at_its_own_place(logits, ids, start):
    return logits.log_softmax(-1)[start:].gather(1, ids[start:, None]).mean().item()


def calibrated(scores, empty):
    return (scores - empty).softmax(-1)


def by_the_mean_of_the_texts(scores, empty):
    return (scores - scores.mean(0)).softmax(-1)


def fitting(shots, question, room, end):
    used = 1 + len(question) + sum(map(len, shots))
    while used > room:
        used -= len(shots[0])
        shots = shots[1:]
    return [end, *(id for shot in shots for id in shot), *question]


def cut_from_the_left(shots, question, room, end):
    return [end, *(id for shot in shots for id in shot), *question][-room:]


# 16: LoRA


def nearest(D, rank):
    U, S, Vh = torch.linalg.svd(D, full_matrices=False)
    return U[:, :rank] * S[:rank], Vh[:rank]


def strength_counted_twice(D, rank):
    U, S, Vh = torch.linalg.svd(D, full_matrices=False)
    return U[:, :rank] * S[:rank], S[:rank, None] * Vh[:rank]


def merged_folder(base, adapter, config, turn=lambda change: change.T):
    found, own = dict(base), {key.removeprefix("base_model.model."): tensor for key, tensor in adapter.items()}
    for key, tensor in own.items():
        if key in base:
            found[key] = tensor
        elif key.endswith(".lora_A.weight"):
            layer = key.removesuffix(".lora_A.weight")
            change = config["lora_alpha"] / config["r"] * own[f"{layer}.lora_B.weight"] @ tensor
            weight = base[f"{layer}.weight"]
            found[f"{layer}.weight"] = weight + (turn(change) if config["fan_in_fan_out"] else change)
    return found


def turned_where_shapes_ask_for_it(base, adapter, config):
    square = lambda change: change.shape[0] == change.shape[1]
    return merged_folder(base, adapter, config, lambda change: change if square(change) else change.T)


def for_each_row(x, W, A, B, which, scale):
    return x @ W.T + scale * (x @ A[which].mT) @ B[which].mT


def all_as_the_first(x, W, A, B, which, scale):
    return for_each_row(x, W, A, B, which[:1], scale)


# 17: which architecture


def work_of(config, T, more=None):
    places = T + (max(config.widths) if more is None else more)
    maps = config.maps * len(config.widths)
    return places * config.embedding_size * config.maps * sum(config.widths) + maps * len(config.labels)


def only_in_the_text(config, T):
    return work_of(config, T, more=0)


def ahead_from(a, b, ahead=lambda x, y: all(p < q for p, q in zip(x, y, strict=True))):
    first = None
    for n in sorted(a, reverse=True):
        if not ahead(a[n], b[n]):
            break
        first = n
    return first


def ahead_in_the_mean(a, b):
    return ahead_from(a, b, ahead=lambda x, y: sum(x) < sum(y))


def not_beaten(ways, beats=lambda a, b: a[0] >= b[0] and a[1] <= b[1] and a != b):
    kept = [name for name, way in ways.items() if not any(beats(other, way) for other in ways.values())]
    return sorted(kept, key=lambda name: ways[name][1])


def better_in_both(ways):
    return not_beaten(ways, beats=lambda a, b: a[0] > b[0] and a[1] < b[1])


ANSWERS = {  # file: {exercise: (right, plausible wrong)}
    "01_what_fine_tuning_is.py": {
        "mean_loss": (mean_loss, log_of_softmax),
        "momentum_step": (momentum_step, gradient_kept),
        "luck": (luck, one_sided),
    },
    "02_tokens.py": {
        "encode_word": (encode_word, from_the_left),
        "stream": (stream, each_alone),
        "answer_span": (answer_span, without_cls),
    },
    "03_gpt2_by_hand.py": {
        "padded_loss": (padded_loss, padding_counted),
        "window": (window, one_too_many),
        "count": (count, head_counted_again),
    },
    "04_published_weights.py": {
        "place": (place, by_shape),
        "from_bfloat16": (from_bfloat16, as_float16),
        "split_c_attn": (split_c_attn, not_transposed),
    },
    "05_classify.py": {
        "last_real": (last_real, by_length),
        "accumulate": (accumulate, mean_of_means),
        "macro_f1": (macro_f1, mean_recall),
    },
    "06_language_model_on_your_text.py": {
        "shared_among_bytes": (shared_among_bytes, shared_among_characters),
        "cut": (cut, lost_at_the_seams),
        "chances": (chances, one_limit_for_all_rows),
    },
    "07_bert_and_masked_words.py": {
        "attend": (attend, zeroed_afterwards),
        "whole_words": (whole_words, piece_by_piece),
        "pseudo_log_likelihood": (pseudo_log_likelihood, nothing_hidden),
    },
    "08_little_labels_much_text.py": {
        "stratified": (stratified, not_stratified),
        "confident": (confident, surest_of_all),
        "near_copies": (near_copies, words_in_common),
    },
    "09_encoder_decoder_by_hand.py": {
        "across": (across, only_back),
        "shift": (shift, not_shifted),
        "beam_step": (beam_step, best_of_each),
        "without_source": (without_source, by_the_word_before),
    },
    "10_translate_a_domain.py": {
        "several": (several, references_added_up),
        "smoothed_loss": (smoothed_loss, shared_among_the_others),
        "not_better": (not_better, drawn_for_each),
    },
    "11_bert_to_bert.py": {
        "weigh": (weigh, zeroed_behind_the_softmax),
        "strangers": (strangers, the_row_before),
        "may_see": (may_see, only_the_past),
    },
    "12_denoising.py": {
        "restore": (restore, one_after_another),
        "t5_holes": (t5_holes, that_may_touch),
        "hidden_loss": (hidden_loss, shared_among_all),
    },
    "13_answer_questions.py": {
        "cut": (windows_of, one_with_nothing_new),
        "best_window": (best_window, the_first_that_has_it),
        "best_threshold": (best_threshold, until_an_answer_loses),
    },
    "15_prompt_or_fine_tune.py": {
        "score_of": (score_of, said_at_its_own_place),
        "calibrated": (calibrated, by_the_mean_of_the_texts),
        "fitting": (fitting, cut_from_the_left),
    },
    "16_lora.py": {
        "nearest": (nearest, strength_counted_twice),
        "merged_folder": (merged_folder, turned_where_shapes_ask_for_it),
        "for_each_row": (for_each_row, all_as_the_first),
    },
    "17_which_architecture.py": {
        "work_of": (work_of, only_in_the_text),
        "ahead_from": (ahead_from, ahead_in_the_mean),
        "not_beaten": (not_beaten, better_in_both),
    },
}
EXERCISES = [(file, name) for file, answers in ANSWERS.items() for name in answers]


@pytest.mark.parametrize("file", ANSWERS)
def test_a_tutorial_runs_offline_and_names_each_exercise_that_is_not_solved(file, tmp_path):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    settings = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "HF_HUB_OFFLINE": "1"} | nowhere | QUICK
    run = subprocess.run(
        [sys.executable, TUTORIALS / file],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    verdicts = re.findall(r"^exercise (\d): not yet – .{20}", run.stdout, re.MULTILINE)
    assert verdicts == [str(n + 1) for n in range(len(ANSWERS[file]))]


@pytest.mark.parametrize(("file", "name"), EXERCISES)
def test_a_check_accepts_the_right_answer(file, name):
    getattr(tutorial(file), f"check_{name}")(ANSWERS[file][name][0])


@pytest.mark.parametrize(("file", "name"), EXERCISES)
def test_a_check_refuses_the_plausible_wrong_answer(file, name):
    with pytest.raises(AssertionError, match=r".{20}"):
        getattr(tutorial(file), f"check_{name}")(ANSWERS[file][name][1])


@pytest.mark.parametrize(("file", "name"), EXERCISES)
def test_a_check_refuses_the_stub(file, name):
    with pytest.raises(AssertionError, match=r".{20}"):
        getattr(tutorial(file), f"check_{name}")(getattr(tutorial(file), name))


def test_every_exercise_of_every_tutorial_has_its_answers_here():
    found = {
        path.name: sorted(re.findall(r"^def check_(\w+)", path.read_text("utf-8"), re.MULTILINE))
        for path in TUTORIALS.glob("*.py")
    }
    assert found == {file: sorted(answers) for file, answers in ANSWERS.items()}
    assert all(2 <= len(checks) <= 4 for checks in found.values())


@pytest.mark.parametrize("file", ANSWERS)
def test_every_code_cell_has_a_cell_of_prose_before_it(file):
    text = (TUTORIALS / file).read_text("utf-8")
    cells = re.findall(r"^# %%(.*)$", text, re.MULTILINE)
    assert text.startswith("# %% [markdown]\n# # ")
    assert all(before == " [markdown]" for before, cell in pairwise(cells) if cell == "")
