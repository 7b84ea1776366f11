import copy
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_core.corpora import Corpus, CorpusInfo, Sequences, load_corpus, pack
from sae_core.corpora.packing import _pieces
from sae_core.errors import ArtifactError, CorpusError, ModelError
from sae_core.models import LanguageModel, load_model
from tests.tiny import CORPUS_FILE, EOS, documents, tiny_model

BOS_ID, EOS_ID = 1, 2


def corpora_of_words(max_size: int) -> st.SearchStrategy[list[str]]:
    words = st.text(st.sampled_from("abcdetheins.,-'1\té漢🙂"), min_size=1, max_size=max_size)
    return st.lists(st.lists(words, min_size=1, max_size=40).map(" ".join), min_size=3, max_size=8)


corpora = corpora_of_words(12)
short_words = corpora_of_words(5)  # no longer than what a cut may move back over


def corpus_of(texts: list[str], **columns: list[object]) -> Corpus:
    table = {"text": texts, "title": [f"Document {n}" for n in range(len(texts))], "topic": [None] * len(texts)}
    return Corpus("slug", "Title", "source", None, None, datasets.Dataset.from_dict(table | columns), "0" * 64)


def used(sequences: Sequences) -> np.ndarray:
    """Positions up to the last one of a document: the rest is padding."""
    last = (np.arange(sequences.length) * (sequences.document_of >= 0)).max(axis=1)
    return np.arange(sequences.length) <= last[:, None]


def round_trip_share(sequences: Sequences, model: LanguageModel) -> float:
    """Share of the sequences whose text is tokenised to the same ids again."""
    rows = [ids[mask].tolist() for ids, mask in zip(sequences.token_ids, used(sequences), strict=True)]
    return sum(model.tokenize(model.decode(row)) == row for row in rows) / len(rows)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpora, st.integers(8, 48), st.integers(0, 3))
def test_every_document_token_comes_once_and_in_order(
    model: LanguageModel, texts: list[str], length: int, seed: int
) -> None:
    try:
        sequences = pack(corpus_of(texts), model, length=length, seed=seed)
    except CorpusError:  # all of it fits one sequence
        assert sum(len(model.tokenize(text)) for text in texts) <= length + len(texts)
        return
    assert sorted(document.title for document in sequences.documents) == [f"Document {n}" for n in range(len(texts))]
    for number, document in enumerate(sequences.documents):
        text = texts[int(document.title.removeprefix("Document "))]
        token_ids = sequences.token_ids[sequences.document_of == number]
        assert token_ids.tolist() == model.tokenize(text)[1:]
    order = sequences.document_of[sequences.document_of >= 0]
    assert (np.diff(order) >= 0).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpora, st.integers(8, 48))
def test_sequences_are_bos_documents_joined_by_eos_and_padding(
    model: LanguageModel, texts: list[str], length: int
) -> None:
    try:
        sequences = pack(corpus_of(texts), model, length=length)
    except CorpusError:
        return
    assert (sequences.token_ids[:, 0] == BOS_ID).all()
    assert not sequences.counted[:, 0].any()
    assert np.array_equal(sequences.counted, sequences.document_of >= 0)
    assert (sequences.document_of[:, 1] >= 0).all()  # no separator at the start
    for token_ids, document_of, mask in zip(sequences.token_ids, sequences.document_of, used(sequences), strict=True):
        separators = np.flatnonzero((document_of[1:] < 0) & mask[1:]) + 1
        assert (token_ids[separators] == EOS_ID).all()
        assert (document_of[separators + 1] == document_of[separators - 1] + 1).all()
        assert (np.diff(document_of[mask & (document_of >= 0)]) <= 1).all()
        assert (token_ids[~mask] == sequences.pad_token_id).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(short_words, st.integers(32, 64))
