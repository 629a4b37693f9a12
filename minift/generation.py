"""Continue a text: greedily, or by sampling with temperature, top-k and top-p.

B rows, T tokens of the longest prompt, V vocabulary
"""

import torch

from .errors import Error


def generate(model, tokenizer, prompt: str, **settings) -> str:
    """The text that follows `prompt`; the settings are those of `generate_ids`."""
    ids = tokenizer.encode(prompt) or [tokenizer.eos]  # GPT-2 begins a text after an end
    if settings.get("eos") is None and "eos_token_id" not in getattr(model, "generation", {}):
        settings["eos"] = tokenizer.eos
    device = next(model.parameters()).device
    (new,) = generate_ids(model, torch.tensor([ids], device=device), **settings)
    return tokenizer.decode(new)


@torch.inference_mode()
def generate_ids(
    model,
    ids,
    mask=None,
    *,
    max_new_tokens=None,
    min_new_tokens=0,
    temperature=None,
    top_k=None,
    top_p=None,
    eos=None,
    seed=None,
) -> list[list[int]]:
    """The new tokens of each row, without padding or end token.

    ids, mask    (B, T), padded on either side where mask is False; rows may differ in length
    temperature  0: the likeliest token each time; above: sampled, the logits divided by it
    top_k        sample among the k likeliest; top_p: among the likeliest that together reach this probability
    eos          the token, or a list of them, that ends a row; the others go on. All stop after `max_new_tokens`, or
                 where the model's positions end
    seed         of the sampling (None: torch's generator goes on)
    What is None comes from the folder's generation_config.json, where that says something.
    """
    said = {name: value for name, value in getattr(model, "generation", {}).items() if value is not None}
    said = {"temperature": 1.0, "top_k": 50} | said if said.get("do_sample") else said | {"temperature": 0.0}
    temperature = said["temperature"] if temperature is None else temperature
    top_k = said.get("top_k") if top_k is None else top_k
    top_p = said.get("top_p") if top_p is None else top_p
    eos = said.get("eos_token_id") if eos is None else eos
    ends = [eos] if isinstance(eos, int) else list(eos or ())
    if max_new_tokens is None:
        max_new_tokens = said.get("max_new_tokens") or 50
    check(temperature, top_k, top_p, max_new_tokens)
    if not hasattr(model, "kind") or model.kind != "lm":
        kind = getattr(model, "kind", type(model).__name__)
        raise Error(f"only a language model can continue a text; this model is a {kind}")
    model.eval()
    B, T = ids.shape
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    if not mask.any(1).all():
        row = int(mask.any(1).int().argmin())
        raise Error(f"row {row} of the prompts has no token; begin it with the end token, as GPT-2 does")
    generator = None if seed is None else torch.Generator(ids.device).manual_seed(seed)

    cache, rows = {}, torch.arange(B, device=ids.device)
    hidden = model.hidden(ids, mask, cache)
    last = T - 1 - mask.int().flip(1).argmax(1)  # (B,) each prompt's last token, wherever its padding is
    logits = model.head(hidden[rows, last])  # (B, V)
    new, done = [], torch.zeros(B, dtype=torch.bool, device=ids.device)
    steps = min(max_new_tokens, model.longest - T + 1)  # the last token needs no position
    for n in range(steps):
        logits = logits.float()
        if n < min_new_tokens:
            logits[:, ends] = -torch.inf
        token = choose(logits, temperature, top_k, top_p, generator)  # (B,)
        new.append(token)
        done |= torch.isin(token, torch.tensor(ends, dtype=token.dtype, device=ids.device))
        if done.all() or n + 1 == steps:
            break
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)  # (B, T + n + 1)
        logits = model.head(model.hidden(token[:, None], mask, cache)[:, -1])
    columns = torch.stack(new, 1).tolist()
    return [row[: next((i for i, token in enumerate(row) if token in ends), None)] for row in columns]


def choose(logits, temperature, top_k, top_p, generator):
    """The next token of each row: logits (B, V) -> (B,)."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(probabilities(logits, temperature, top_k, top_p), 1, generator=generator)[:, 0]


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


def check(temperature, top_k, top_p, max_new_tokens):
    if not temperature >= 0:
        raise Error(f"temperature {temperature}: 0 is greedy, above samples; there is nothing below")
    if top_k is not None and top_k < 0:
        raise Error(f"top_k {top_k}: give a number of tokens, 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise Error(f"top_p {top_p}: a probability, above 0 and up to 1")
    if max_new_tokens < 1:
        raise Error(f"max_new_tokens {max_new_tokens}: must be 1 or more")
