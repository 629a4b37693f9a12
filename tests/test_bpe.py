"""BPE against transformers' GPT2Tokenizer and tokenizers' BPE, on vocabularies trained here."""

import json
import pickle
import re
from random import Random

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from strings import varied
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2TokenizerFast, RobertaTokenizer

from minift.errors import Error
from minift.tokenizers import load
from minift.tokenizers.bpe import BPE, CHARACTERS, SPACE, _ranked

END = "<|endoftext|>"
# The fixture's folders: ids in the published order or not, and what the config says.
FOLDERS = {
    "as published": {},
    "shuffled": {"shuffled": True},
    "with a space before": {"add_prefix_space": True},
    "BART's": {"tokenizer_class": "BartTokenizer"},
    "BART's, as bart-base says it": {},
    "RoBERTa's, in tokenizer.json alone": {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True},
    "OPT's": {},
    "OPT's, in tokenizer.json alone": {},
}


@pytest.fixture(scope="module")
def trained():
    """(vocabulary, merges) in GPT-2's order: 256 bytes, 1500 merges, <|endoftext|>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1756, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(varied(3000, seed=10), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"] | {END: 1756}, [" ".join(pair) for pair in model["merges"]]


def write(folder, vocab, merges, **config):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=FOLDERS)
def both(request, trained, tmp_path_factory):
    """Our tokenizer and the reference, from the same folder."""
    config, (vocab, merges) = dict(FOLDERS[request.param]), trained
    if "BART" in request.param or "RoBERTa" in request.param:
        return roberta(request.param, tmp_path_factory.mktemp("bart"), vocab, merges, config)
    if config.pop("shuffled", False):
        ids = Random(0).sample(range(len(vocab)), len(vocab))
        vocab = {token: ids[id] for token, id in vocab.items()}
    if "OPT" in request.param:
        return both_of_opt(request.param, tmp_path_factory.mktemp("opt"), vocab, merges)
    folder = write(tmp_path_factory.mktemp("gpt2"), vocab, merges, **config)
    return load(folder), GPT2TokenizerFast.from_pretrained(folder)


def opt_folder(folder, vocab, merges, named=True):
    """A folder in the form of facebook/opt-125m's, or of opt-350m's, which does not name the tokenizer's class."""
    first = {token: id for id, token in enumerate(("<s>", "<pad>", "</s>", "<unk>"))}
    inner = {token: id + 4 for token, id in vocab.items() if token != END}
    tokens = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    how = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    config = {name: {"content": token, **how, "__type": "AddedToken"} for name, token in tokens.items()}
    config |= {"errors": "replace", "add_prefix_space": False, "add_bos_token": True, "special_tokens_map_file": None}
    config |= {"tokenizer_class": "GPT2Tokenizer"} if named else {}
    write(folder, {**first, **inner, "madeupword0000": len(vocab) + 3}, merges, **config)
    special = {name: {"content": token, **how} for name, token in tokens.items()}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


def both_of_opt(name, folder, vocab, merges):
    theirs = GPT2TokenizerFast.from_pretrained(opt_folder(folder, vocab, merges))
    if "tokenizer.json" in name:
        theirs.save_pretrained(folder)
        for file in ("vocab.json", "merges.txt", "special_tokens_map.json"):
            (folder / file).unlink()
    return load(folder), theirs


def roberta(name, folder, vocab, merges, config):
    """Our tokenizer and the reference, with BART's ids."""
    first = {token: id for id, token in enumerate(("<s>", "<pad>", "</s>", "<unk>"))}
    inner = {token: id + 4 for token, id in vocab.items() if token != END}
    write(folder, {**first, **inner, "<mask>": len(vocab) + 3}, merges, **config)
    theirs = RobertaTokenizer.from_pretrained(folder)
    if "tokenizer.json" in name:
        theirs.save_pretrained(folder)
        for file in ("vocab.json", "merges.txt"):
            (folder / file).unlink()
    return load(folder), theirs


@pytest.fixture
def folder(trained, tmp_path):
    return write(tmp_path / "gpt2", *trained)


@pytest.fixture(scope="module")
def bpe(trained, tmp_path_factory):
    return BPE.load(write(tmp_path_factory.mktemp("bpe"), *trained))


