"""Unigram against sentencepiece on models trained here, T5's and Marian's tokenizers against transformers'."""

import base64
import json
import pickle
import re
import shutil
import struct
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from tempfile import NamedTemporaryFile
from types import SimpleNamespace

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from strings import varied
from transformers import AutoTokenizer, MarianTokenizer, T5Tokenizer

from minift.errors import Error
from minift.tokenizers import load, spm, unigram
from minift.tokenizers.marian import Marian
from minift.tokenizers.spm import read_model
from minift.tokenizers.unigram import SentencePiece, Unigram

DATA = Path(__file__).parent.parent / "data"
MORE = """Η θάλασσα είναι ήρεμη σήμερα και ο άνεμος πέφτει. Это наше море, и ветер сегодня слабый, а лодка старая.
海は静かで、風は弱い。今日の船は古い。 वह नाव पुरानी है और हवा धीमी है। البحر هادئ اليوم والريح خفيفة. Das Meer ist ruhig,
der Wind schläft, und über dem Hafen wärmt die Märzsonne die Dächer. 1,234 boats in 2024; 50% of 987654321 --- !!! ????
ｆｕｌｌ ｗｉｄｔｈ １２３ ﬁne ① ½ ℃ Å é ñ 가나다 한국어 naïve café"""
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
SYMBOLS = ["<tag>", "New York", "漢字", "aa", "ｆｕ", "[MASK]", "▁the"]
# How each model is trained, beside what is usual: nmt_nfkc, ids of <unk> <s> </s>, no bytes.
TRAINED = {
    "T5's": {"vocab_size": 1000, **T5_IDS},
    "nfkc": {"vocab_size": 400, "normalization_rule_name": "nfkc", "character_coverage": 0.99},
    "lower case": {"vocab_size": 500, "normalization_rule_name": "nmt_nfkc_cf"},
    "as it stands": {"vocab_size": 600, "normalization_rule_name": "identity"},
    "bytes": {"vocab_size": 800, "byte_fallback": True, "character_coverage": 0.98},
    "symbols": {"vocab_size": 500, "user_defined_symbols": SYMBOLS, "control_symbols": ["<ctl>"]},
    "spaces kept": {"vocab_size": 500, "add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "spaces kept, one before": {"vocab_size": 500, "remove_extra_whitespaces": False},
    "spaces behind": {"vocab_size": 500, "treat_whitespace_as_suffix": True},
    "digits": {"vocab_size": 700, "split_digits": True, "split_by_whitespace": False},
    "own rules": {
        "vocab_size": 400,
        "rules": {"a b": "<a b>", "x": "", "ab": "c d", "é": "e  f", "\t\t": " ", "c": "ć"},
    },
}
# What no training makes: scores above 0, pieces that are off, ▁ not for a space.
ALTERED = ("scores above 0", "pieces unused", "no ▁")
small = settings(max_examples=100, deadline=None)


@cache
def made(name) -> bytes:
    """A model file."""
    if name in ALTERED:
        proto = sentencepiece_model_pb2.ModelProto.FromString(made("symbols"))
        for number, piece in enumerate(proto.pieces):
            if name == "scores above 0" and piece.type == 1:
                piece.score += 5
            if name == "pieces unused" and piece.type == 1 and number % 3 == 0:
                piece.type = 5
        proto.normalizer_spec.escape_whitespaces = name != "no ▁"
        return proto.SerializeToString()
    options = dict(TRAINED[name])
    texts = (DATA / "phrasebook" / "train.tsv").read_text("utf-8").replace("\t", "\n").split("\n")[:1500]
    if "rules" in options:
        hexes = [[" ".join(f"{ord(c):X}" for c in side) for side in rule] for rule in options.pop("rules").items()]
        with NamedTemporaryFile("w", suffix=".tsv", delete=False) as f:
            f.writelines("\t".join(rule) + "\n" for rule in hexes)
        options["normalization_rule_tsv"] = f.name
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts + MORE.split("\n") * 20),
        model_writer=model,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        **options,
    )
    return model.getvalue()


@pytest.fixture(scope="module", params=[*TRAINED, *ALTERED])
def both(request):
    """A model here and in sentencepiece."""
    raw = made(request.param)
    return SentencePiece(read_model(raw, "m.model")), sentencepiece.SentencePieceProcessor(model_proto=raw)


def compare(ours, theirs, texts):
    """Pieces, ids, places and decoded text of `texts`, in both."""
    bytes_too = theirs.piece_to_id("<0x00>") != theirs.unk_id()
    for text in texts:
        found, expected = ours.encode(text), theirs.encode_as_offset_mapping(text)
        assert (text, [piece for piece, *_ in found]) == (text, expected["pieces"])
        assert (text, [id for _, id, *_ in found]) == (text, expected["ids"])
        if not bytes_too:  # where there the last byte of a character has its place, and here each has
            assert (text, [place[2:] for place in found]) == (text, expected["offsets"])
        names = [theirs.id_to_piece(id) for id in expected["ids"]]
        assert (text, ours.decode(names, {"<unk>"})) == (text, theirs.decode(expected["ids"]).replace(" ⁇ ", "<unk>"))


