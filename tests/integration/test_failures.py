from __future__ import annotations

import pytest

from core import database, errors, events, failures, photos, rejections
from tests.integration.ledger import activate_model, add, apply, event, new_property, row


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    activate_model(base)


def fail(base: database.Database, property_id: str, name: str, reason: str) -> photos.Revision:
    photo = apply(base, event(property_id, name)).photo
    with base.transaction() as connection:
        photos.fail(connection, photo, reason, f"it is {reason}")
    return photo


def test_failed_photos_are_listed_and_put_back_in_chunks(base: database.Database) -> None:
    one, other = new_property(), new_property()
    corrupt = [fail(base, one, name, "corrupt") for name in ("a", "b", "c")]
    large = fail(base, other, "a", "too_large")
    add(base, one, "good", 1)
    of_one = failures.Choice(property_id=one)
    with base.transaction() as connection:
        found = failures.find(connection, of_one, limit=2)
        assert failures.count(connection, failures.Choice()) == {"corrupt": 3, "too_large": 1}
        assert failures.count(connection, of_one) == {"corrupt": 3}
    assert [(item.reason, item.message) for item in found] == [("corrupt", "it is corrupt")] * 2

    with base.transaction() as connection:
        first = failures.put_back(connection, failures.Choice(reason="corrupt"), None, limit=2)
    assert first == corrupt[:2]
    # Fails again at once; going on after it must not meet it again.
    with base.transaction() as connection:
        photos.fail(connection, first[0], "corrupt", "still")
        rest = failures.put_back(connection, failures.Choice(reason="corrupt"), first[-1], limit=2)
    assert rest == corrupt[2:]
    found_row = row(base, rest[0])
    assert (found_row["status"], found_row["failure"], found_row["attempts"]) == ("pending", None, 0)
    assert row(base, large)["status"] == "failed"


def test_a_rejected_event_is_read_and_forgotten(base: database.Database) -> None:
    with base.transaction() as connection:
        for reason in ("no_property", "not_understood"):
            photos.reject(connection, events.Rejection(reason, "why", f"body of {reason}"))
        newest, oldest = rejections.find(connection, None, limit=10)
        assert (newest["reason"], oldest["reason"]) == ("not_understood", "no_property")
        assert rejections.ids(connection, "no_property") == [oldest["id"]]
        assert rejections.read(connection, oldest["id"]).body == "body of no_property"
        rejections.drop(connection, oldest["id"])
        assert rejections.ids(connection, None) == [newest["id"]]
        with pytest.raises(errors.ConfigurationError, match=f"event {oldest['id']}"):
            rejections.read(connection, oldest["id"])
