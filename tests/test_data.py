"""Tables and batches. Run me: pytest tests/test_data.py"""

import csv
import io
import json
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minift.data import Table, length_batches, pad, read, split
from minift.errors import Error


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Write a file into an empty current folder, so that messages begin with its bare name."""
    monkeypatch.chdir(tmp_path)

    def write(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


def message(source) -> str:
    with pytest.raises(Error) as e:
        read(source)
    assert e.value.code == 2
    return str(e.value)


# Reading what is sound


def test_a_tsv_has_quoting_off_and_strings_only(file):
    table = read(file("a.tsv", 'text\tlabel\n"so called\t1\n a "b" \t0\n'))
    assert table.rows == [{"text": '"so called', "label": "1"}, {"text": ' a "b" ', "label": "0"}]
    assert (table.columns, table.source, table.lines) == (["text", "label"], "a.tsv", [2, 3])
    assert table.where(1) == "a.tsv, line 3"


def test_a_csv_cell_may_hold_commas_quotes_and_lines(file):
    table = read(file("a.csv", 'text,label\n"a, ""b""\nc",x\n\nd,y\n'))
    assert table.rows == [{"text": 'a, "b"\nc', "label": "x"}, {"text": "d", "label": "y"}]
    assert table.lines == [2, 5]


def test_jsonl_keeps_numbers_and_skips_blank_lines(file):
    table = read(file("a.jsonl", '{"text": "a", "label": 1.5}\n\n  \n{"label": 2, "text": "b", "id": null}\n'))
    assert table.rows == [{"text": "a", "label": 1.5}, {"label": 2, "text": "b", "id": None}]
    assert (table.columns, table.lines) == (["text", "label", "id"], [1, 4])


def test_a_txt_is_one_document_and_separator_lines_make_it_several(file):
    assert read(file("a.txt", "one\n\ntwo\n")).rows == [{"text": "one\n\ntwo\n"}]
    table = read(file("b.txt", "one\n<|endoftext|>\r\ntwo\nx <|endoftext|> y\n<|endoftext|> \n\n<|endoftext|>"))
    assert table.rows == [{"text": "one\n"}, {"text": "two\nx <|endoftext|> y\n"}]
    assert table.lines == [1, 3]


def test_rows_in_memory_are_dicts_texts_or_pairs_and_are_counted_from_one():
    rows = [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    assert read(rows) == Table(rows, ["text", "n"], "<rows>", [1, 2])
    assert read(["a", "b"]).rows == [{"text": "a"}, {"text": "b"}]
    assert read([("a", 1)]).rows == [{"text": "a", "label": 1}]
    assert read(["a", "b"]).where(1) == "<rows>, row 2"


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.txt"])
def test_byte_order_mark_and_crlf_leave_no_trace(file, name):
    content = {".tsv": "text\tlabel\nä\t1\n", ".csv": "text,label\nä,1\n", ".jsonl": '{"text": "ä"}\n'}
    plain = content.get(name[1:], "ä\nb\n")
    expected = read(file(name, plain))
    assert read(file(name, "\ufeff" + plain.replace("\n", "\r\n"))) == expected


def test_only_newlines_end_a_line(file):
    odd = "a\x0bb\x85c\u2028d"
    assert read(file("a.tsv", f"text\n{odd}\n")).rows == [{"text": odd}]
    assert read(file("a.jsonl", '{"text": "a\u2028b\x85"}\n')).rows == [{"text": "a\u2028b\x85"}]


def test_a_last_line_without_newline_and_a_suffix_in_capitals_count(file):
    assert len(read(file("A.TSV", "text\na\nb")).rows) == 2


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_cell_may_be_longer_than_the_limit_of_the_csv_module(file, name):
    assert len(read(file(name, "text\n" + "x" * 200_000 + "\n")).rows[0]["text"]) == 200_000


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.text("ab,\"\n é'"), min_size=2, max_size=2), min_size=1))
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, cells):
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["x", "y"], *cells])
    file.write_bytes(out.getvalue().encode())
    assert [list(row.values()) for row in read(file).rows] == cells


# Faults of files: each is one message with file, place, value and way out


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", b"", "a.tsv: the file is empty; give one with rows"),
        ("a.jsonl", b"\xef\xbb\xbf \r\n\n", "a.jsonl: the file is empty; give one with rows"),
        (
            "a.csv",
            "text,label\n\n",
            "a.csv: no rows; at least one is needed (in .tsv and .csv, below the header)",
        ),
        (
            "a.txt",
            "<|endoftext|>\n",
            "a.txt: no rows; at least one is needed (in .tsv and .csv, below the header)",
        ),
        ("a.jsn", "[]", "a.jsn: '.jsn' is none of .tsv, .csv, .jsonl, .txt, .json; did you mean '.json'?"),
        ("rows", "text", "rows: '' is none of .tsv, .csv, .jsonl, .txt, .json"),
        (
            "a.tsv",
            "text\tlabel\ngood\t1\nbad\twith tab\t0\n",
            "a.tsv, line 3: 3 cell(s), but the header has 2 (text, label): 'bad\\twith tab\\t0'; "
            "replace tabs inside cells",
        ),
        (
            "a.tsv",
            "text\tlabel\n\ngood\n",
            "a.tsv, line 3: 1 cell(s), but the header has 2 (text, label): 'good'; add the missing cells",
        ),
        (
            "a.csv",
            'text,label\n"x\ny",0\nso, so,1\n',
            "a.csv, line 4: 3 cell(s), but the header has 2 (text, label): 'so, so,1'; quote cells that hold commas",
        ),
        (
            "a.csv",
            "text,label,id\nx,0\n",
            "a.csv, line 2: 2 cell(s), but the header has 3 (text, label, id): 'x,0'; add the missing cells",
        ),
        ("a.csv", "text,label,text\nx,0,y\n", "a.csv, line 1: the column 'text' is there twice; rename one"),
        ("a.tsv", "\na\ta\nx\ty\n", "a.tsv, line 2: the column 'a' is there twice; rename one"),
        (
            "a.csv",
            "text;label\nx;0\n",
            "a.csv, line 1: the header 'text;label' is separated by semicolons; save the file with commas",
        ),
        (
            "a.csv",
            "text\tlabel\nx\t0\n",
            "a.csv, line 1: the header 'text\\tlabel' is separated by tabs; save the file with commas",
        ),
        (
            "a.tsv",
            "text,label\nx,0\n",
            "a.tsv, line 1: the header 'text,label' is separated by commas; save the file with tabs",
        ),
        (
            "a.csv",
            "text\nx\n\0y\n",
            "a.csv, line 3: a NUL byte; the file is damaged, or UTF-16: save it as UTF-8 text",
        ),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text" "b"}\n',
            'a.jsonl, line 2, column 9: not JSON (Expecting \':\' delimiter): {"text" "b"}; write an object a line',
        ),
        (
            "a.jsonl",
            '{"text": "a"}\n["b", 1]\n',
            'a.jsonl, line 2: ["b", 1] is no object; write {"text": …} on each line',
        ),
    ],
)
def test_a_faulty_file_is_named_with_place_value_and_way_out(file, name, content, expected):
    assert message(file(name, content)) == expected


@pytest.mark.parametrize(
    ("rows", "line", "value"),
    [
        (["a,0", '"b,0', "c,0", "d,0"], 3, '"b,0'),  # never closed: the module stops at the end of the file
        (["a,0", '"b,0', '"c",0'], 3, '"b,0'),  # closed by the next row's quote
        (["a,0", '"b\nc, ""d""",x,"e', "f,0"], 4, '"e'),  # a sound cell of two lines comes before
        (['a,"b" c'], 2, '"b" c'),
    ],
)
def test_an_unclosed_quote_is_found_where_it_opens(file, rows, line, value):
    found = message(file("a.csv", "\n".join(["text,label", *rows])))
    assert found.startswith(f"a.csv, line {line}: the quote that opens here is not closed before a comma")
    assert f": {value}" in found and found.endswith("; close it; a quote inside quotes is written twice")