def test_the_example_of_the_module_holds():
    scores = {"▁un": -4, "able": -4, "▁": -3, "un": -6, "ab": -5, "le": -5} | dict.fromkeys("unable", -7)
    pieces = [("<unk>", 0, spm.UNKNOWN), *((piece, score, spm.NORMAL) for piece, score in scores.items())]
    model = {"pieces": pieces, "rules": None, "dummy": True, "tidy": True, "suffix": False, "escape": True}

    def cut(*without):
        kept = [piece for piece in pieces if piece[0] not in without]
        return [piece for piece, *_ in SentencePiece(model | {"pieces": kept}).encode("unable")]

    assert cut() == ["▁un", "able"] and cut("▁un") == ["▁", "un", "able"] and cut("able") == ["▁un", "ab", "le"]
    assert cut("▁un", "able", "un", "ab", "le") == ["▁", *"unable"]


@pytest.mark.parametrize("last, found", [(-10.9, ["▁", "αβ", "γ"]), (-11.1, ["▁", "α", "βγ"])])
def test_a_character_that_is_no_piece_costs_ten_more_than_the_dearest_piece(last, found):
    """The known way costs 12 and that of γ, the other 12 + 10 for α and 1 for βγ."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(made("as it stands"))
    del proto.pieces[3:]  # <unk> <s> </s> stay
    for text, score in {"▁": -1.0, "αβ": -12.0, "γ": last, "βγ": -1.0}.items():
        proto.pieces.add(piece=text, score=score, type=1)
    raw = proto.SerializeToString()
    theirs = sentencepiece.SentencePieceProcessor(model_proto=raw).encode_as_pieces("αβγ")
    assert [piece for piece, *_ in SentencePiece(read_model(raw, "m.model")).encode("αβγ")] == found == theirs


def test_the_example_of_the_format_holds():
    raw = bytes.fromhex("0a0e 0a05e29681616e 150000 80c0 1801".replace(" ", ""))
    unknown = bytes.fromhex("0a09 0a053c756e6b3e 1802".replace(" ", ""))
    assert read_model(raw + unknown, "x")["pieces"] == [("▁an", -4.0, spm.NORMAL), ("<unk>", 0.0, spm.UNKNOWN)]


def test_varied_texts_give_what_sentencepiece_gives(both):
    compare(*both, varied(350, seed=21) + MORE.split("\n"))


def test_five_thousand_varied_texts_give_what_sentencepiece_gives():
    raw = made("T5's")
    compare(
        SentencePiece(read_model(raw, "x")), sentencepiece.SentencePieceProcessor(model_proto=raw), varied(5000, 22)
    )


@pytest.mark.long
def test_a_hundred_thousand_texts_give_what_sentencepiece_gives(both):
    compare(*both, varied(100_000, seed=23))


def test_any_pieces_decode_as_in_sentencepiece(both):
    ours, theirs = both
    random = Random(0)
    for _ in range(300):
        ids = [id for id in random.choices(range(len(theirs)), k=8) if not theirs.is_control(id)]
        pieces = [theirs.id_to_piece(id) for id in ids]
        assert ours.decode(pieces, {"<unk>"}) == theirs.decode(ids).replace(" ⁇ ", "<unk>")


@pytest.mark.parametrize("name", ["T5's", "nfkc", "lower case", "own rules"])
def test_every_character_is_normalised_as_in_sentencepiece(name):
    ours, theirs = SentencePiece(read_model(made(name), "x")), sentencepiece.SentencePieceProcessor(None, made(name))
    codes = [*range(1, 0x3400), *range(0x3400, 0xD800, 9), *range(0xE000, 0x32400, 9), *range(0xE0000, 0xE0200)]
    for start in range(0, len(codes), 300):
        text = " ".join(f"{chr(c)}e{chr(c)}" for c in codes[start : start + 300])
        assert ours.normal(text)[0] == theirs.normalize(text), text


def test_a_long_text_is_cut_as_by_sentencepiece():
    """Its scores add up to -300,000: both round them to 32 bits, and start anew from 0 below -100,000."""
    text = (DATA / "harbour" / "train.txt").read_text("utf-8") + (DATA / "phrasebook" / "train.tsv").read_text("utf-8")
    raw = made("T5's")
    found = SentencePiece(read_model(raw, "x")).encode(text)
    assert [id for _, id, *_ in found] == sentencepiece.SentencePieceProcessor(model_proto=raw).encode(text)
    assert len(text) > 230_000 and found[-1][3] == len(text.rstrip())


@pytest.mark.parametrize("text", ["a" * 200_000, " " * 200_000, "e\u0301" * 80_000, "漢" * 200_000, "\t\nx" * 50_000])
def test_a_long_run_of_anything_takes_seconds(text):
    model = SentencePiece(read_model(made("T5's"), "x"))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=made("T5's"))
    assert [id for _, id, *_ in model.encode(text)] == theirs.encode(text)


@small
@given(st.text())
def test_decoding_gives_the_normal_form_back(text):
    model = bytes_model()
    found = model.encode(text)
    normal, owner = model.normal(text)
    assert model.decode(piece for piece, *_ in found).lstrip(" ") == normal.replace("▁", " ").lstrip(" ")
    assert len(owner) == len(normal) + 1 and owner == sorted(owner) and owner[-1] <= len(text)
    assert all(0 <= start <= end <= len(text) for *_, start, end in found)


@small
@given(st.lists(st.text("abcdeé ,.漢ﬁ", min_size=1)))
def test_a_normal_form_is_its_own(parts):
    model = bytes_model()
    once = model.normal(" ".join(parts))[0].replace("▁", " ").strip(" ")
    assert model.decode(piece for piece, *_ in model.encode(once)) == once


@cache
def bytes_model():
    return SentencePiece(read_model(made("bytes"), "x"))


def test_the_way_through_has_the_best_score():
    """Of all ways, for short texts, tried one by one."""
    model = SentencePiece(read_model(made("T5's"), "x"))
    scores = {piece: score for piece, score, _ in read_model(made("T5's"), "x")["pieces"]}

    def every(text):
        yield from [[]] if not text else ()
        for end in range(1, len(text) + 1):
            if text[:end] in scores:
                yield from ([text[:end], *rest] for rest in every(text[end:]))

    for word in ("the harbour", "captain's", "voilà", "rigging", "an old sailor"):
        normal = model.normal(word)[0]
        best = max(sum(scores[piece] for piece in way) for way in every(normal))
        assert sum(scores[normal[start:end]] for start, end, _ in model.cut(normal)) == pytest.approx(best)


def test_remembered_words_and_rules_are_bounded_and_change_nothing(monkeypatch):
    texts, raw = varied(50, seed=24), made("T5's")
    expected = [SentencePiece(read_model(raw, "x")).encode(text) for text in texts]
    monkeypatch.setattr(unigram, "MOST_KNOWN", 5)
    monkeypatch.setattr(spm, "MOST_KNOWN", 5)
    fresh = SentencePiece(read_model(raw, "x"))
    assert [fresh.encode(text) for text in texts] == expected
    assert len(fresh._words) <= 5 and len(fresh._rules._known) <= 5


# -- T5 ---------------------------------------------------------------------------------------------------------------


def t5_folder(path, raw=None, **config):
    path.mkdir(exist_ok=True)
    (path / "spiece.model").write_bytes(made("T5's") if raw is None else raw)
    if config:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """T5's tokenizer here and in transformers, from spiece.model alone, and the folder it saves there."""
    folder, saved = tmp_path_factory.mktemp("t5"), tmp_path_factory.mktemp("saved")
    theirs = AutoTokenizer.from_pretrained(t5_folder(folder, tokenizer_class="T5Tokenizer", model_max_length=512))
    assert isinstance(theirs, T5Tokenizer)
    theirs.save_pretrained(saved)
    return SimpleNamespace(ours=load(folder), theirs=theirs, folder=folder, saved=saved)


