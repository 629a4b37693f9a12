"""A small BERT made of a larger one. Run: pytest tests/test_distill.py"""

import sys

import pytest
import torch

from minift import distill, pretrained, tokenizers
from minift.models.bert import BERT, Config

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "##ing", "house", "zebra", "quark", "xylem"]
TEXT = "The cat sat on the mat. The dogs ran on! A cat ran to the house?\n\nA dog sat. The cats sat on a mat.\n\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher of four layers with a vocabulary of characters and a few words, and a text."""
    folder = tmp_path_factory.mktemp("distill")
    characters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    pieces += ["##" + c for c in characters] + WORDS
    teacher = folder / "teacher"
    teacher.mkdir()
    (teacher / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (teacher / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    torch.manual_seed(0)
    config = Config(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        initializer_range=0.3,  # so that its layers differ
    )
    pretrained.save(BERT(config), tokenizers.load(teacher), teacher)
    (folder / "text.txt").write_text(TEXT * 300)
    return folder


def test_passages_are_whole_sentences_and_the_same_for_the_same_seed(folder):
    path = str(folder / "text.txt")
    found = distill.passages([path], seed=1)
    assert found == distill.passages([path], seed=1) != distill.passages([path], seed=2)
    assert all(passage[-1] in ".!?" for passage in found)
    assert sum(passage.count("house") for passage in found) == 300


def test_the_vocabulary_keeps_special_tokens_and_characters_and_prefers_what_the_text_has(folder):
    tokenizer = pretrained.load_tokenizer(folder / "teacher")
    pieces = tokenizer.tokens(range(tokenizer.vocab_size))
    size = tokenizer.vocab_size - 4  # without [unused0] and three words
    kept = [pieces[i] for i in distill.vocabulary(tokenizer, [TEXT], size)]
    assert len(kept) == size and kept == [piece for piece in pieces if piece in kept]
    assert set(distill.SPECIAL) <= set(kept) and "[unused0]" not in kept
    assert {"a", "##z", "cat", "sat", "the"} <= set(kept)
    assert "quark" not in kept and "zebra" not in kept  # not in the text, and last in the teacher's list


def test_the_cut_student_has_the_kept_rows_and_layers_of_its_teacher(folder):
    teacher = pretrained.load_model(folder / "teacher")
    student = distill.cut(teacher, [0, 3, 7], [1, 3])
    words = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(student.state_dict()[words], teacher.state_dict()[words][[0, 3, 7]])
    for ours, theirs in ((0, 1), (1, 3)):
        for a, b in zip(student.blocks[ours].parameters(), teacher.blocks[theirs].parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_student_that_is_its_teacher_has_no_loss_but_that_of_the_new_projection(folder):
    teacher = pretrained.load_model(folder / "teacher")
    keep = list(range(teacher.config.vocab_size))
    same = distill.Imitation(distill.cut(teacher, keep, [0, 1, 2, 3]), teacher, keep)
    batch = {"ids": torch.tensor([[3, 10, 20, 4], [3, 30, 4, 0]]), "mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()}
    total, units = same.loss(None, batch)
    assert units == 7
    hidden = teacher.hidden(batch["ids"], batch["mask"])
    mean = torch.stack([hidden[0].mean(0), hidden[1, :3].mean(0)])
    guess = same.project(teacher.pooled(batch["ids"], batch["mask"]))
    expected = ((1 - torch.cosine_similarity(guess, mean)) * torch.tensor([4, 3])).sum()
    assert torch.allclose(total, expected, atol=1e-4)


def test_the_command_makes_a_student_that_transformers_reads_and_can_go_on_from_it(folder, monkeypatch, capsys):
    transformers = pytest.importorskip("transformers")
    teacher, text, out = str(folder / "teacher"), str(folder / "text.txt"), folder / "student"
    fixed = ["distill", "--teacher", teacher, "--text", text, "--vocab", "150", "--layers", "0,3", "--tokens", "8000"]
    monkeypatch.setattr(sys, "argv", [*fixed, "--batch-tokens", "400", "--lr", "3e-3", "--out", str(out)])
    distill.main()
    losses = [eval(line)["valid"]["loss"] for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert losses[-1] < 0.8 * losses[0], losses
    student, tokenizer = pretrained.load(out)
    assert len(student.blocks) == 2 and student.config.vocab_size == tokenizer.vocab_size == 150
    assert student.config.hidden_dropout_prob == 0.1
    theirs = transformers.AutoModel.from_pretrained(out).eval()
    ids = torch.tensor([tokenizer.encode("The cat sat.")])
    assert torch.allclose(theirs(ids).last_hidden_state, student.hidden(ids), atol=1e-5)
    assert transformers.AutoTokenizer.from_pretrained(out)("The cat sat.")["input_ids"] == ids[0].tolist()

    monkeypatch.setattr(sys, "argv", [*fixed, "--batch-tokens", "400", "--student", str(out), "--out", str(folder / "more")])
    distill.main()
    further = [eval(line)["valid"]["loss"] for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert further[0] < losses[0]
