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


def test_the_neurons_that_are_kept_are_those_that_say_most(folder):
    """Silence all but three neurons of an MLP: these three are kept, and the cut student says the same."""
    teacher = pretrained.load_model(folder / "teacher")
    ids, mask = torch.tensor([[3, 10, 20, 4], [3, 30, 4, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    loud, everything = [[1, 4, 6], [0, 5, 7]], list(range(teacher.config.vocab_size))
    with torch.no_grad():
        for layer, kept in zip((0, 2), loud, strict=True):
            silent = [i for i in range(teacher.config.intermediate_size) if i not in kept]
            teacher.blocks[layer].output.dense.weight[:, silent] = 0
    found = distill.busiest(teacher, [0, 2], ids, mask, 3)
    assert [neurons.tolist() for neurons in found] == loud
    small = distill.cut(teacher, everything, [0, 2], found)
    assert small.config.intermediate_size == 3
    assert torch.allclose(
        small.pooled(ids, mask), distill.cut(teacher, everything, [0, 2]).pooled(ids, mask), atol=1e-6
    )


def batch_of(spelling, teacher_spelling):
    """One row of states: what each token of the student and of the teacher belongs to."""
    batch = {"words": 3}
    for whose, word in ("", spelling), ("teacher_", teacher_spelling):
        batch[whose + "word"] = torch.tensor([word])
        batch[whose + "mask"] = torch.tensor([word]) >= 0
    return batch


def test_words_are_compared_by_the_mean_of_their_pieces_however_they_are_spelt():
    batch = batch_of([0, 1, 1, 2, -1], [0, 1, 2, -1, -1])
    ours = torch.tensor([[[1.0], [2.0], [4.0], [5.0], [99.0]]])
    theirs = torch.tensor([[[1.0], [3.0], [5.0], [99.0], [99.0]]])
    words, mean = distill.averages(ours, batch, "")
    assert words.tolist() == [[1.0], [3.0], [5.0]] and mean.tolist() == [[3.0]]
    assert distill.averages(theirs, batch, "teacher_")[0].tolist() == words.tolist()


def test_whitened_vectors_vary_alike_in_every_direction_that_is_not_noise():
    torch.manual_seed(0)
    vectors = torch.randn(5000, 3) * torch.tensor([10.0, 5.0, 4.0]) @ torch.linalg.qr(torch.randn(3, 3)).Q
    variance = torch.cov((vectors @ distill.whitener(vectors)).T)
    assert (variance - torch.diag(variance.diagonal())).abs().max() < 1e-3
    assert variance.diagonal().min() > 0.5 and variance.diagonal().max() <= 1


def test_a_student_that_is_its_teacher_misses_only_what_the_new_projection_misses(folder):
    teacher = pretrained.load_model(folder / "teacher")
    same = distill.Imitation(distill.cut(teacher, list(range(teacher.config.vocab_size)), [0, 1, 2, 3]), teacher)
    ids, mask = torch.tensor([[3, 10, 20, 4], [3, 30, 4, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    word = torch.tensor([[0, 1, 2, 3], [4, 5, 6, -1]])
    batch = {"words": 7, "ids": ids, "mask": mask, "word": word}
    batch |= {"teacher_ids": ids, "teacher_mask": mask, "teacher_word": word}
    same.measure([batch])
    total, units = same.loss(None, batch)
    assert units == 7
    expected = 0
    pooled = same.project(teacher.pooled(ids, mask)).chunk(4, 1)
    for guess, (_, mean), (_, white) in zip(pooled, same.targets(batch), same.white, strict=True):
        expected += 7 * ((guess - mean) @ white).square().mean()
    assert torch.allclose(total, expected, rtol=1e-4)


def test_each_layer_and_the_pooler_are_measured_against_the_teachers_evenly_spaced_layers(folder):
    teacher = pretrained.load_model(folder / "teacher")  # of four layers: two imitate its second and its fourth
    student = distill.cut(teacher, list(range(teacher.config.vocab_size)), [0, 3])
    imitation = distill.Imitation(student, teacher)
    ids, mask, word = torch.tensor([[3, 10, 20, 4]]), torch.ones(1, 4, dtype=torch.bool), torch.arange(4)[None]
    batch = {"words": 4, "ids": ids, "mask": mask, "word": word}
    batch |= {"teacher_ids": ids, "teacher_mask": mask, "teacher_word": word}
    imitation.white = [[torch.eye(16)] * 2] * 2
    theirs, ours = distill.states(teacher, ids, mask), distill.states(student, ids, mask)
    guesses = imitation.project(student.pooled(ids, mask)).chunk(2, 1)
    expected = 0
    for state, said, guess in zip((theirs[1], theirs[3]), ours, guesses, strict=True):
        expected += (said - state).square().mean() + (said.mean(1) - state.mean(1)).square().mean()
        expected += (guess - state.mean(1)).square().mean()
    total, units = imitation.loss(None, batch)
    assert torch.allclose(total, expected * units, rtol=1e-4)


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

    again = ["--batch-tokens", "400", "--student", str(out), "--out", str(folder / "more")]
    monkeypatch.setattr(sys, "argv", [*fixed, *again])
    distill.main()
    further = [eval(line)["valid"]["loss"] for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert further[0] < losses[0]
