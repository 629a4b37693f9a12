"""Rows from files and from memory, and batches of rows of like length.

A `Table` is what every task reads: rows as dictionaries, and for each row the line it came from, so that a
fault found much later (an unknown label, a blank text) can still be named by file and line.

    .tsv    a header line, then one row a line; quoting off: a quote is a character like any other
    .csv    a header line, then rows by the standard rules, quotes strictly paired
    .jsonl  one object a line; numbers stay numbers here, while the cells of .tsv and .csv are always strings
    .txt    one document, or several between lines `<|endoftext|>`; the one column is `text`
    .json   questions in the form of SQuAD 1.1 or 2.0; a row a question: id, title, question, context, is_impossible and
            answers, a list of {text, answer_start}; this counts characters

Blank lines are no rows. Everything is UTF-8, with or without a byte-order mark, with LF or CRLF line ends.
"""

import csv
import io
import json
import random
import re
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch

from .errors import Error, nearest
from .files import read_text

IGNORE = -100  # the target of a token that is not to be predicted; what F.cross_entropy ignores by default
MEMORY = "<rows>"  # the source of rows that were given in memory


@dataclass
class Table:
    rows: list[dict]
    columns: list[str]
    source: str  # the path as it was given, or MEMORY
    lines: list  # where each row starts: its line, or in memory its number, from 1; of SQuAD's files "question ID"

    def where(self, i: int) -> str:
        place, kind = self.lines[i], "row" if self.source == MEMORY else "line"
        return f"{self.source}, {place if isinstance(place, str) else f'{kind} {place}'}"

    def take(self, indices: list[int]) -> "Table":
        rows, lines = ([values[i] for i in indices] for values in (self.rows, self.lines))
        return Table(rows, self.columns, self.source, lines)

    def column(self, *names: str) -> str:
        """The first of `names` (synonyms) that is a column; every row has it."""
        name = next((n for n in names if n in self.columns), None)
        if name is None:
            hint = next(filter(None, (nearest(n, self.columns) for n in names)), "")
            raise Error(
                f"{self.source} has the columns {', '.join(map(short, self.columns))}; "
                f"{' or '.join(repr(n) for n in names)} is needed{hint}"
            )
        for i, row in enumerate(self.rows):  # only JSON and memory can have rows with different keys
            if name not in row:
                raise Error(f"{self.where(i)}: this row has no '{name}'{nearest(name, row)}")
        return name


def read(source) -> Table:
    """A table from a path, or from a list of dictionaries, of texts or of (text, label) pairs."""
    if isinstance(source, str | Path):
        numbered = from_file(Path(source))
    elif isinstance(source, list):
        numbered = [(n, from_memory(n, row)) for n, row in enumerate(source, 1)]
        source = MEMORY
    else:  # iterating over a data frame would give the names of its columns
        raise Error(f"data is a path or a list, not a {type(source).__name__}; make it a list of dicts")
    if not numbered:
        raise Error(f"{source}: no rows; at least one is needed (in .tsv and .csv, below the header)")
    rows = [row for _, row in numbered]
    columns = list(dict.fromkeys(chain.from_iterable(rows)))  # in the order of their first appearance
    return Table(rows, columns, str(source), [line for line, _ in numbered])


def from_memory(n: int, row) -> dict:
    if isinstance(row, dict):
        return row
    if isinstance(row, str):
        return {"text": row}
    if isinstance(row, tuple) and len(row) == 2:
        return dict(zip(("text", "label"), row, strict=True))
    raise Error(f"{MEMORY}, row {n}: {short(repr(row))} is not a dict, a text or a (text, label) pair")


def from_file(path: Path) -> list[tuple[int, dict]]:
    suffix = path.suffix.lower()
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in PARSERS)
        raise Error(f"{path}: is a folder; give a file" + ", such as ".join(["", *inside[:1]]))
    if suffix not in PARSERS and path.exists():
        raise Error(f"{path}: '{suffix}' is none of {', '.join(PARSERS)}{nearest(suffix, PARSERS)}")
    text = read_text(path)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise Error(f"{path}, line {line}: a NUL byte; the file is damaged, or UTF-16: save it as UTF-8 text")
    if not text.strip():
        raise Error(f"{path}: the file is empty; give one with rows")
    return list(PARSERS[suffix](text, path))


def tsv_rows(text: str, path: Path):
    lines = enumerate(text.replace("\r\n", "\n").split("\n"), 1)
    return table_rows(((n, line.split("\t")) for n, line in lines if line), path, "\t")