def ordinary(n):
    """Texts of the reference's training kind: where `tokenizers` and sentencepiece agree on the normal form."""
    lines = (DATA / "reviews" / "train.tsv").read_text("utf-8").split("\n")
    lines += (DATA / "phrasebook" / "test.tsv").read_text("utf-8").split("\n")
    return Random(n).sample(lines, n) + MORE.split("\n")


def test_ordinary_texts_give_what_t5s_tokenizer_gives_in_transformers(t5):
    for text in ordinary(700):
        assert (text, t5.ours.encode(text)) == (text, t5.theirs(text, split_special_tokens=True)["input_ids"])
        ids = t5.ours.encode(text)
        assert t5.ours.decode(ids) == t5.theirs.decode(ids)
        assert t5.ours.decode(ids, skip_special=True) == t5.theirs.decode(ids, skip_special_tokens=True)


def test_where_transformers_cuts_a_text_otherwise_its_way_scores_no_better(t5):
    """`tokenizers` differs in ties, reads "<pad>" in a text as the token, and looks up rules a grapheme at a time."""
    scores = {piece: score for piece, score, _ in read_model(made("T5's"), "x")["pieces"]}
    worst = min(scores.values()) - 10
    same, other = 0, 0
    for text in varied(1500, seed=25):
        ours, theirs = t5.ours.encode(text), t5.theirs(text, split_special_tokens=True)["input_ids"]
        pieces, their_pieces = t5.ours.tokens(ours), t5.ours.tokens(theirs)
        same += ours == theirs
        if ours != theirs and "".join(pieces) == "".join(their_pieces) and "<" not in text:
            other += 1
            total, theirs_total = (sum(scores.get(p, worst) for p in side) for side in (pieces, their_pieces))
            assert total >= theirs_total - 1e-3, (text, pieces, their_pieces)
    assert same > 1200, (same, other)


