"""Let a model write: greedily, by sampling with temperature, top-k and top-p, or by beam search.

    B  rows of the batch    K  beams of a row    T  tokens of the longest prompt, S of the longest source
    V  vocabulary           n  tokens written so far

A language model continues its prompt; an encoder-decoder reads its source once, and continues its start token. Either
way a step feeds the newest token and gets the scores (V) of the next one; all before it lies in the cache.
"""

from dataclasses import dataclass, field, fields

import torch

from .errors import Error

FOREIGN = {  # what a generation_config.json may ask for that is not here, and the value that asks for nothing
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "typical_p": 1.0,
    "min_p": None,
    "penalty_alpha": None,
    "guidance_scale": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "sequence_bias": None,
    "force_words_ids": None,
    "constraints": None,
}


@dataclass
class Rules:
    """How to choose; the names are those of generation_config.json."""

    max_new_tokens: int = 50
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    eos_token_id: list[int] = field(default_factory=list)
    forced_bos_token_id: int | None = None  # the first token, of a model that is told its language
    forced_eos_token_id: int | None = None  # the last one, where the length runs out
    bad_words_ids: list[list[int]] = field(default_factory=list)
    suppress_tokens: list[int] = field(default_factory=list)
    begin_suppress_tokens: list[int] = field(default_factory=list)


def generate(model, tokenizer, prompt: str, **settings) -> str:
    """What a language model writes after `prompt`, or an encoder-decoder makes of it; settings as of `generate_ids`."""
    end = tokenizer.sep if tokenizer.eos is None else tokenizer.eos
    end = tokenizer.bos if end is None else end  # words: a text ends where the next one begins
    ids = tokenizer.encode(prompt) or [end]  # GPT-2 begins a text after an end
    if settings.get("eos") is None and "eos_token_id" not in getattr(model, "generation", {}):
        settings["eos"] = end
    device = next(model.parameters()).device
    (new,) = generate_ids(model, torch.tensor([ids], device=device), **settings)
    if model.kind == "seq2seq":
        return tokenizer.decode(new, skip_special=True).strip()
    return tokenizer.decode([*ids, *new])[len(tokenizer.decode(ids)) :]  # a word's space hangs on what is before it


@torch.inference_mode()
def generate_ids(
    model,
    ids,
    mask=None,
    *,
    max_new_tokens=None,
    min_new_tokens=None,
    temperature=None,
    top_k=None,
    top_p=None,
    beams=None,
    length_penalty=None,
    early_stopping=None,
    no_repeat_ngram=None,
    eos=None,
    seed=None,
) -> list[list[int]]:
    """The new tokens of each row, without padding, start or end token.

    ids, mask        prompts (B, T), or the sources (B, S) of an encoder-decoder, padded on either side where mask is
                     False; rows may differ in length
    temperature      0: the likeliest token each time; above: sampled, the logits divided by it
    top_k            sample among the k likeliest; top_p: among the likeliest that together reach this probability
    beams            above 1: search for the likeliest text, with so many beginnings in hand
    length_penalty   a text's score is its log-probability by its length to this power: above 0 favours long ones
    early_stopping   True: stop at `beams` whole texts; False: where the best unfinished one, ended now, would not beat
                     them; "never": where it could not at any length
    no_repeat_ngram  no so many tokens in a row come twice
    eos              the token, or a list of them, that ends a row; the others go on. All stop after `max_new_tokens`,
                     or where the model's positions end
    seed             of the sampling (None: torch's generator goes on)
    What is None comes from the folder's generation_config.json, else it is off; max_new_tokens is then 50, or for an
    encoder-decoder twice the source's tokens and 20.
    """
    given = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "num_beams": beams,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
        "no_repeat_ngram_size": no_repeat_ngram,
        "eos_token_id": eos,
    }
    if getattr(model, "kind", None) not in ("lm", "seq2seq"):
        kind = getattr(model, "kind", type(model).__name__)
        raise Error(f"only a language model or an encoder-decoder can write a text; this model is a {kind}")
    there = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    if not there.any(1).all():
        row = int(there.any(1).int().argmin())
        raise Error(f"row {row} of the prompts has no token; begin it with the end token, as GPT-2 does")
    rules = ruling(model, given, ids.shape[1])
    model.eval()
    context = Context(model, ids, there)
    steps = min(rules.max_new_tokens, model.longest - context.length + 1)  # the last token needs no position
    if rules.num_beams > 1:
        rows = beam_search(context, rules, steps)
    else:
        generator = None if seed is None else torch.Generator(ids.device).manual_seed(seed)
        rows = one_by_one(context, rules, steps, generator)
    return [row[: next((i for i, token in enumerate(row) if token in rules.eos_token_id), None)] for row in rows]