def test_no_cut_falls_inside_a_word_or_a_character(model: LanguageModel, texts: list[str], length: int) -> None:
    try:
        sequences = pack(corpus_of(texts), model, length=length)
    except CorpusError:
        return
    for token_ids, document_of, mask in zip(sequences.token_ids, sequences.document_of, used(sequences), strict=True):
        assert "�" not in model.decode(token_ids[mask].tolist())
        assert document_of[1] >= 0
    starts = sequences.document_of[1:, 1] == sequences.document_of[:-1].max(axis=1)  # continues the same document
    for token_ids in sequences.token_ids[1:][starts]:
        assert model.token_bytes()[token_ids[1]][:1].isspace()


def test_packed_text_is_tokenised_to_the_same_ids(sequences: Sequences, model: LanguageModel) -> None:
    assert len(sequences) > 100
    assert round_trip_share(sequences, model) > 0.99


def test_padding_is_a_small_share(corpus: Corpus, model: LanguageModel) -> None:
    sequences = pack(corpus, model, length=128)
    assert used(sequences)[:-1].mean() > 0.98


@pytest.mark.parametrize("length", [63, 64, 65])
def test_text_without_spaces_is_cut_between_characters(model: LanguageModel, length: int) -> None:
    sequences = pack(corpus_of(["漢字かな" * 200]), model, length=length)
    rows = [
        model.decode(ids[mask].tolist()[1:]) for ids, mask in zip(sequences.token_ids, used(sequences), strict=True)
    ]
    assert "".join(rows) == "漢字かな" * 200


def test_order_depends_on_the_seed_alone(corpus: Corpus, model: LanguageModel) -> None:
    one, same, other = (pack(corpus, model, length=32, seed=seed) for seed in (0, 0, 1))
    assert one.sha256 == same.sha256 != other.sha256
    assert [d.title for d in one.documents] != [d["title"] for d in documents()]


def test_packing_stops_at_max_tokens(corpus: Corpus, model: LanguageModel) -> None:
    everything = pack(corpus, model, length=32)
    sequences = pack(corpus, model, length=32, max_tokens=500)
    assert sequences.n_counted == 500
    assert len(sequences.documents) == sequences.document_of.max() + 1 < 20
    kept = everything.token_ids[everything.counted][:500]
    assert sequences.token_ids[sequences.counted].tolist() == kept.tolist()
    assert pack(corpus, model, length=32, max_tokens=10**9).sha256 == everything.sha256


def test_special_tokens_in_a_text_are_not_counted(model: LanguageModel) -> None:
    sequences = pack(corpus_of([f"one{EOS} two three four five"] * 3), model, length=16)
    is_special = np.isin(sequences.token_ids, [0, 1, 2])
    assert not (sequences.counted & is_special).any()
    assert ((sequences.document_of >= 0) & is_special).sum() == 3
    assert round_trip_share(sequences, model) == 1


@pytest.mark.parametrize("texts", [["x"], ["one two"], ["a", "b"]])
def test_too_little_text_is_refused(model: LanguageModel, texts: list[str]) -> None:
    with pytest.raises(CorpusError, match="two sequences of 128 are needed"):
        pack(corpus_of(texts), model)


def test_lengths_that_do_not_fit_are_refused(corpus: Corpus, model: LanguageModel) -> None:
    with pytest.raises(ModelError, match="at most 256"):
        pack(corpus, model, length=257)
    with pytest.raises(CorpusError, match="at least 8"):
        pack(corpus, model, length=7)


def test_a_line_of_megabytes_is_packed_whole(model: LanguageModel) -> None:
    line = "the brown fox, and so on. " * 20_000
    reported = []
    sequences = pack(
        corpus_of([line, "x" * 50_000]), model, length=128, progress=lambda done, total, _=None: reported.append(done)
    )
    for number, document in enumerate(sequences.documents):
        text = line if document.title == "Document 0" else "x" * 50_000
        token_ids = sequences.token_ids[sequences.document_of == number].tolist()
        assert model.decode(token_ids) == text
    assert reported[-1] == 2
    assert round_trip_share(sequences, model) > 0.9