def compare(ours, theirs, texts):
    """Ids, offsets, decoded text, pairs and cuts of `texts` in both."""
    random = Random(len(texts))
    expected = theirs(texts, split_special_tokens=True, return_offsets_mapping=True)
    around = len(ours.encode(""))  # 2: <s> and </s>; 1: OPT's </s>
    for text, ids, offsets in zip(texts, expected["input_ids"], expected["offset_mapping"], strict=True):
        assert (text, ours.tokens(ours.encode(text))) == (text, ours.tokens(ids))
        inner = slice((around + 1) // 2, len(ids) - around // 2)
        own, places = ours.encode_with_offsets(text)
        assert (text, own) == (text, ids[inner])
        if not (around and theirs.add_prefix_space):  # which leaves it a space, even one of the text's own
            assert (text, places) == (text, offsets[inner])
        assert (text, ours.decode(ids)) == (text, theirs.decode(ids))
        assert (text, ours.decode(ids, skip_special=True)) == (text, theirs.decode(ids, skip_special_tokens=True))
    pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
    for length in ((0, 1, 2, 3, 8, 20, 40, 41), (2, 3, 8, 20, 40, 41), (4, 5, 8, 20, 40, 41))[around]:
        some = random.sample(pairs, len(pairs) // 20)
        cut = {"truncation": "longest_first", "max_length": length, "split_special_tokens": True}
        singles = theirs([text for text, _ in some], **cut)["input_ids"]
        for (a, b), ids, single in zip(some, theirs(some, **cut)["input_ids"], singles, strict=True):
            assert (a, b, ours.encode(a, b, length)) == (a, b, ids)
            assert (a, ours.encode(a, max_length=length)) == (a, single)


def test_the_example_of_the_module_holds(tmp_path):
    made = [*CHARACTERS, "lo", "low", "er"]
    bpe = load(write(tmp_path, {token: id for id, token in enumerate(made)}, ["l o", "lo w", "e r"]))
    assert bpe.tokens(bpe.encode(" lower")) == [" ", "low", "er"]
    assert bpe.encode(" lower") == [made.index("Ġ"), 257, 258]


def test_varied_texts_give_what_transformers_gives(both):
    compare(*both, varied(5000, seed=11))


@pytest.mark.long
def test_a_hundred_thousand_texts_give_what_transformers_gives(both):
    compare(*both, varied(100_000, seed=12))


@pytest.mark.parametrize("kind", [r"\p{L}", r"\p{N}", r"\s"])
def test_the_pattern_means_the_same_characters_in_both_regex_engines(kind):
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x32400), *range(0xE0000, 0xE0200)]))
    bytes_only = {bytes([byte]): byte for byte in range(256)}
    ours = tiktoken.Encoding("x", pat_str=kind, mergeable_ranks=bytes_only, special_tokens={})
    found = bytes(ours.encode_ordinary(every)).decode()  # what does not match is left out
    rest = pre_tokenizers.Split(Regex(kind + "+"), "removed").pre_tokenize_str(every)
    assert set(found) == set(every) - set("".join(piece for piece, _ in rest))
    assert kind != r"\s" or found == "".join(re.findall(f"[{SPACE}]", every))


