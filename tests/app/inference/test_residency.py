from app.inference.residency import LRUCache


def test_keeps_what_was_used_last() -> None:
    loaded: list[str] = []
    kept: LRUCache[str, str] = LRUCache(2)

    def get(key: str) -> str:
        def load() -> str:
            loaded.append(key)
            return key.upper()

        return kept.get(key, load)

    assert [get(key) for key in "abacab"] == ["A", "B", "A", "C", "A", "B"]
    assert loaded == ["a", "b", "c", "b"]  # a stayed, because it was used between


def test_makes_room_before_it_loads() -> None:
    alive = 0

    class Model:
        def __init__(self) -> None:
            nonlocal alive
            alive += 1
            assert alive == 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    models: LRUCache[int, Model] = LRUCache(1)
    for number in range(3):
        models.get(number, Model)
    assert alive == 1
    models.clear()
    assert alive == 0
