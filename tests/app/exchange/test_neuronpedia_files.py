"""Files of an export as other programs may have saved them."""

import gzip
from pathlib import Path

from app.exchange.neuronpedia.files import Export, find, read_batch, read_lines
from app.exchange.neuronpedia.records import Explanation

BOM = b"\xef\xbb\xbf"


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    lines = b'{"index": "1", "description": "2024-01-01"}\n{"index": "2", "description": "\xef\xbb\xbfkept"}\n'
    for name, content in {
        "plain.jsonl": lines,
        "bom.jsonl": BOM + lines,
        "windows.jsonl": BOM + lines.replace(b"\n", b"\r\n"),
        "bom.jsonl.gz": gzip.compress(BOM + lines),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        read = [record for record, _, _ in read_lines(Export(tmp_path), path, Explanation)]
        assert [record.description for record in read] == ["2024-01-01", "\ufeffkept"]
    batch = tmp_path / "batch-0.json"
    batch.write_bytes(BOM + b'{"model_id": "gpt2", "features": []}')
    assert read_batch(find(str(batch)), batch).model_id == "gpt2"