def test_absurd_json_is_one_message_too(file):
    assert "a.jsonl, line 1, column 1: not JSON (" in message(file("a.jsonl", "[" * 200_000))
    assert "a.jsonl, line 1, column 1: not JSON (" in message(file("a.jsonl", "9" * 5_000))


def test_a_missing_file_and_a_folder_are_named(tmp_path, file):
    assert message("gone.tsv") == "gone.tsv: no such file"
    assert message("gone") == "gone: no such file"
    assert message(tmp_path) == f"{tmp_path}: is a folder; give a file"
    file("b.tsv", "")
    file("a.py", "")
    assert message(tmp_path) == f"{tmp_path}: is a folder; give a file, such as b.tsv"


def test_other_encodings_are_named_by_line_and_byte(file):
    assert "a.tsv, line 2: byte 0xe9 at offset 8" in message(file("a.tsv", "text\ncaf\xe9\n".encode("latin-1")))
    assert "looks like UTF-16" in message(file("a.tsv", "text\nx\n".encode("utf-16")))
    assert "a.tsv, line 1: a NUL byte" in message(file("a.tsv", "text\nx\n".encode("utf-16-le")))


def test_rows_in_memory_that_are_none_are_refused():
    assert message([]).startswith("<rows>: no rows; at least one is needed")
    assert message(["a", 3]) == "<rows>, row 2: 3 is not a dict, a text or a (text, label) pair"
    assert message([("a", "b", "c")]).startswith("<rows>, row 1: ('a', 'b', 'c') is not a dict")
    assert message({"text": "a"}) == "data is a path or a list, not a dict; make it a list of dicts"