def test_pairs_and_cuts_are_those_of_transformers(t5):
    texts = ordinary(100)
    for length in (3, 4, 5, 8, 20, 40):
        for a, b in zip(texts[::9], texts[1::5], strict=False):
            cut = {"truncation": "longest_first", "max_length": length, "split_special_tokens": True}
            assert t5.ours.encode(a, b, length) == t5.theirs(a, b, **cut)["input_ids"]
            assert t5.ours.encode(a, max_length=length) == t5.theirs(a, **cut)["input_ids"]
    with pytest.raises(Error, match="max_length=1 has no room for the 2 special tokens"):
        t5.ours.encode("a", "b", max_length=1)
    assert t5.ours.encode("", "") == [1, 1]


def test_any_ids_decode_as_in_transformers(t5):
    """But for <unk> at the start of a text and for ▁ in a first piece that has several."""
    random = Random(0)
    for _ in range(300):
        ids = [*random.choices(range(t5.ours.vocab_size), k=8), 0, 1, 1099]
        random.shuffle(ids)
        assert t5.ours.decode(ids) == t5.theirs.decode(ids)
        assert t5.ours.decode(ids, skip_special=True) == t5.theirs.decode(ids, skip_special_tokens=True)


def test_the_attributes_say_what_t5_has(t5):
    ours = t5.ours
    assert type(ours) is Unigram and (ours.pad, ours.eos, ours.unk) == (0, 1, 2)
    assert (ours.bos, ours.cls, ours.sep, ours.mask) == (None,) * 4
    assert (ours.vocab_size, ours.max_length) == (len(t5.theirs), 512) == (1100, 512)


def test_the_sentinels_have_the_last_ids_the_first_the_highest(t5):
    names = [f"<extra_id_{i}>" for i in range(100)]
    assert t5.ours.sentinels == t5.theirs.convert_tokens_to_ids(names) == [*range(1099, 999, -1)]
    assert t5.ours.tokens(t5.ours.sentinels) == names
    ids = [1099, *t5.ours.encode("the sea")[:-1], 1098, 1]
    assert t5.ours.decode(ids) == t5.theirs.decode(ids) == "<extra_id_0> the sea<extra_id_1></s>"
    assert t5.ours.decode(ids, skip_special=True) == "the sea"


def test_special_tokens_in_a_text_are_plain_text(t5):
    for text in ("<extra_id_0>", "a </s> b", "<pad>", "<unk>"):
        assert not {*t5.ours.sentinels, 0, 1} & {*t5.ours.encode(text)[:-1]}


@pytest.mark.parametrize("files", [["tokenizer.json"], ["spiece.model", "tokenizer.json"], ["spiece.model"]])
@pytest.mark.parametrize("config", [True, False])
def test_each_form_of_the_folder_gives_the_same(t5, tmp_path, files, config):
    for name in files + ["tokenizer_config.json"] * config:
        shutil.copy((t5.folder if name == "spiece.model" else t5.saved) / name, tmp_path)
    again = load(tmp_path)
    assert type(again) is Unigram and again.sentinels == t5.ours.sentinels and again.vocab_size == 1100
    assert again.decode([1099, 0, 1], skip_special=True) == ""
    for text in varied(150, seed=26):
        assert again.encode_with_offsets(text) == t5.ours.encode_with_offsets(text)


