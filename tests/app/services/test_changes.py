"""Changes that wait for an open page."""

from dataclasses import replace

from app.services.changes import MAX_WAITING, Change, Subscription


async def test_a_page_is_told_of_all_changes_or_that_there_were_too_many() -> None:
    subscription = Subscription(lambda change: change.feature != 6)
    change = Change(1, person_id=7, sae_id=1, label_set_id=2, monitor_id=None, feature=5, withheld=False)
    for number in (3, 1, 2):  # of one person in one set: which of them a page did itself is not known here
        subscription.add(replace(change, id=number))
    subscription.add(replace(change, id=4, feature=6))
    changes, missed = await subscription.next()
    assert ([change.id for change in changes], missed) == ([1, 2, 3], False)

    for number in range(MAX_WAITING + 1):
        subscription.add(replace(change, id=number))
    changes, missed = await subscription.next()
    assert ([change.id for change in changes], missed) == (list(range(MAX_WAITING)), True)