class Context:
    """What has been read so far, in rows that can be dropped and reordered."""

    def __init__(self, model, ids, mask):
        self.model, self.cache, self.memory = model, {}, None
        self.mask = None if mask.all() else mask  # without one, attention is faster
        if model.kind == "seq2seq":
            self.memory = model.encode(ids, self.mask)
            start = getattr(model, "generation", {}).get("decoder_start_token_id")
            self.prompts = [[model.start if start is None else start]] * len(ids)
            self.logits = self.read(torch.tensor(self.prompts, device=ids.device))[:, -1]  # (B, V)
        else:
            self.prompts = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
            rows, last = torch.arange(len(ids), device=ids.device), ids.shape[1] - 1 - mask.int().flip(1).argmax(1)
            hidden = model.hidden(ids, self.mask, self.cache)[rows, last]  # (B, C) of each prompt's last token
            self.logits = model.head(hidden).float()
        self.length = 1 if self.memory is not None else ids.shape[1]

    def read(self, ids):
        """ids (B, n) -> logits (B, n, V)."""
        if self.memory is None:
            if self.mask is not None:
                self.mask = torch.cat((self.mask, torch.ones_like(ids, dtype=torch.bool)), 1)
            hidden = self.model.hidden(ids, self.mask, self.cache)
        else:
            hidden = self.model.decode(ids, self.memory, self.mask, cache=self.cache)
        return self.model.head(hidden).float()

    def feed(self, token):
        """Read one more token of each row (B,)."""
        self.logits = self.read(token[:, None])[:, -1]

    def pick(self, rows, others=True):
        """Go on with these rows (B',) in this order. Without `others` each takes the place of one with the same
        source, and what was read of that stays where it is."""
        for key, pair in self.cache.items():
            if others or not isinstance(key, tuple):  # (layer, "cross"): the source's keys and values
                self.cache[key] = tuple(part.index_select(0, rows) for part in pair)
        if others:
            self.prompts = [self.prompts[row] for row in rows.tolist()]
            self.logits = self.logits.index_select(0, rows)
            self.memory = None if self.memory is None else self.memory.index_select(0, rows)
        if self.mask is not None and (others or self.memory is None):
            self.mask = self.mask.index_select(0, rows)


def one_by_one(context: Context, rules: Rules, steps: int, generator) -> list[list[int]]:
    """A token a step for each row, until it ends."""
    device = context.logits.device
    said, open_rows = [[] for _ in context.prompts], torch.arange(len(context.prompts), device=device)
    for n in range(steps):
        histories = [said[row] for row in open_rows.tolist()]
        token = choose(allowed(context.logits, context, histories, n, steps, rules), rules, generator)  # (B,)
        for row, new in zip(open_rows.tolist(), token.tolist(), strict=True):
            said[row].append(new)
        going = ~torch.isin(token, torch.tensor(rules.eos_token_id, dtype=token.dtype, device=device))
        if n + 1 == steps or not going.any():
            break
        if not going.all():  # what has ended costs no more
            (left,) = going.nonzero(as_tuple=True)
            context.pick(left)
            open_rows, token = open_rows[left], token[left]
        context.feed(token)
    return said


