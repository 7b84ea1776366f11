from pathlib import Path

from sae_core.checkpoints.reading import read_json


def test_a_config_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "cfg.json"
    path.write_text('{"k": 32}', encoding="utf-8-sig")
    assert read_json(path) == {"k": 32}
