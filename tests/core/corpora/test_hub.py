import re
from pathlib import Path

import datasets
import pytest

from sae_core.corpora import load_corpus
from sae_core.errors import CorpusError

_CARD = """---
configs:
- config_name: small
  data_files:
  - split: train
    path: small/*.jsonl
  - split: test
    path: small/held/*.jsonl
- config_name: large
  data_files: large.parquet
---
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository as the hub has them: two configurations, one of them with two splits and two files."""
    folder = tmp_path / "Our texts"
    (folder / "small/held").mkdir(parents=True)
    (folder / "README.md").write_text(_CARD)
    (folder / "small/one.jsonl").write_text('{"text": "2024-01-01", "score": 1}\n')
    (folder / "small/two.jsonl").write_text('{"text": "two", "score": "high"}\n')
    (folder / "small/held/three.jsonl").write_text('{"text": "three", "body": "drei"}\n')
    datasets.Dataset.from_dict({"text": ["large"]}).to_parquet(folder / "large.parquet")
    return folder


def test_subset_and_split_are_chosen_and_named(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    train = load_corpus(folder, config="small", cache=cache)
    assert train.documents["text"][:] == ["2024-01-01", "two"]
    assert (train.slug, train.title) == ("our-texts-small", "Our texts (small)")
    test = load_corpus(folder, config="small", split="test", text_column="body", cache=cache)
    assert test.documents["text"][:] == ["drei"]
    assert (test.slug, test.title) == ("our-texts-small-test-body", "Our texts (small, test, body)")
    large = load_corpus(folder, config="large", cache=cache)
    assert large.documents["text"][:] == ["large"]
    assert len({train.sha256, test.sha256, large.sha256}) == 3


def test_what_is_not_there_is_refused_with_what_is(folder: Path) -> None:
    with pytest.raises(CorpusError, match=r"several subsets.* small, large.* `subset`"):
        load_corpus(folder)
    with pytest.raises(CorpusError, match=r"no subset 'huge'.* small, large"):
        load_corpus(folder, config="huge")
    with pytest.raises(CorpusError, match=r"no split 'dev'.* train, test.* `split`"):
        load_corpus(folder, config="small", split="dev")
    with pytest.raises(CorpusError, match=r"three\.jsonl has no column 'content'\. Its columns are text, body"):
        load_corpus(folder, config="small", split="test", text_column="content")


def test_rows_are_named_by_their_file(folder: Path) -> None:
    (folder / "small/two.jsonl").write_text('{"text": "a"}\n{"text": [1, 2]}\n')
    with pytest.raises(CorpusError, match=r"Row 2 of two\.jsonl holds token ids"):
        load_corpus(folder, config="small")


def test_a_folder_of_files_is_a_corpus(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(f"text of {name}")
    assert load_corpus(tmp_path).documents["text"][:] == ["text of a.txt", "text of b.txt"]


def test_a_folder_of_files_says_which_splits_it_has(tmp_path: Path) -> None:
    """`datasets` finds them in the files' names, and does not give them as text."""
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}')
    assert load_corpus(tmp_path, split="test").documents["text"][:] == ["test"]
    for split in ("nope", "all", "train+test", "train[:10%]"):
        with pytest.raises(CorpusError, match=r"Its splits are train, test: name one as `split`\."):
            load_corpus(tmp_path, split=split)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"has no split 'train'\. Its splits are test:"):
        load_corpus(tmp_path)


def test_a_folder_of_several_formats_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}')
    with pytest.raises(CorpusError, match=r"\.jsonl and \.txt files"):
        load_corpus(tmp_path)


def test_a_saved_dataset_is_a_corpus(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(tmp_path / "saved")
    assert load_corpus(tmp_path / "saved").documents["text"][:] == ["one", "two"]


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        load_corpus(tmp_path)


def test_a_file_has_neither_subset_nor_split(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for options in ({"config": "small"}, {"split": "test"}):
        with pytest.raises(CorpusError, match="leave them out"):
            load_corpus(tmp_path / "a.txt", **options)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("README.md", "---\nconfigs: [\n---\n", "expected the node content"),
        (".huggingface.yaml", "configs: [", "expected the node content"),
        ("README.md", "---\na: !!python/object/apply:os.system [ls]\n---\n", "could not determine a constructor"),
        ("README.md", "---\nconfigs: [null]\n---\n", "cannot be read: "),
        ("a.zip", "no archive", "not a zip file"),
    ],
)
def test_a_folder_whose_description_is_damaged_is_refused_with_its_name(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    (tmp_path / name).write_text(content)
    if name != "a.zip":  # which is looked into where there is nothing else
        (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    with pytest.raises(CorpusError, match=rf"{problem}.*Correct or remove {re.escape(name)}\."):
        load_corpus(tmp_path)