def test_long_values_are_shortened_in_messages(file):
    found = message(file("a.tsv", "text\tlabel\n" + "x" * 1000 + "\n"))
    assert len(found) < 200 and "x" * 39 + "…" in found


# Columns


def test_the_first_synonym_that_is_there_is_the_column(file):
    table = read(file("a.tsv", "sentence\ttext_a\nx\ty\n"))
    assert table.column("text", "text_a", "sentence") == "text_a"


def test_a_missing_column_lists_those_found_and_the_nearest(file):
    table = read(file("train.csv", "text,lable\nx,1\n"))
    with pytest.raises(Error) as e:
        table.column("label")
    assert str(e.value) == "train.csv has the columns text, lable; 'label' is needed; did you mean 'lable'?"
    with pytest.raises(Error, match=re.escape("; 'score' or 'labels' is needed; did you mean 'lable'?")):
        table.column("score", "labels")
    with pytest.raises(Error, match=r"'zzz' is needed$"):
        table.column("zzz")


def test_a_row_without_the_column_is_named(file):
    table = read(file("a.jsonl", '{"text": "a", "label": 0}\n\n{"text": "b", "lab": 1}\n'))
    assert table.column("text") == "text"
    with pytest.raises(Error, match=r"^a.jsonl, line 3: this row has no 'label'; did you mean 'lab'\?$"):
        table.column("label")


# Questions in the form of SQuAD

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Cats",
            "paragraphs": [
                {
                    "context": "Cats purr.",
                    "qas": [
                        {"id": "a1", "question": "Who?", "answers": [{"text": "Cats", "answer_start": 0}]},
                        {"id": "a2", "question": "Why?", "is_impossible": True, "answers": [], "plausible_answers": 1},
                    ],
                },
                {"context": "Dogs.", "qas": []},
            ],
        },
        {"paragraphs": [{"context": "x", "qas": [{"id": 7, "question": "What?"}]}]},
    ],
}


def test_a_squad_file_has_a_row_a_question_named_by_its_id(file):
    table = read(file("a.json", json.dumps(SQUAD, indent=1)))
    assert table.columns == ["id", "title", "question", "context", "answers", "is_impossible"]
    assert [list(row.values()) for row in table.rows] == [
        ["a1", "Cats", "Who?", "Cats purr.", [{"text": "Cats", "answer_start": 0}], False],
        ["a2", "Cats", "Why?", "Cats purr.", [], True],
        ["7", "", "What?", "x", [], True],
    ]
    assert [table.where(i) for i in range(3)] == [f"a.json, question {id}" for id in ("a1", "a2", "7")]
    assert table.take([1]).where(0) == "a.json, question a2"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"data": [\n}', "a.json, line 2, column 1: not JSON (Expecting value); if it has an object a line, name it"),
        ("[" * 200_000, "a.json, line 1, column 1: not JSON ("),
        ("[]", "a.json, the file: needs 'data', a list, as in SQuAD's files; there is []"),
        ('{"data": 3}', "a.json, the file: needs 'data', a list, as in SQuAD's files; there is 3"),
        ('{"data": []}', "a.json: no rows; at least one is needed"),
        ('{"data": [{"title": "t"}]}', "a.json, data[0]: needs 'paragraphs', a list"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "a.json, data[0].paragraphs[0]: needs 'context', a text"),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "q"}]}]}]}',
            "a.json, data[0].paragraphs[0].qas[0]: needs 'question', a text, as in SQuAD's files; there is {'id': 'q'}",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "q"}]}]}]}',
            "a.json, data[0].paragraphs[0].qas[0]: needs 'id', a text",
        ),
    ],
)
def test_what_is_no_squad_file_is_named_with_the_place_inside(file, content, expected):
    assert message(file("a.json", content)).startswith(expected)


# Holding rows out


def test_split_keeps_every_row_once_in_order_with_its_line():
    table = read([(f"text {i}", i % 2) for i in range(100)])
    train, held = split(table, 0.1, seed=0)
    assert len(held.rows) == 10 and len(train.rows) == 90
    assert sorted(train.lines + held.lines) == table.lines
    for part in (train, held):
        assert part.lines == sorted(part.lines) and part.columns == table.columns
        assert all(part.rows[i] == table.rows[line - 1] for i, line in enumerate(part.lines))
    assert split(table, 0.1, seed=0) == (train, held)
    assert split(table, 0.1, seed=1) != (train, held)


