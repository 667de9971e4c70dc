"""What a comparison foretells, on the real tables."""

from __future__ import annotations

import random

import pytest

from core import database, model_comparison
from tests.integration import ledger
from tests.integration.model_change import steps


def test_what_compare_foretells_is_what_the_change_brings(base: database.Database) -> None:
    places = [ledger.new_property() for _ in range(6)]
    steps.fill(base, places, random.Random(5))
    lacking = steps.add(base, places[0], "old only", 50, old=(0, 0, 0, 1))
    pages = list(model_comparison.pages(base, steps.model(base, steps.OLD), steps.model(base, steps.NEW)))
    assert sum(page.lacking for page in pages) == 1
    steps.store(base, lacking, new=(0, 0, 0, 1))
    ledger.match(base, lacking)
    pages = list(model_comparison.pages(base, steps.model(base, steps.OLD), steps.model(base, steps.NEW)))
    changes = {(change.property_id, change.key): change for page in pages for change in page.changes}

    def on_record() -> dict[tuple[str, str], tuple[str, float]]:
        found = ledger.rows(base, "SELECT property_id, key, duplicate_of_key, score FROM listing_duplicates")
        return {(row["property_id"], row["key"]): (row["duplicate_of_key"], row["score"]) for row in found}

    before = on_record()
    steps.activate(base, steps.NEW)
    assert steps.switch(base) == len(places)
    after = on_record()
    expected = {
        photo
        for photo in before.keys() | after.keys()
        if (before.get(photo) or ("",))[0] != (after.get(photo) or ("",))[0]
    }
    assert changes.keys() == expected
    assert {change.kind for change in changes.values()} == {"comes", "goes", "moves"}
    for photo, change in changes.items():
        nothing = (None, None)
        assert (change.old_duplicate_of, change.old_score) == before.get(photo, nothing)
        assert (change.new_duplicate_of, change.new_score) == after.get(photo, nothing)
    stayed = [photo for photo in before.keys() & after.keys() if before[photo][0] == after[photo][0]]
    assert sum(page.same for page in pages) == len(stayed)
    assert sum(page.properties for page in pages) == len(places)
    one = list(
        model_comparison.pages(base, steps.model(base, steps.NEW), steps.model(base, steps.OLD), places[2])
    )
    assert {change.key for page in one for change in page.changes} == {
        key for place, key in expected if place == places[2]
    }


def test_pages_of_a_comparison_cover_all_properties(
    base: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [ledger.new_property() for _ in range(5)]
    steps.fill(base, places, random.Random(8))
    whole = [
        c
        for page in model_comparison.pages(base, steps.model(base, steps.OLD), steps.model(base, steps.NEW))
        for c in page.changes
    ]
    monkeypatch.setattr(model_comparison, "PAGE_PROPERTIES", 2)
    pages = list(model_comparison.pages(base, steps.model(base, steps.OLD), steps.model(base, steps.NEW)))
    assert [page.properties for page in pages] == [2, 2, 1]
    assert [change for page in pages for change in page.changes] == whole
