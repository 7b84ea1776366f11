"""Layout of the graph: layers upwards, positions to the right, nothing outside the frame."""

import dataclasses

from app.services.attribution import AttributionResult, Contribution, OutputToken
from app.services.inference_messages import AttributedEdge
from app.services.probe import ProbeToken
from app.web.components.attribution_graph import graph
from tests.app.inference.dictionaries import Dictionary


def result(dictionary: Dictionary, edges: list[tuple[int, int, float]]) -> AttributionResult:
    """Three nodes of an early SAE and one of a late one."""
    late = dictionary.row
    early = dataclasses.replace(late, id=2, slug="early", hook="resid_post.1")
    texts = [b"<s>", b" The", b" lighthouse keeper", b" wrote"]
    places = [("early", 1), ("early", 1), ("early", 2), (late.slug, 3)]
    nodes = tuple(
        Contribution(slug, number, None, position, 1.0, (-1) ** number / (number + 1), None)
        for number, (slug, position) in enumerate(places)
    )
    return AttributionResult(
        saes=(late, early),
        tokens=tuple(ProbeToken(number, raw, raw.decode(), False) for number, raw in enumerate(texts)),
        position=3,
        target=OutputToken(5, b" a", " a", 0.5),
        rival=None,
        predictions=(),
        value=1.0,
        active=4,
        nodes=nodes,
        shares=(),
        explained=None,
        rank_correlation=None,
        edges=tuple(AttributedEdge(source=source, target=target, weight=weight) for source, target, weight in edges),
        edges_kept=0.8,
    )


def test_layers_go_up_and_positions_to_the_right(dictionary: Dictionary) -> None:
    drawn = graph(result(dictionary, [(0, 3, 2.0), (1, 3, -1.0), (2, 3, 0.5)]))
    assert drawn is not None
    first, second, third, late = drawn.discs
    assert first.y == second.y == third.y > late.y
    assert first.x < second.x < third.x < late.x
    assert first.radius > second.radius > third.radius
    assert [row.text for row in drawn.rows] == ["resid_post.1", "resid_post.2"]
    assert [column.text for column in drawn.columns] == ["The", "lighthouse …", "wrote"]
    for disc in drawn.discs:
        assert 0 < disc.x - disc.radius < disc.x + disc.radius < drawn.width
        assert 0 < disc.y - disc.radius < disc.y + disc.radius < drawn.height


def test_the_strongest_edge_is_the_widest_and_on_top(dictionary: Dictionary) -> None:
    drawn = graph(result(dictionary, [(0, 3, -2.0), (1, 3, 1.0)]))
    assert drawn is not None
    assert [line.weight for line in drawn.lines] == [1.0, -2.0]
    assert drawn.lines[1].width > drawn.lines[0].width
    assert len(drawn.discs) == 3, "nodes without an edge are left out"


def test_no_edges_make_no_graph(dictionary: Dictionary) -> None:
    assert graph(result(dictionary, [])) is None