def test_split_keeps_all_questions_on_one_context_on_one_side():
    table = read([{"question": f"question {i}", "context": f"context {i % 20}", "answers": []} for i in range(100)])
    train, held = split(table, 0.1, seed=0)
    assert held.rows and len(train.rows) + len(held.rows) == 100
    assert {row["context"] for row in train.rows}.isdisjoint(row["context"] for row in held.rows)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2), st.floats(0.01, 0.99), st.integers())
def test_equal_texts_stay_on_one_side_and_neither_side_is_empty(texts, fraction, seed):
    table = read([{"text": f"text {t}", "label": i, "id": i} for i, t in enumerate(texts)])
    if len(set(texts)) == 1:
        with pytest.raises(Error, match="<rows>: no row can be held out, since all have the same text; add others"):
            split(table, fraction, seed)
        return
    train, held = split(table, fraction, seed)
    assert train.rows and held.rows and sorted(train.lines + held.lines) == table.lines
    assert not {r["text"] for r in train.rows} & {r["text"] for r in held.rows}


def test_a_pair_with_one_text_in_common_is_another_row():
    table = read([{"text_a": "same", "text_b": str(i), "label": "0"} for i in range(10)])
    assert len(split(table, 0.3, 0)[1].rows) == 3


# Batches

LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=400)


@settings(deadline=None, max_examples=150)
@given(LENGTHS, st.none() | st.integers(1, 9), st.none() | st.integers(30, 100), st.integers(), st.booleans())
def test_batches_hold_every_row_once_within_the_budget(lengths, size, tokens, seed, shuffle):
    if size is None and tokens is None:
        size = 4
    batches = length_batches(lengths, size, tokens, seed=seed, shuffle=shuffle)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for b in batches:
        assert b and (size is None or len(b) <= size)
        assert tokens is None or len(b) * max(lengths[i] for i in b) <= tokens
    assert batches == length_batches(lengths, size, tokens, seed=seed, shuffle=shuffle)
    if tokens is None:
        assert len(batches) == -(-len(lengths) // size)
    if not shuffle:
        flat = [lengths[i] for b in batches for i in b]
        assert flat == sorted(lengths, reverse=True)


def test_another_epoch_or_seed_has_another_order():
    lengths = [i % 17 for i in range(200)]
    orders = [length_batches(lengths, 8, seed=s, epoch=e) for s in (0, 1) for e in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert {tuple(sorted(b)) for b in orders[0]} != {tuple(sorted(b)) for b in orders[1]}  # others meet


def test_shuffled_batches_are_of_like_length_and_in_no_order():
    lengths = torch.randint(5, 100, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = length_batches(lengths, 16)
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    assert padded < 1.05 * sum(lengths)  # in chance order it is about 1.8
    widths = [max(lengths[i] for i in b) for b in batches]
    assert 0.3 < sum(a < b for a, b in pairwise(widths)) / len(widths) < 0.7
    tokens = length_batches(lengths, batch_tokens=800)
    assert sum(map(len, tokens)) == 2000 and len(tokens) < 1.1 * sum(lengths) / 800 + 10


def test_a_row_that_fits_no_batch_is_an_error_with_both_limits():
    expected = "batch_size=None, batch_tokens=8: no batch can hold the longest row of 9 tokens; raise these or"
    with pytest.raises(Error, match=re.escape(expected)):
        length_batches([3, 9], batch_tokens=8)
    for nothing in ({}, {"batch_size": 0}, {"batch_size": -1}):
        with pytest.raises(Error, match="no batch can hold"):
            length_batches([3, 9], **nothing)


def test_a_batch_is_filled_to_its_budget():
    assert [len(b) for b in length_batches([1] * 25, batch_tokens=10, shuffle=False)] == [10, 10, 5]
    assert [len(b) for b in length_batches([0] * 25, batch_tokens=10, shuffle=False)] == [10, 10, 5]
    assert length_batches([5, 2, 3, 2], batch_tokens=6, shuffle=False) == [[0], [2, 1], [3]]


def test_padding_is_on_the_right_and_masked():
    ids, mask = pad([[5, 6, 7], [8], []], value=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9], [9, 9, 9]] and ids.dtype == torch.long
    assert mask.tolist() == [[True] * 3, [True, False, False], [False] * 3] and mask.dtype == torch.bool
    assert pad([[]], 0)[0].shape == (1, 0)


def test_jsonl_round_trips_every_text(file):
    texts = ["a\nb", '"', "\u2028", "😀", "\x1f"]
    name = file("a.jsonl", "\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts))
    assert [r["text"] for r in read(name).rows] == texts