def test_any_ids_decode_as_in_transformers(both):
    ours, theirs = both
    random = Random(0)
    for _ in range(500):
        ids = [*random.choices(range(ours.vocab_size), k=8), ours.eos]
        random.shuffle(ids)
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special=True) == theirs.decode(ids, skip_special_tokens=True)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_decoding_gives_the_text_back(bpe, text):
    ids, offsets = bpe.encode_with_offsets(text)
    assert bpe.decode(ids) == text
    assert {i for start, end in offsets for i in range(start, end)} == set(range(len(text)))


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("a  é\n\u3000東😀👍🏽\u200d")))
def test_any_texts_offsets_are_those_of_the_reference(both, text):
    ours, theirs = both
    expected = theirs(text, split_special_tokens=True, return_offsets_mapping=True)
    around = len(ours.encode(""))  # as in `compare`
    if not (around and theirs.add_prefix_space):
        inner = slice((around + 1) // 2, len(expected["input_ids"]) - around // 2)
        assert ours.encode_with_offsets(text) == (expected["input_ids"][inner], expected["offset_mapping"][inner])


@pytest.mark.parametrize("older", [False, True])
def test_tokenizer_json_alone_is_enough(folder, tmp_path, trained, bpe, older):
    GPT2TokenizerFast.from_pretrained(folder).save_pretrained(tmp_path)
    if older:  # as OpenAI's models have it on the Hub
        content = json.loads((tmp_path / "tokenizer.json").read_text())
        del content["model"]["type"]
        content["model"]["merges"] = trained[1]
        content["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    alone = load(tmp_path)
    assert type(alone) is BPE and "merges.txt" not in alone.files
    assert all(alone.encode_with_offsets(text) == bpe.encode_with_offsets(text) for text in varied(300, seed=15))


def test_a_space_before_is_asked_for_in_either_file(folder, bpe):
    in_json(lambda content: content["pre_tokenizer"].update(add_prefix_space=True))(folder)
    (folder / "tokenizer_config.json").unlink()
    assert load(folder).encode_with_offsets("a") == (bpe.encode(" a"), [(0, 1)])
    in_config(add_prefix_space=False)(folder)
    assert load(folder).encode("a") == bpe.encode("a")


def test_ids_need_not_follow_the_merges(tmp_path, trained):
    vocab, merges = trained
    turned = {token: len(vocab) - 1 - id for token, id in vocab.items()}
    bpe = load(write(tmp_path / "a", vocab, merges))
    other = load(write(tmp_path / "b", turned, merges))
    for text in varied(100, seed=13):
        assert other.encode(text) == [len(vocab) - 1 - id for id in bpe.encode(text)]


def test_merges_are_refused_exactly_where_tiktoken_would_merge_otherwise():
    """Random merges over three letters: those that pass are merged as the published rule says, the others are not."""
    random, passed, failed = Random(1), 0, 0
    for _ in range(400):
        vocab, made, merges = {c: id for id, c in enumerate(CHARACTERS)}, [*"abc"[: random.randint(1, 3)]], []
        for _ in range(random.randint(1, 8)):
            pair = random.choices(made, k=2)
            if "".join(pair) not in vocab:
                vocab["".join(pair)] = len(vocab)
                made.append("".join(pair))
                merges.append(pair)
        ranks = {bytes([byte]): byte for byte in range(256)}
        ranks |= {"".join(pair).encode(): 256 + rank for rank, pair in enumerate(merges)}
        ours = tiktoken.Encoding("x", pat_str=".+", mergeable_ranks=ranks, special_tokens={})
        theirs = Tokenizer(models.BPE(vocab, [tuple(pair) for pair in merges]))
        texts = made + ["".join(random.choices(made, k=random.randint(1, 9))) for _ in range(30)]
        same = all(
            [ours.decode([id]) for id in ours.encode_ordinary(text)] == theirs.encode(text).tokens for text in texts
        )
        try:
            _ranked(vocab, "vocab.json", enumerate(merges, 1), "merges.txt, line")
        except Error:
            failed += 1
            assert not same, merges
        else:
            passed += 1
            assert same, merges
    assert passed > 100 and failed > 100


def test_special_tokens_in_a_text_are_plain_text(bpe):
    ids = bpe.encode(f"a{END}b")
    assert bpe.eos not in ids
    assert bpe.decode([*ids, bpe.eos]) == f"a{END}b{END}"
    assert bpe.decode([*ids, bpe.eos], skip_special=True) == f"a{END}b"


def test_tokens_show_the_bytes_of_half_characters(bpe):
    assert "".join(bpe.tokens(bpe.encode("a \U0001f9ff"))) == "a \\xf0\\x9f\\xa7\\xbf"
    assert bpe.tokens([CHARACTERS.index("Ġ")]) != [" "]  # ids of bytes are in the alphabet's order, not the bytes'


@pytest.mark.parametrize("text", ["a" * 10**6, " " * 10**6, "\u3000\n" * 500_000 + "x" + "\t" * 200_000 + "."])
def test_a_text_of_a_million_characters_takes_a_second(bpe, text):
    assert bpe.decode(bpe.encode(text)) == text


@pytest.mark.parametrize("space", [" ", "\n", "\u2003"])
@pytest.mark.parametrize("around", [("", ""), ("a", ""), ("", "b"), ("a", "."), ("1", "\x1cb")])
def test_long_white_space_is_cut_where_the_pattern_cuts(bpe, space, around):
    text = f"{around[0]}{space * 150_000}{around[1]}"
    assert bpe.encode(text) == [bpe._ids[rank] for rank in bpe._encoding.encode_ordinary(text)]


def test_a_lone_surrogate_becomes_the_replacement_character(bpe):
    ids, offsets = bpe.encode_with_offsets("a\ud800b")
    assert bpe.decode(ids) == "a\ufffdb"
    assert offsets[0] == (0, 1) and offsets[-1] == (2, 3)


def test_the_attributes_say_what_gpt2_has(bpe):
    assert bpe.vocab_size == 1757
    assert (bpe.eos, bpe.bos, bpe.unk) == (1756, 1756, 1756)
    assert (bpe.pad, bpe.cls, bpe.sep, bpe.mask, bpe.max_length) == (None,) * 5


@pytest.mark.parametrize("pad", ["[PAD]", {"__type": "AddedToken", "content": "[PAD]"}])
def test_a_folder_may_name_its_pad_token_and_length(folder, trained, pad):
    vocab, merges = trained
    write(folder, vocab | {"[PAD]": 1757}, merges, pad_token=pad, model_max_length=1024)
    ours, theirs = load(folder), GPT2TokenizerFast.from_pretrained(folder)
    assert (ours.pad, ours.max_length, ours.vocab_size) == (1757, 1024, 1758)
    assert (theirs.pad_token_id, theirs.model_max_length, len(theirs)) == (1757, 1024, 1758)
    assert ours.decode([1757, 70, 1757], skip_special=True) == theirs.decode([1757, 70], skip_special_tokens=True)


def test_tokens_may_be_added_in_each_of_three_files(folder, trained):
    (folder / "added_tokens.json").write_text('{"<pad>": 1757}')
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<pad>"}')
    assert load(folder).pad == 1757
    decoder = {str(id): {"content": token, "special": True} for id, token in ((1758, "<é 漢>"), (1757, "<pad>"))}
    write(folder, *trained, added_tokens_decoder=decoder, pad_token="<é 漢>")
    ours, theirs = load(folder), GPT2TokenizerFast.from_pretrained(folder)
    assert ours.pad == theirs.pad_token_id == 1758  # special_tokens_map.json is too old to count here
    assert ours.decode([1757, 1758]) == theirs.decode([1757, 1758]) == "<pad><é 漢>"
    assert ours.decode([1757, 1758], skip_special=True) == ""


def test_line_ends_of_windows_and_a_missing_last_one_are_fine(folder, trained, bpe):
    texts = varied(50, seed=14)
    for merges in ("\r\n".join(["#version: 0.2", *trained[1]]), "\ufeff" + "\n".join(trained[1]) + "\n\n"):
        (folder / "merges.txt").write_bytes(merges.encode())
        assert [load(folder).encode(text) for text in texts] == [bpe.encode(text) for text in texts]


def test_saving_writes_the_same_bytes(folder, tmp_path):
    load(folder).save(tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["merges.txt", "vocab.json"]
    for name, raw in load(folder).files.items():
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes() == raw


def test_it_can_be_sent_to_another_process(bpe):
    copy = pickle.loads(pickle.dumps(bpe))
    assert copy.encode("Hello  world é") == bpe.encode("Hello  world é")


def in_json(edit):
    """A way to break a tokenizer.json that transformers wrote: `edit` gets its content."""

    def spoil(folder):
        GPT2TokenizerFast.from_pretrained(folder).save_pretrained(folder)
        content = json.loads((folder / "tokenizer.json").read_text())
        edit(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return spoil


def in_vocab(edit):
    def spoil(folder):
        vocab = json.loads((folder / "vocab.json").read_text())
        edit(vocab)
        (folder / "vocab.json").write_text(json.dumps(vocab))

    return spoil


def in_merges(edit):
    def spoil(folder):
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        edit(lines)
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")

    return spoil


def in_config(**config):
    return lambda folder: (folder / "tokenizer_config.json").write_text(json.dumps(config))


def adds_tokens(content):
    end = {"id": END, "ids": [1756], "tokens": [END]}
    content["post_processor"] = {"type": "Sequence", "processors": [content["post_processor"]]}
    content["post_processor"]["processors"][0]["special_tokens"] = {END: end}


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {END: {"id": END, "ids": [1756], "tokens": [END]}},
}
FAULTS = {
    "no vocab.json": (
        lambda folder: (folder / "vocab.json").unlink(),
        ": no vocab.json; BPE needs vocab.json and merges.txt, or tokenizer.json",
    ),
    "no merges.txt": (
        lambda folder: (folder / "merges.txt").unlink(),
        ": no merges.txt; BPE needs vocab.json and merges.txt, or tokenizer.json",
    ),
    "half a vocab.json": (
        lambda folder: (folder / "vocab.json").write_text('{"a": 1,'),
        "vocab.json, line 1, column 9: not valid JSON (Expecting property name enclosed in double quotes)",
    ),
    "merges that are no UTF-8": (
        lambda folder: (folder / "merges.txt").write_bytes(b"#version\n\xe9 t\n"),
        "merges.txt, line 2: byte 0xe9 at offset 9 is not UTF-8 (perhaps Latin-1); "
        "convert it first, for example: iconv -f LATIN1 -t UTF-8",
    ),
    "a byte without token": (
        in_vocab(lambda vocab: vocab.update({"?!": vocab.pop("A")})),
        "vocab.json: no token 'A' for the byte 0x41; all 256 are needed",
    ),
    "an id twice": (in_vocab(lambda vocab: vocab.update(A=7)), "vocab.json: '(' and 'A' have the same id 7"),
    "a hole in the ids": (
        in_vocab(lambda vocab: vocab.update({END: 1760})),
        "vocab.json: '<|endoftext|>' has id 1760; 1757 tokens have ids 0 to 1756",
    ),
    "an id that is no number": (
        in_vocab(lambda vocab: vocab.update(A=True)),
        "vocab.json: 'A' has id True; 1757 tokens have ids 0 to 1756",
    ),
    "a line that is no pair": (
        in_merges(lambda lines: lines.insert(3, "one")),
        "merges.txt, line 4: 'one' is not a pair of tokens",
    ),
    "an empty line": (in_merges(lambda lines: lines.insert(3, "")), "merges.txt, line 4: '' is not a pair of tokens"),
    "a part that comes from nowhere": (
        in_merges(lambda lines: lines.insert(1, "zzz q")),
        "merges.txt, line 2: 'zzz' of 'zzz q' is no byte, and no earlier merge makes it",
    ),
    "a result that is not in the vocabulary": (
        in_merges(lambda lines: lines.insert(1, "~ Z")),
        "merges.txt, line 2: '~ Z' makes '~Z', which is not in {folder}/vocab.json",
    ),
    "a merge twice": (
        in_merges(lambda lines: lines.insert(2, lines[1])),
        "merges.txt, line 3: {merge!r} never applies, earlier merges take its parts another way",
    ),
    "the wrong merges.txt": (
        lambda folder: (folder / "merges.txt").write_text("#version: 0.2\nq q\n"),
        "merges.txt, line 2: 'q q' makes 'qq', which is not in {folder}/vocab.json",
    ),
    "a special token that is not there": (
        in_config(pad_token="[PAD]"),
        "vocab.json: no token '[PAD]', which is the pad token",
    ),
    "an end to add": (
        in_config(add_eos_token=True),
        "tokenizer_config.json: add_eos_token is set, but minift adds none",
    ),
    "a beginning to add that is not there": (
        in_config(add_bos_token=True, bos_token="<s>"),
        "vocab.json: no token '<s>', which is the bos token",
    ),
    "a beginning to add in another form": (
        in_json(lambda content: content.update(post_processor=TEMPLATE)),
        "tokenizer.json: special tokens added by TemplateProcessing: that is not GPT-2's BPE, and minift has no other",
    ),
    "another model": (
        in_json(lambda content: content["model"].update(type="Unigram")),
        "tokenizer.json: Unigram model instead of BPE; minift has no such tokenizer",
    ),
    "a normalizer": (
        in_json(lambda content: content.update(normalizer={"type": "NFC"})),
        "tokenizer.json: NFC normalizer instead of none; minift has no such tokenizer",
    ),
    "another pre-tokenizer": (
        in_json(lambda content: content.update(pre_tokenizer={"type": "Metaspace"})),
        "tokenizer.json: Metaspace pre_tokenizer instead of ByteLevel; minift has no such tokenizer",
    ),
    "options of other models": (
        in_json(lambda json: [json["model"].update(dropout=0.1), json["pre_tokenizer"].update(use_regex=False)]),
        "tokenizer.json: dropout, use_regex=false: that is not GPT-2's BPE, and minift has no other",
    ),
    "special tokens around": (
        in_json(adds_tokens),
        "tokenizer.json: special tokens added by TemplateProcessing: that is not GPT-2's BPE, and minift has no other",
    ),
    "BART's special tokens without their ids": (
        in_json(lambda content: content.update(post_processor={"type": "RobertaProcessing"})),
        "tokenizer.json: no token '<s>', which is the cls token",
    ),
    "BERT's special tokens": (
        in_json(lambda content: content.update(post_processor={"type": "BertProcessing"})),
        "tokenizer.json: special tokens added by BertProcessing: that is not GPT-2's BPE, and minift has no other",
    ),
    "no merges in the model": (
        in_json(lambda content: content["model"].pop("merges")),
        "tokenizer.json: its model has no merges",
    ),
    "a merge that is no pair": (
        in_json(lambda content: content["model"]["merges"].insert(2, ["a", 1])),
        "tokenizer.json, merge 3: ['a', 1] is not a pair of tokens",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_its_place(folder, trained, name):
    spoil, message = FAULTS[name]
    spoil(folder)
    with pytest.raises(Error) as caught:
        BPE.load(folder)
    assert str(caught.value).startswith(str(folder))
    assert str(caught.value).endswith(message.format(folder=folder, merge=trained[1][0]))


def test_a_folder_without_a_tokenizer_is_told_what_it_holds(tmp_path):
    with pytest.raises(Error, match=r"no tokenizer, which would be .* \(Marian\); it holds nothing$"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(Error, match=r"; it holds config.json, vocab.json$"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordLevel"}}')
    with pytest.raises(Error, match=r"tokenizer.json: a WordLevel model; minift has BPE, WordPiece and Unigram$"):
        load(tmp_path)


@pytest.mark.parametrize("named", [True, False])
def test_opts_folders_load_as_published(tmp_path, trained, named):
    folder = opt_folder(tmp_path / "opt", *trained, named)
    ours, theirs = load(folder), GPT2TokenizerFast.from_pretrained(folder)
    assert (ours.pad, ours.bos, ours.eos, ours.unk, ours.vocab_size) == (1, 2, 2, 2, len(theirs))
    assert ours.encode("a </s>") == theirs("a </s>", split_special_tokens=True)["input_ids"]
    assert ours.encode("") == theirs("")["input_ids"] == [2]
    assert ours.decode([0, 1, 2, 3]) == theirs.decode([0, 1, 2, 3])
    assert ours.decode([0, 1, 2, 3, len(theirs) - 1], skip_special=True) == "<s><unk>madeupword0000"
    ours.save(tmp_path / "again")
    again = load(tmp_path / "again")
    assert (
        again.files == ours.files and again.encode("a", "b") == ours.encode("a", "b") == theirs("a", "b")["input_ids"]
    )


def test_a_tokenizer_json_of_earlier_transformers_puts_nothing_between_opts_texts(tmp_path, trained):
    ours, theirs = both_of_opt("tokenizer.json", tmp_path, *trained)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    del content["post_processor"]["pair"][2]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    theirs = GPT2TokenizerFast.from_pretrained(tmp_path)
    assert (
        load(tmp_path).encode("a", "b")
        == theirs("a", "b")["input_ids"]
        == [2, *ours.encode("a")[1:], *ours.encode("b")[1:]]
    )


def test_an_id_outside_the_vocabulary_is_told(bpe):
    for id in (-100, 1757):
        with pytest.raises(Error, match=f"id {id} at position 2 is not in the vocabulary of 1757 tokens"):
            bpe.decode([1, 2, id])