def csv_rows(text: str, path: Path):
    return table_rows(csv_records(text, path), path, ",")


def csv_records(text: str, path: Path):
    """(the line on which the record starts, its cells)"""
    csv.field_size_limit(2**31 - 1)  # from 131,072 characters: a document may be longer
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as e:
        # The module knows where it gave up, which may be the end of the file. Step over the sound cells of
        # the record instead: the quote that nothing closes is the next character.
        rest = text.split("\n", line - 1)[-1]
        sound = re.match(r'(?:(?:"(?:[^"]|"")*+"|[^",\n][^,\n]*+)?,)*+', rest).end()
        line += rest.count("\n", 0, sound)
        raise Error(
            f"{path}, line {line}: the quote that opens here is not closed before a comma or a line end "
            f"({e}): {short(rest[sound:])}; close it; a quote inside quotes is written twice"
        ) from None


def table_rows(records, path: Path, separator: str):
    """Rows from (line, cells), the first of which is the header."""
    names = {",": "commas", "\t": "tabs", ";": "semicolons"}
    line, columns = next(records)
    other = next((names[s] for s in names if s in columns[0]), None)
    if len(columns) == 1 and other:
        header = f"the header {short(columns[0])!r} is separated by {other}"
        raise Error(f"{path}, line {line}: {header}; save the file with {names[separator]}")
    twice = next((c for i, c in enumerate(columns) if c in columns[:i]), None)
    if twice is not None:
        raise Error(f"{path}, line {line}: the column {short(twice)!r} is there twice; rename one")
    for line, cells in records:
        if len(cells) != len(columns):
            many = "quote cells that hold commas" if separator == "," else "replace tabs inside cells"
            raise Error(
                f"{path}, line {line}: {len(cells)} cell(s), but the header has {len(columns)} "
                f"({', '.join(map(short, columns))}): {short(separator.join(cells))!r}; "
                + (many if len(cells) > len(columns) else "add the missing cells")
            )
        yield line, dict(zip(columns, cells, strict=True))


def jsonl_rows(text: str, path: Path):
    for n, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:  # also absurd integers, absurd nesting
            place, why = f"line {n}, column {getattr(e, 'colno', 1)}", getattr(e, "msg", e)
            raise Error(f"{path}, {place}: not JSON ({why}): {short(line)}; write an object a line") from None
        if not isinstance(row, dict):
            raise Error(f'{path}, line {n}: {short(line)} is no object; write {{"text": …}} on each line')
        yield n, row


def squad_rows(text: str, path: Path):
    """A row for each question of {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", …}]}]}]}."""

    def part(entry, place, key, kind, name):
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            found = short(repr(entry.get(key) if isinstance(entry, dict) and key in entry else entry))
            raise Error(f"{path}, {place}: needs {key!r}, {name}, as in SQuAD's files; there is {found}")
        return entry[key]

    def parts(entry, place, key):
        found = part(entry, place, key, list, "a list")
        return [(one, f"{place}.{key}[{i}]".removeprefix("the file.")) for i, one in enumerate(found)]

    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as e:
        place, why = f"line {getattr(e, 'lineno', 1)}, column {getattr(e, 'colno', 1)}", getattr(e, "msg", e)
        raise Error(f"{path}, {place}: not JSON ({why}); if it has an object a line, name it .jsonl") from None
    for article, in_article in parts(content, "the file", "data"):
        for paragraph, in_paragraph in parts(article, in_article, "paragraphs"):
            context = part(paragraph, in_paragraph, "context", str, "a text")
            for entry, place in parts(paragraph, in_paragraph, "qas"):
                id = str(part(entry, place, "id", str | int, "a text"))
                question, answers = part(entry, place, "question", str, "a text"), entry.get("answers", [])
                row = {"id": id, "title": str(article.get("title", "")), "question": question, "context": context}
                impossible = entry.get("is_impossible", not answers)
                yield f"question {id}", row | {"answers": answers, "is_impossible": impossible}


def txt_rows(text: str, path: Path):
    line = 1
    for document in re.split(r"(?m)^<\|endoftext\|>[ \t]*(?:\n|\Z)", text.replace("\r\n", "\n")):
        if document.strip():
            yield line, {"text": document}
        line += document.count("\n") + 1  # and the separator


PARSERS = {".tsv": tsv_rows, ".csv": csv_rows, ".jsonl": jsonl_rows, ".txt": txt_rows, ".json": squad_rows}