def test_the_older_form_of_tokenizer_json_gives_the_same(t5, tmp_path):
    content = json.loads((t5.saved / "tokenizer.json").read_text())
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"], strip, spaces]}
    content["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    del content["model"]["type"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    again = load(tmp_path)
    assert all(again.encode(text) == t5.ours.encode(text) for text in varied(100, seed=27))


@pytest.mark.parametrize("config, number", [({"extra_ids": 3}, 3), ({"extra_ids": 0}, 0), ({}, 100)])
def test_a_folder_may_say_how_many_sentinels_it_has(tmp_path, config, number):
    tokenizer = load(t5_folder(tmp_path, **config))
    assert len(tokenizer.sentinels) == number and tokenizer.vocab_size == 1000 + number
    named = [f"<extra_id_{i}>" for i in range(5)]
    assert load(t5_folder(tmp_path, additional_special_tokens=named)).sentinels == [1004, 1003, 1002, 1001, 1000]


def test_sentinels_among_the_pieces_are_found_and_never_in_a_text(tmp_path):
    proto = sentencepiece_model_pb2.ModelProto.FromString(made("T5's"))
    for number in (1, 0):
        proto.pieces.add(piece=f"<extra_id_{number}>", score=0.0, type=4)
    tokenizer = load(t5_folder(tmp_path, proto.SerializeToString()))
    assert tokenizer.sentinels == [1001, 1000] and tokenizer.vocab_size == 1002
    assert not {1000, 1001} & {*tokenizer.encode("<extra_id_0> b")}
    assert tokenizer.decode([1001, 3]) == "<extra_id_0> "


def test_offsets_are_those_of_the_original_text(t5):
    text = "  Déjà  vu ﬁne,\tcafe\u0301"
    ids, offsets = t5.ours.encode_with_offsets(text)
    assert ids == t5.ours.encode(text)[:-1] and offsets[-1][1] == len(text)
    for token, (start, end) in zip(t5.ours.tokens(ids), offsets, strict=True):
        plain = text[start:end].strip().replace("ﬁ", "fi").replace("e\u0301", "é")
        assert token in ("<unk>", "▁") or plain == token.strip("▁")


def test_saving_writes_the_same_bytes(t5, tmp_path):
    t5.ours.save(tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["spiece.model", "tokenizer_config.json"]
    assert (tmp_path / "copy" / "spiece.model").read_bytes() == made("T5's")
    assert load(tmp_path / "copy").encode("the sea") == t5.ours.encode("the sea")


def test_it_can_be_sent_to_another_process(t5):
    copy = pickle.loads(pickle.dumps(t5.ours))
    assert copy.encode("Déjà vu ﬁ") == t5.ours.encode("Déjà vu ﬁ")


def test_a_lone_surrogate_becomes_the_replacement_character(t5):
    assert t5.ours.encode("a\ud800b") == t5.ours.encode("a\ufffdb")


def test_bytes_that_are_no_character_become_one_replacement_each():
    theirs = sentencepiece.SentencePieceProcessor(model_proto=made("bytes"))
    for raw in (b"\xe6\xbc", b"\xff\xc3\xa9", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80\x80"):
        pieces = [f"<0x{byte:02X}>" for byte in raw]
        assert bytes_model().decode(pieces) == theirs.decode([theirs.piece_to_id(piece) for piece in pieces])
    (_, _, start, end), *others = bytes_model().encode("a😀")[-4:]
    assert (start, end) == (1, 2) and [place[2:] for place in others] == [(1, 2)] * 3


# -- Marian -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    folder = marian_folder(tmp_path_factory.mktemp("marian"))
    return load(folder), MarianTokenizer.from_pretrained(folder), folder


def marian_folder(folder):
    """As OPUS-MT's: <unk> and </s> first, then pieces of both sides, most of them; <pad> last."""
    (folder / "source.spm").write_bytes(made("nfkc"))
    (folder / "target.spm").write_bytes(made("lower case"))
    both_sides = (read_model(made(name), "x")["pieces"] for name in ("nfkc", "lower case"))
    pieces = sorted({piece for side in both_sides for piece, _, kind in side if kind == 1})
    names = ["</s>", "<unk>", *pieces[20:], ">>fra<<", ">>deu<<", "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: id for id, name in enumerate(names)}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer"}))
    return folder


def test_marian_gives_what_transformers_gives(marian):
    ours, theirs, _ = marian
    assert type(ours) is Marian and theirs.normalize("« a »") == "« a »"  # without sacremoses
    texts = (
        varied(700, seed=28)
        + MORE.split("\n")
        + [">>fra<< The sea", ">>fra<<The  sea", ">>xx<< a", ">>fra a <", " >>fra<<"]
    )
    for text in texts:
        if re.search("</?[a-z]+>", text):  # which that reads as special tokens
            continue
        assert (text, ours.encode(text)) == (text, theirs(text)["input_ids"])
        assert (text, ours.encode_target(text)) == (text, theirs(text_target=text)["input_ids"])


def test_marian_decodes_as_transformers_does(marian):
    ours, theirs, _ = marian
    for text in ordinary(300):
        ids = ours.encode_target(text)
        clean = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        assert ours.decode(ids, skip_special=True) == theirs.decode(ids, **clean)
        spaced = theirs.decode(ids, clean_up_tokenization_spaces=False)
        assert ours.decode(ids).replace(" ", "") == spaced.replace(" ", "")


def test_marians_ids_attributes_and_languages(marian):
    ours, theirs, _ = marian
    assert (ours.eos, ours.unk, ours.pad) == (0, 1, theirs.pad_token_id) and ours.sentinels == []
    assert (ours.bos, ours.cls, ours.sep, ours.mask, ours.vocab_size) == (None, None, None, None, len(theirs))
    ids = ours.encode(">>fra<< the sea")
    assert ours.tokens(ids)[0] == ">>fra<<" and ids[-1] == ours.eos
    assert ours.encode(">>fra<< the sea", max_length=3) == [*ids[:2], 0]
    assert ours.encode("the sea", "the") == [*ours.encode("the sea")[:-1], *ours.encode("the")]
    found, offsets = ours.encode_with_offsets(">>fra<< the sea")
    assert found == ids[:-1] and offsets[0] == (0, 7) and offsets[-1][1] == 15
    assert ours.encode("HARBOUR") != ours.encode_target("HARBOUR")  # target.spm writes lower case
    assert ours.decode([*ours.encode_target("la mer"), ours.pad]) == "la mer</s> <pad>"
    assert ours.decode([*ours.encode_target("la mer"), ours.pad], skip_special=True) == "la mer"


def test_marian_is_saved_as_it_was_read(marian, tmp_path):
    ours, _, folder = marian
    ours.save(tmp_path)
    names = ["source.spm", "target.spm", "tokenizer_config.json", "vocab.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)
    assert pickle.loads(pickle.dumps(ours)).encode_target("la mer") == load(tmp_path).encode_target("la mer")


# -- what is wrong ----------------------------------------------------------------------------------------------------


def changed(edit, name="T5's"):
    """A way to break spiece.model: `edit` gets its message."""

    def spoil(folder):
        proto = sentencepiece_model_pb2.ModelProto.FromString(made(name))
        edit(proto)
        (folder / "spiece.model").write_bytes(proto.SerializePartialToString())

    return spoil


def raw_with(edit):
    return lambda folder: (folder / "spiece.model").write_bytes(edit(made("T5's")))


def piece(id, **said):
    def edit(proto):
        for name, value in said.items():
            setattr(proto.pieces[id], name, value)

    return changed(edit)


def charsmap(edit):
    def change(proto):
        proto.normalizer_spec.precompiled_charsmap = edit(bytearray(proto.normalizer_spec.precompiled_charsmap))

    return changed(change)


def unit(number, value):
    def edit(raw):
        raw[4 + 4 * number : 8 + 4 * number] = struct.pack("<I", value)
        return bytes(raw)

    return charsmap(edit)


def in_json(edit):
    def spoil(folder):
        content = {
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁"}],
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            },
            "model": {"type": "Unigram", "unk_id": 2, "vocab": [["<pad>", 0], ["</s>", 0], ["<unk>", 0], ["a", -1.5]]},
        }
        edit(content)
        (folder / "spiece.model").unlink(missing_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return spoil


def in_config(**config):
    return lambda folder: (folder / "tokenizer_config.json").write_text(json.dumps(config))


NOT_T5S = "tokenizer.json: its normalizer and pre_tokenizer are not T5's; minift has no such tokenizer"
FAULTS = {
    "an empty file": (raw_with(lambda raw: b""), "spiece.model: 0 of 0 pieces stand for what is unknown; one must"),
    "a pointer of Git LFS": (
        raw_with(lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 791656\n"),
        "spiece.model: a pointer of Git LFS in place of the file itself; get that with `git lfs pull`",
    ),
    "a web page": (
        raw_with(lambda raw: b"<!DOCTYPE html>"),
        "spiece.model, offset 0: 60 starts no field; is it a SentencePiece model, and undamaged?",
    ),
    "a file cut off in a field": (
        raw_with(lambda raw: raw[:1000]),
        r"spiece.model, offset 99\d: speaks of \d+ bytes, but \d+ are left; is it cut off\?",
    ),
    "a number without end": (
        raw_with(lambda raw: b"\x0a" + b"\xff" * 11),
        "spiece.model, offset 1: a number that does not end; is the file cut off or damaged?",
    ),
    "a score that is a number": (
        raw_with(lambda raw: b"\x0a\x05\x0a\x01a\x10\x03" + raw),
        "spiece.model, offset 5: score (field 2) is written in form 0; is it damaged?",
    ),
    "a piece that is no UTF-8": (
        raw_with(lambda raw: raw + b"\x0a\x04\x0a\x02\xff\xfe"),
        r"spiece.model, offset \d+: the piece b'\\xff\\xfe' is not UTF-8",
    ),
    "byte-pair encoding": (
        changed(lambda proto: setattr(proto.trainer_spec, "model_type", 2)),
        "spiece.model: a BPE model of SentencePiece; minift reads its unigram models (T5, Marian)",
    ),
    "no unknown piece": (piece(2, type=1), "spiece.model: 0 of 1000 pieces stand for what is unknown; one must"),
    "two unknown pieces": (piece(9, type=2), "spiece.model: 2 of 1000 pieces stand for what is unknown; one must"),
    "a piece twice": (piece(9, piece="</s>"), r"spiece.model, piece 9 at offset \d+: '</s>' is piece 1 already"),
    "a piece without text": (
        piece(9, piece=""),
        r"spiece.model, piece 9 at offset \d+: has 0 characters; a piece has 1 to 256",
    ),
    "a score that is none": (
        piece(9, piece="z", score=float("nan")),
        r"spiece.model, piece 9 at offset \d+: 'z' has the score nan; is the file damaged\?",
    ),
    "a byte without fallback": (
        piece(9, piece="<0x41>", type=6),
        r"spiece.model, piece 9 at offset \d+: '<0x41>' is for a byte, but byte_fallback is off",
    ),
    "a byte that is none": (
        changed(lambda proto: setattr(proto.pieces[5], "piece", "<0xZZ>"), "bytes"),
        r"spiece.model, piece 5 at offset \d+: '<0xZZ>' is no byte, as <0x41> is",
    ),
    "a byte missing": (
        changed(lambda proto: setattr(proto.pieces[5], "type", 1), "bytes"),
        "spiece.model: byte_fallback is on, but there is no piece <0x02>; all 256 bytes are needed",
    ),
    "a table that changes decoded texts": (
        changed(lambda proto: setattr(proto.denormalizer_spec, "precompiled_charsmap", b"12345678")),
        r"spiece.model, offset \d+: a table that changes decoded texts; minift knows no such model",
    ),
    "a table without trie": (
        charsmap(lambda raw: b"\0\0\0"),
        r"spiece.model, offset \d+: a table of replacements of 3 bytes, with a trie of 0; is it damaged\?",
    ),
    "a table cut off": (
        charsmap(lambda raw: bytes(raw[:999])),
        r"spiece.model, offset \d+: a table of replacements of 999 bytes, with a trie of 179200; is it damaged\?",
    ),
    "a trie that leads outside": (
        unit(0, 0x1FFFFF << 10),
        r"spiece.model, offset \d+: unit 0 of the trie leads outside its 44800 units",
    ),
    "not T5's": (
        lambda folder: [t5_folder(folder, made("nfkc")), in_config()(folder)],
        r"spiece.model: begins with \['<unk>', '<s>', '</s>'\], not as T5's; if it is, say so in tokenizer_config.json",
    ),
    "another tokenizer's name": (
        in_config(tokenizer_class="AlbertTokenizer"),
        ": its tokenizer is a AlbertTokenizer; of SentencePiece's, minift has those of T5 and Marian",
    ),
    "absurd sentinels": (
        in_config(extra_ids=-1),
        "tokenizer_config.json: extra_ids is -1; give a number from 0 to 10000",
    ),
    "another unknown token": (in_config(unk_token="</s>"), ": unk_token is '</s>', but in spiece.model it is '<unk>'"),
    "no end token": (in_config(eos_token="</end>"), "spiece.model: no token '</end>', which is the eos token"),
    "two vocabularies": (
        lambda folder: [in_json(lambda content: None)(folder), t5_folder(folder)],
        "spiece.model: not the vocabulary of tokenizer.json beside it; remove the one that is wrong",
    ),
    "special tokens before a text": (
        in_json(lambda content: content["post_processor"]["single"].reverse()),
        "tokenizer.json: its post_processor is not T5's, which puts </s> behind a text; minift has no other",
    ),
    "another normalizer": (in_json(lambda content: content.update(normalizer={"type": "NFC"})), NOT_T5S),
    "another pre-tokenizer": (in_json(lambda content: content.update(pre_tokenizer={"type": "ByteLevel"})), NOT_T5S),
    "no space before": (
        in_json(lambda content: content["pre_tokenizer"]["pretokenizers"][1].update(prepend_scheme="never")),
        NOT_T5S,
    ),
    "a table that is no base64": (
        in_json(lambda content: content.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "?"})),
        "tokenizer.json: its precompiled_charsmap is not in base64; is the file damaged?",
    ),
    "a table in tokenizer.json that is damaged": (
        in_json(lambda content: content.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        "tokenizer.json, precompiled_charsmap: a table of replacements of 3 bytes, with a trie of 0; is it damaged?",
    ),
    "an entry that is no piece": (
        in_json(lambda content: content["model"]["vocab"].append(["b"])),
        r"tokenizer.json, piece 4: \['b'\] is not a piece and its score",
    ),
    "a score without end": (
        in_json(lambda content: content["model"]["vocab"].append(["b", 10**400])),
        "tokenizer.json, piece 4: 'b' has the score inf; is the file damaged?",
    ),
    "no vocabulary": (
        in_json(lambda content: content["model"].pop("vocab")),
        "tokenizer.json: 0 of 0 pieces stand for what is unknown; one must",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_its_place(tmp_path, name):
    spoil, message = FAULTS[name]
    t5_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(Error) as caught:
        Unigram.load(tmp_path)
    found = str(caught.value).removeprefix(str(tmp_path)).removeprefix("/")
    assert found == message or re.fullmatch(message, found), found


MARIAN_FAULTS = {
    "no target.spm": (lambda folder: (folder / "target.spm").unlink(), ": no target.spm; Marian needs source.spm"),
    "no vocab.json": (lambda folder: (folder / "vocab.json").unlink(), ": no vocab.json; Marian needs source.spm"),
    "separate": (in_config(separate_vocabs=True), ": a vocabulary for each side (separate_vocabs); minift knows only"),
    "a target's vocabulary": (
        lambda folder: (folder / "target_vocab.json").write_text("{}"),
        ": a vocabulary for each side (separate_vocabs); minift knows only",
    ),
    "no pad": (
        lambda folder: (folder / "vocab.json").write_text('{"</s>": 0, "<unk>": 1}'),
        "/vocab.json: no token '<pad>', which is the pad token",
    ),
    "a broken target.spm": (
        lambda folder: (folder / "target.spm").write_bytes(b""),
        "/target.spm: 0 of 0 pieces stand for what is unknown",
    ),
}


@pytest.mark.parametrize("name", MARIAN_FAULTS)
def test_a_fault_of_marians_folder_is_told(tmp_path, name):
    spoil, message = MARIAN_FAULTS[name]
    spoil(marian_folder(tmp_path))
    with pytest.raises(Error) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}{message}")


def test_a_folder_without_either_file_is_told(tmp_path):
    with pytest.raises(Error, match=r"neither spiece.model nor tokenizer.json; T5's tokenizer needs one"):
        Unigram.load(tmp_path)


def test_a_trie_of_a_strange_size_is_told():
    """Its last block is cut off, so that some byte would lead outside."""
    raw = struct.pack("<I128I", 512, 1 << 10, *[0xFF] * 127) + b"x\0"
    with pytest.raises(Error, match="here: unit 0 of the trie leads outside its 128 units"):
        spm.Rules(raw, "here")


def test_a_trie_that_runs_in_a_circle_is_told():
    """Unit 1 has label 1 and offset 0 x 1 = back to the block it came from."""
    units = [0, 1 | 1 << 10, *[0xFF] * 254]
    raw = struct.pack("<I256I", 1024, *units) + b"x\0"
    with pytest.raises(Error, match="here: the trie runs in a circle, or has a rule for more than 256 bytes"):
        spm.Rules(raw, "here")
    units[1] = 1 | 1 << 8 | 2 << 10  # and a rule that ends at byte 1, with its text at 9
    units[3] = 9 | 1 << 31
    with pytest.raises(Error, match="here: the trie speaks of text at 9, but that ends at 2"):
        spm.Rules(struct.pack("<I256I", 1024, *units) + b"x\0", "here")


def test_an_id_outside_the_vocabulary_is_told(t5):
    for id in (-100, 1100):
        with pytest.raises(Error, match=f"id {id} at position 1 is not in the vocabulary of 1100 tokens"):
            t5.ours.decode([3, id])


def test_a_damaged_file_is_read_or_refused():
    """Whatever is changed in a model: it loads and encodes, or an Error says why not."""
    random, texts, loaded = Random(5), ["Il a vu 3 ab a b xé\t\t c, ﬁn", "\0\x01漢😀 ▁▁", "x" * 500], 0
    for round in range(400):
        raw = bytearray(made(random.choice(("own rules", "own rules", "bytes" if round % 4 == 0 else "own rules"))))
        # The table and the settings lie at the end; half of the changes are there.
        last = max(len(raw) - 4000, 0) if random.random() < 0.5 else 0
        for _ in range(random.choice((1, 1, 2, 8))):
            at = random.randrange(last, len(raw))
            kind = random.random()
            if kind < 0.6:
                raw[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
            elif kind < 0.75:
                del raw[at : at + random.randint(1, 9)]
            elif kind < 0.9:
                raw[at:at] = random.randbytes(random.randint(1, 9))
            else:
                del raw[at + 1 :]
                last = 0
        try:
            model = SentencePiece(read_model(bytes(raw), "m.model"))
        except Error as e:
            assert str(e).startswith("m.model")
            continue
        loaded += 1
        for text in texts:
            pieces = model.encode(text)
            assert isinstance(model.decode(piece for piece, *_ in pieces), str)
    assert 50 < loaded < 350


def test_base64_of_the_table_is_the_same_in_both_files(t5):
    content = json.loads((t5.saved / "tokenizer.json").read_text())
    table = sentencepiece_model_pb2.ModelProto.FromString(made("T5's")).normalizer_spec.precompiled_charsmap
    assert base64.b64decode(content["normalizer"]["precompiled_charsmap"]) == table
