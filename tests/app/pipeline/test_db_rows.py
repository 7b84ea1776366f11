"""Rows for the database hold the values of the arrays that they are cut from."""

import numpy as np

from app.pipeline.db_rows import _rows_of_list, unpadded
from sae_core.corpora import CorpusInfo, DocumentInfo, Sequences


def test_lists_end_where_the_padding_of_their_ids_starts() -> None:
    arrays = {
        "values": np.array([[0.5, 0.25, 0.0], [0.0, 0.0, 0.0], [3.0, 2.0, 1.0]]),
        "ids": np.array([[4, 7, -1], [-1, -1, -1], [1, 2, 3]]),
    }
    assert {name: list(rows) for name, rows in _rows_of_list(arrays, "ids").items()} == {
        "values": [[0.5, 0.25], [], [3.0, 2.0, 1.0]],
        "ids": [[4, 7], [], [1, 2, 3]],
    }


def test_sequences_lose_only_the_padding_at_their_end() -> None:
    # 0 is BOS, separator and padding alike, as in GPT-2.
    sequences = Sequences(
        length=6,
        pad_token_id=0,
        token_ids=np.array([[0, 5, 0, 6, 0, 0], [0, 5, 6, 7, 8, 9]], np.int32),
        counted=np.array([[False, True, False, True, False, False], [False, True, True, True, True, True]]),
        document_of=np.array([[-1, 0, -1, 1, -1, -1], [-1, 1, 1, 1, 1, 1]], np.int32),
        documents=[DocumentInfo("a"), DocumentInfo("b")],
        corpus=CorpusInfo("c", "C", "c.json", None, None, "0"),
        tokenizer_sha256="0",
    )
    assert list(unpadded(sequences)) == [
        ([0, 5, 0, 6], [-1, 0, -1, 1]),
        ([0, 5, 6, 7, 8, 9], [-1, 1, 1, 1, 1, 1]),
    ]