def test_long_documents_are_tokenised_as_if_whole(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [document["text"] for document in documents()]
    texts += [text.replace(" ", "   ").replace(", ", " \n ") for text in texts]
    whole = pack(corpus_of(texts), model, length=64)
    monkeypatch.setattr("sae_core.corpora.packing._PIECE_CHARACTERS", 100)
    assert pack(corpus_of(texts), model, length=64).sha256 == whole.sha256


@given(st.text(st.sampled_from("ab  \n"), max_size=400))
def test_pieces_begin_where_a_space_follows_a_word(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae_core.corpora.packing._PIECE_CHARACTERS", 50)
        pieces = _pieces(text)
    assert "".join(pieces) == text
    for before, piece in pairwise(pieces):
        hard_cut = len(before) == 50
        assert hard_cut or (piece[0] == " " and not before[-1].isspace())


def test_a_cancelled_packing_stops(corpus: Corpus, model: LanguageModel) -> None:
    class CancelledError(Exception): ...

    def cancel(done: int, total: int, metrics: object = None) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        pack(corpus, model, length=32, progress=cancel)


def test_sequences_are_held_out_from_the_second_on(sequences: Sequences) -> None:
    held_out = np.flatnonzero(sequences.is_validation())
    assert held_out.tolist() == list(range(1, len(sequences), 20))


def test_sequences_are_saved_and_loaded(tmp_path: Path, sequences: Sequences) -> None:
    sequences.save(tmp_path)
    loaded = Sequences.load(tmp_path)
    assert loaded.sha256 == sequences.sha256
    assert loaded.documents == sequences.documents
    assert loaded.corpus == sequences.corpus
    assert isinstance(loaded.corpus, CorpusInfo)
    for name in ("token_ids", "counted", "document_of"):
        assert np.array_equal(getattr(loaded, name), getattr(sequences, name))
        assert getattr(loaded, name).dtype == getattr(sequences, name).dtype
    assert (loaded.length, loaded.pad_token_id) == (sequences.length, sequences.pad_token_id)


def test_damaged_sequences_are_refused(tmp_path: Path, sequences: Sequences) -> None:
    with pytest.raises(ArtifactError, match="no sequences"):
        Sequences.load(tmp_path)
    sequences.save(tmp_path)
    file = tmp_path / "tokens.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="hash"):
        Sequences.load(tmp_path)


def test_a_model_without_bos_or_eos_packs(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "llama")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    model = load_model(folder, device="cpu")
    assert model.bos_token_id is None
    sequences = pack(load_corpus(CORPUS_FILE), model, length=32)
    assert (sequences.document_of[:, 0] >= 0).all()


def test_sequences_for_an_sae_without_bos_begin_with_text(corpus: Corpus, model: LanguageModel) -> None:
    with_bos, without = pack(corpus, model, length=32), pack(corpus, model, length=32, prepend_bos=False)
    assert (with_bos.token_ids[:, 0] == BOS_ID).all()
    assert not (without.token_ids == BOS_ID).any()
    assert without.counted[:, 0].all()
    assert (without.document_of[:, 0] >= 0).all()
    texts = [sequences.token_ids[sequences.document_of >= 0].tolist() for sequences in (with_bos, without)]
    assert texts[0] == texts[1]
    assert with_bos.sha256 != without.sha256


def test_padding_is_by_a_token_that_the_model_has(model):
    padded = copy.copy(model)
    padded.tokenizer = copy.deepcopy(model.tokenizer)
    padded.tokenizer.add_special_tokens({"pad_token": "<a padding token that the model lacks>"})
    assert padded.tokenizer.pad_token_id == model.vocab_size
    assert pack(load_corpus(CORPUS_FILE), padded, length=32).token_ids.max() < model.vocab_size


def test_a_text_with_a_token_that_the_model_lacks_is_refused(model):
    shorter = copy.copy(model)
    shorter.vocab_size = 400
    with pytest.raises(ModelError, match="has no row for the token"):
        pack(load_corpus(CORPUS_FILE), shorter, length=32)