def short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def split(table: Table, fraction: float, seed: int) -> tuple[Table, Table]:
    """(training rows, `fraction` of the rows held out), both in the order of the file. Rows that differ at most in
    label or id, and questions on one context, stay on one side, else the held-out score would partly measure memory."""
    groups, columns = {}, [c for c in table.columns if c not in ("label", "id", "idx")]
    columns = ["context"] if "context" in columns else columns
    for i, row in enumerate(table.rows):
        texts = repr([row.get(c) for c in columns])
        groups.setdefault(texts, []).append(i)
    if len(groups) < 2:
        raise Error(f"{table.source}: no row can be held out, since all have the same text; add others")
    n = len(table.rows)
    wanted = min(max(1, round(fraction * n)), n - 1)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    held = []
    for group in order:
        if len(held) + len(group) <= wanted:
            held += group
    held = set(held or min(order, key=len))
    return table.take([i for i in range(n) if i not in held]), table.take(sorted(held))


def tails(table: Table, fraction: float) -> tuple[Table, Table]:
    """(the beginnings of the texts, their ends: about the last `fraction` of each), cut between paragraphs if one ends
    near there, else between words. For a few long texts, of which none can be spared."""
    column = table.column("text")
    beginnings, ends = [], {}
    for i, row in enumerate(table.rows):
        text = row[column] if isinstance(row[column], str) else ""  # what is no text is told of later
        cut = round(len(text) * (1 - fraction))
        paragraph = text.find("\n\n", cut, cut + len(text) // 20 + 1)
        cut = paragraph if paragraph > 0 else text.find(" ", cut)
        if cut > 0 and text[cut:].strip():
            ends[i] = {column: text[cut:]}
        beginnings.append(row | {column: text[:cut]} if i in ends else row)
    if not ends:
        raise Error(f"{table.source}: too short to hold out a part; give other texts to measure on with --valid")
    lines = [table.lines[i] for i in ends]
    return replace(table, rows=beginnings), replace(table, rows=list(ends.values()), lines=lines)


def length_batches(
    lengths: list[int], batch_size=None, batch_tokens=None, seed=0, epoch=0, shuffle=True
) -> list[list[int]]:
    """Batches of row numbers, each row once: at most `batch_size` rows, at most `batch_tokens` with padding.

    Shuffled: the order is a function of (seed, epoch); rows are sorted by length only within some fifty
    batches, so that there is little padding and still much chance in who meets whom. Not shuffled: longest
    first, so that evaluation runs out of memory at once or not at all."""

    def fits(width):  # how many rows of this length one batch holds
        rows = len(lengths) if batch_size is None else batch_size
        return rows if batch_tokens is None else min(rows, batch_tokens // max(width, 1))

    longest = max(lengths)
    if fits(longest) < 1 or batch_size is batch_tokens is None:
        raise Error(
            f"batch_size={batch_size}, batch_tokens={batch_tokens}: no batch can hold the longest row "
            f"of {longest} tokens; raise these or lower max_length"
        )
    order, chunk, batches = list(range(len(lengths))), len(lengths), []
    chance = random.Random(f"{seed} {epoch}")
    if shuffle:
        chance.shuffle(order)
        chunk = 50 * fits(sum(lengths) // len(lengths))
    for start in range(0, len(order), chunk):
        rows = sorted(order[start : start + chunk], key=lambda i: -lengths[i])
        first = 0
        while first < len(rows):
            n = fits(lengths[rows[first]])  # the first row is the longest: it sets the width of the batch
            batches.append(rows[first : first + n])
            first += n
    if shuffle:
        chance.shuffle(batches)
    return batches


def pad(rows_of_ids, value: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (B, T), right-padded with `value`, and mask (B, T): True = real token."""
    lengths = torch.tensor([len(row) for row in rows_of_ids])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, T)
    ids = torch.full(mask.shape, value)
    ids[mask] = torch.tensor(list(chain.from_iterable(rows_of_ids)), dtype=torch.long)
    return ids, mask


def pack(lengths: list[int], width: int) -> list[list[int]]:
    """Rows of at most `width` tokens made of pieces of these lengths: the piece numbers of each row. The longest come
    first, each into the fullest row that still has room (best fit), which leaves next to nothing empty."""
    rows, with_room = [], [[] for _ in range(width + 1)]  # the rows by the room they have left
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > width:
            raise Error(f"a piece of {lengths[i]} tokens does not fit into a row of {width}")
        room = next((r for r in range(lengths[i], width) if with_room[r]), None)
        row = with_room[room].pop() if room is not None else []
        if not row:
            rows.append(row)
        row.append(i)
        with_room[(width if room is None else room) - lengths[i]].append(row)
    return rows