def beam_search(context: Context, rules: Rules, steps: int) -> list[list[int]]:
    """The likeliest text of each row that the search finds: of all continuations of its K best beginnings the K best
    go on (Sutskever et al. 2014, section 3.2). The scores, the order and the end are those of transformers."""
    K, V, device = rules.num_beams, context.logits.shape[-1], context.logits.device
    B, ends = len(context.prompts), torch.tensor(rules.eos_token_id, dtype=torch.long, device=device)
    candidates = K * max(2, 1 + len(ends))  # at least K of them do not end
    finished = [[] for _ in range(B)]  # (score, tokens) of the best K whole texts, the best first
    rows = torch.arange(B, device=device)  # those that are still open
    context.pick(rows.repeat_interleave(K))
    said = torch.empty(B, K, 0, dtype=torch.long, device=device)
    total = torch.zeros(B, K, device=device)  # log-probabilities
    total[:, 1:] = -1e9  # at first all beams of a row are alike: only one counts
    for n in range(steps):
        scores = allowed(context.logits.log_softmax(-1), context, said.flatten(0, 1).tolist(), n, steps, rules)
        scores = (scores.view(-1, K, V) + total[..., None]).flatten(1)  # (B, K V)
        best, place = scores.topk(min(candidates, scores.shape[1]))  # (B, 2 K)
        beam, token = place // V, place % V
        ended = torch.isin(token, ends) | (n + 1 == steps)

        for b, j in ended[:, :K].nonzero().tolist():
            score = float(best[b, j] / (n + 1) ** rules.length_penalty)
            whole = finished[rows[b]]
            whole.append((score, [*said[b, beam[b, j]].tolist(), int(token[b, j])]))
            whole[:] = sorted(whole, key=lambda pair: -pair[0])[:K]
        if n + 1 == steps:
            break

        total, order = best.masked_fill(ended, -1e9).topk(K)  # (B, K)
        beam, token = beam.gather(1, order), token.gather(1, order)
        said = torch.cat((said.gather(1, beam[..., None].expand(-1, -1, n)), token[..., None]), 2)
        longest = steps if rules.early_stopping == "never" and rules.length_penalty > 0 else n + 1
        hope = total[:, 0] / longest**rules.length_penalty  # the score of the best unfinished text
        full = [len(finished[row]) == K for row in rows.tolist()]
        worst = [
            finished[row][-1][0] if all_there else -1e9 for row, all_there in zip(rows.tolist(), full, strict=True)
        ]
        going = hope > torch.tensor(worst, device=device)
        if rules.early_stopping is True:
            going &= ~torch.tensor(full, device=device)

        origin = (torch.arange(len(rows), device=device) * K)[:, None] + beam  # (B, K) the beam that each one continues
        (left,) = going.nonzero(as_tuple=True)
        if not len(left):
            break
        rows, said, total, token, origin = (part[left] for part in (rows, said, total, token, origin))
        if len(left) < len(going):
            context.pick(origin.flatten())
        elif not torch.equal(origin.flatten(), torch.arange(origin.numel(), device=device)):
            context.pick(origin.flatten(), others=False)
        context.feed(token.flatten())
    return [texts[0][1] for texts in finished]


def allowed(scores, context: Context, histories: list[list[int]], n: int, steps: int, rules: Rules):
    """scores (B, V) of the next token, after those of `histories`, by the rules: -inf is what may not come."""
    scores, banned, size = scores.clone(), rules.bad_words_ids, rules.no_repeat_ngram_size
    phrases = [words for words in banned if len(words) > 1]
    if rules.repetition_penalty != 1 or size or phrases:
        for row, (prompt, said) in enumerate(zip(context.prompts, histories, strict=True)):
            text = prompt + said
            if rules.repetition_penalty != 1:  # (Keskar et al. 2019, section 4.1)
                seen, less = scores[row, text], rules.repetition_penalty
                scores[row, text] = torch.where(seen < 0, seen * less, seen / less)
            seen = [text[i : i + size] for i in range(len(text) - size + 1)] if size else []
            for words in (*seen, *phrases):
                if text[len(text) - len(words) + 1 :] == words[:-1]:
                    scores[row, words[-1]] = -torch.inf
    scores[:, [words[0] for words in banned if len(words) == 1]] = -torch.inf
    if n < rules.min_new_tokens:
        scores[:, rules.eos_token_id] = -torch.inf
    for forced, place in (rules.forced_bos_token_id, 0), (rules.forced_eos_token_id, steps - 1):
        if n == place and forced is not None:
            scores.fill_(-torch.inf)
            scores[:, forced] = 0.0
    scores[:, rules.suppress_tokens] = -torch.inf
    if n == (rules.forced_bos_token_id is not None):  # the first one that is free
        scores[:, rules.begin_suppress_tokens] = -torch.inf
    return scores


