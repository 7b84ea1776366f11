"""Changes that wait for an open page."""

from dataclasses import replace

from app.services.changes import Change, Subscription


async def test_a_page_is_told_of_each_persons_last_change_in_each_set() -> None:
    subscription = Subscription(lambda change: change.feature != 6)
    first = Change(1, person_id=7, sae_id=1, label_set_id=2, monitor_id=None, feature=5, withheld=False)
    own = [replace(first, id=2, person_id=8), replace(first, id=5, person_id=8)]
    for change in (*own, replace(first, id=3, label_set_id=3), first, replace(first, id=4, feature=6)):
        subscription.add(change)
    changes, missed = await subscription.next()
    assert [change.id for change in changes] == [1, 3, 5]
    assert not missed