def choose(scores, rules: Rules, generator):
    """The next token of each row: scores (B, V) -> (B,)."""
    if rules.temperature == 0:
        return scores.argmax(-1)
    chances = probabilities(scores, rules.temperature, rules.top_k, rules.top_p)
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


def probabilities(logits, temperature, top_k=None, top_p=None):
    """(B, V) logits -> probabilities, 0 for what top-k (Fan et al. 2018) and then top-p (Holtzman et al. 2020) cut."""
    logits = logits / temperature
    if top_k and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is not None and top_p < 1:
        p, order = logits.softmax(-1).sort(descending=True)  # (B, V)
        before = p.cumsum(-1) - p  # what the likelier tokens reach without this one
        cut = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= top_p)
        logits = logits.masked_fill(cut, -torch.inf)
    return logits.softmax(-1)


def ruling(model, given: dict, T: int) -> Rules:
    """The rules: what is given, else what the folder's generation_config.json says. T tokens of a row are read."""
    said = {name: value for name, value in getattr(model, "generation", {}).items() if value is not None}
    for name, nothing in FOREIGN.items():
        if said.get(name, nothing) != nothing:
            raise Error(f"generation_config.json asks for {name} {said[name]!r}, which is not here; take it out")
    sampled = {"temperature": 1.0, "top_k": 50}  # where do_sample is all that a folder says
    found = sampled | said if said.get("do_sample") else said | {"temperature": 0.0}
    lm = model.kind == "lm"
    read = T if lm else 1  # max_length and min_length count the prompt, or the start token
    most = said["max_length"] - read if "max_length" in said else 50 if lm else 2 * T + 20
    found = {"max_new_tokens": most, "min_new_tokens": said.get("min_length", 0) - read} | found
    if given["temperature"] or (given["num_beams"] or 1) > 1:  # one of the two, whatever the folder has
        found |= {"num_beams": 1} if given["temperature"] else {"temperature": 0.0}
    found |= {name: value for name, value in given.items() if value is not None}
    ends = found.get("eos_token_id")
    found["eos_token_id"] = [ends] if isinstance(ends, int) else list(ends or ())
    rules = Rules(**{f.name: found[f.name] for f in fields(Rules) if f.name in found})
    rules.bad_words_ids = [ids for ids in rules.bad_words_ids if ids not in [[end] for end in rules.eos_token_id]]
    check(rules)
    return rules


def check(rules: Rules):
    if not rules.temperature >= 0:
        raise Error(f"temperature {rules.temperature}: 0 is greedy, above samples; there is nothing below")
    if rules.top_k is not None and rules.top_k < 0:
        raise Error(f"top_k {rules.top_k}: give a number of tokens, 1 or more")
    if rules.top_p is not None and not 0 < rules.top_p <= 1:
        raise Error(f"top_p {rules.top_p}: a probability, above 0 and up to 1")
    if rules.max_new_tokens < 1:
        why = "must be 1 or more (what a folder calls max_length counts the prompt, too)"
        raise Error(f"max_new_tokens {rules.max_new_tokens}: {why}")
    if rules.num_beams < 1:
        raise Error(f"beams {rules.num_beams}: must be 1 or more")
    if rules.num_beams > 1 and rules.temperature > 0:
        raise Error(
            f"beams {rules.num_beams} search for the likeliest text; to sample, at temperature "
            f"{rules.temperature:g}, take beams=1"
        )
