"""Database, broker and store are away, silent or slow: workers wait, say so, and go on; nothing is lost or doubled."""

from __future__ import annotations

import collections
import os
import pathlib
import shutil
import signal
import urllib.parse
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.soak import rabbitmq

from . import conftest, faulty
from . import system as acceptance

_BODY = b"<Error><Code>SlowDown</Code><Message>Wait a bit.</Message></Error>"
UNAVAILABLE = b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)
Fault = Callable[[faulty.World], None]


@pytest.fixture(scope="module")
def world(no_settings_of_the_machine: None) -> Iterator[faulty.World]:
    folder = conftest.open_folder()
    with faulty.world(folder) as there:
        yield there
    shutil.rmtree(folder)


@pytest.fixture
def photos_of(world: faulty.World) -> Iterator[str]:
    """A property of the test's own, and nothing wrong any more at its end."""
    yield f"p{uuid.uuid4().hex[:8]}"
    for way in (world.database, world.broker, world.store):
        way.mend()


def _logged(world: faulty.World, worker: str, event: str, **parts: object) -> list[acceptance.Row]:
    return [
        line
        for line in world.system.log(worker)
        if line["event"] == event and all(line.get(name) == value for name, value in parts.items())
    ]


DATABASE: dict[str, Fault] = {
    "refused": lambda world: world.database.refuse(),
    "frozen": lambda world: world.database.freeze(),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", DATABASE)
def test_database_away(world: faulty.World, photos_of: str, fault: str) -> None:
    world.upload(photos_of, "0.jpg", faulty.photo(0))
    world.until_done(photos_of, {"0.jpg"})
    pids = {name: process.pid for name, process in world.system.stack._processes.items()}
    DATABASE[fault](world)
    world.upload(photos_of, "1.jpg", faulty.photo(1))
    world.until_told(faulty.WORKERS, "database away for")
    world.until_told(["ingest"], "an event is held")
    assert world.system.statuses(photos_of) == {"0.jpg": "embedded"}
    world.database.mend()
    world.upload(photos_of, "2.jpg", faulty.photo(2))
    world.until_done(photos_of, {"0.jpg", "1.jpg", "2.jpg"})
    world.until_well()
    now = {name: process.pid for name, process in world.system.stack._processes.items()}
    assert now == pids, "nobody was started anew"


def test_database_frozen_in_the_middle_of_everything(world: faulty.World, photos_of: str) -> None:
    names = {f"{number}.jpg" for number in range(12)}
    for number in range(12):
        world.upload(photos_of, f"{number}.jpg", faulty.photo(number))
    acceptance.until(lambda: world.system.statuses(photos_of), "the first event is applied")
    world.database.freeze()
    world.until_told(["embed"], "database away for")
    world.database.cut()
    world.database.mend()
    world.until_done(photos_of, names)
    world.until_well()


def test_database_killed(world: faulty.World, photos_of: str) -> None:
    world.upload(photos_of, "0.jpg", faulty.photo(0))
    world.until_done(photos_of, {"0.jpg"})
    postmaster = world.system.stack.postgres._postmaster()
    assert postmaster
    os.kill(postmaster[0], signal.SIGKILL)
    world.upload(photos_of, "1.jpg", faulty.photo(1))
    world.until_done_patiently(photos_of, {"0.jpg", "1.jpg"})
    world.until_well()


def test_broker_refuses(world: faulty.World, photos_of: str) -> None:
    world.upload(photos_of, "0.jpg", faulty.photo(0))
    world.until_done(photos_of, {"0.jpg"})
    world.broker.refuse()
    world.upload(photos_of, "1.jpg", faulty.photo(1))
    world.until_told(["ingest"], "events away for")
    world.until_told(["embed", "match", "sweep"], "broker away for")
    world.broker.mend()
    world.until_done(photos_of, {"0.jpg", "1.jpg"})
    world.until_well()


@pytest.mark.slow
def test_broker_stands_still(world: faulty.World, photos_of: str) -> None:
    """It takes bytes and says nothing: only heartbeats, and questions without an answer, tell that."""
    world.upload(photos_of, "0.jpg", faulty.photo(0))
    world.until_done(photos_of, {"0.jpg"})
    world.broker.freeze()
    world.upload(photos_of, "1.jpg", faulty.photo(1))
    world.until_told(["ingest"], "events away for")
    world.until_told(["embed", "match", "sweep"], "broker away for")
    world.broker.mend()
    world.until_done(photos_of, {"0.jpg", "1.jpg"})
    world.until_well()


STORE: dict[str, tuple[Fault, str]] = {
    "refused": (lambda world: world.store.refuse(), "cannot be read now"),
    "unavailable": (lambda world: world.store.answer(UNAVAILABLE), "cannot be read now"),
    "frozen": (lambda world: world.store.freeze(), "cannot be read now"),
    "trickles": (lambda world: world.store.trickle(0.005), "comes too slowly"),
    "cut short": (lambda world: world.store.cut_after(3000), "was cut short"),
}


@pytest.mark.parametrize("fault", STORE)
def test_store_away_or_slow(world: faulty.World, photos_of: str, fault: str) -> None:
    begin, words = STORE[fault]
    begin(world)
    world.upload(photos_of, "0.jpg", faulty.photo(0))
    world.upload(photos_of, "1.jpg", faulty.photo(1))

    def retried() -> bool:
        lines = _logged(world, "embed", "task_retried", property_id=photos_of)
        assert world.health("embed", "/livez") == []
        return len({line["photo_id"] for line in lines if words in line["error"]}) == 2

    acceptance.until(retried, "both photos are put off, and the log says why")
    if fault in {"refused", "unavailable", "frozen"}:
        world.until_told(["embed"], "store away for")
    assert set(world.system.statuses(photos_of).values()) == {"pending"}
    world.store.mend()
    world.until_done(photos_of, {"0.jpg", "1.jpg"})
    world.until_well()
    attempts = [world.system.photo(photos_of, name)["attempts"] for name in ("0.jpg", "1.jpg")]
    assert attempts == [0, 0], "an outage says nothing of the photo"


def test_object_gone_before_it_is_fetched(world: faulty.World, photos_of: str) -> None:
    world.upload(photos_of, "0.jpg", faulty.photo(0))
    world.until_done(photos_of, {"0.jpg"})
    world.store.refuse()
    world.upload(photos_of, "1.jpg", faulty.photo(1))
    acceptance.until(
        lambda: _logged(world, "embed", "task_retried", property_id=photos_of), "it cannot be fetched yet"
    )
    world.system.delete(photos_of, "1.jpg")
    world.store.mend()
    done = {"0.jpg": "embedded", "1.jpg": "removed:object_gone"}
    acceptance.until(lambda: world.system.statuses(photos_of) == done, "it is taken for removed")
    world.until_well()


def test_a_photo_is_followed_through_all_logs(world: faulty.World, photos_of: str) -> None:
    """By its id, and by the id of what its event set off; retries and giving up included, and no secret on the way."""
    world.store.refuse()
    world.upload(photos_of, "0.jpg", faulty.photo(0))
    acceptance.until(
        lambda: _logged(world, "embed", "task_retried", property_id=photos_of), "the photo is put off"
    )
    world.store.mend()
    world.until_done(photos_of, {"0.jpg"})
    ids = {"property_id": photos_of, "photo_id": world.system.photo(photos_of, "0.jpg")["id"]}
    (applied,) = _logged(world, "ingest", "event_applied", **ids)
    assert applied["revision"] == 1
    steps = {"event_applied", "task_retried", "photo_embedded", "photo_matched"}
    for known in (ids, {"correlation_id": applied["correlation_id"]}):
        found = collections.defaultdict(list)
        for worker in faulty.WORKERS:
            for line in world.system.log(worker):
                if all(line.get(name) == value for name, value in known.items()):
                    found[line["event"]].append(line)
        assert steps <= set(found), f"by {known}"
        for step in steps - {"event_applied"}:
            assert all(line["task_id"] and line["process"] in faulty.WORKERS for line in found[step])
    # One task from its first attempt to its last, another one for the match.
    embed_tasks = {line["task_id"] for line in found["task_retried"] + found["photo_embedded"]}
    match_tasks = {line["task_id"] for line in found["photo_matched"]}
    assert (len(embed_tasks), len(match_tasks), embed_tasks & match_tasks) == (1, 1, set())


def test_no_secret_is_in_any_log(world: faulty.World) -> None:
    """Of all that the tests before this one made the workers say."""
    environment = world.system.stack.environment
    logins = (environment["DEDUP_DATABASE_URL"], environment["DEDUP_MIGRATION_DATABASE_URL"])
    passwords = {urllib.parse.urlsplit(url).password or "" for url in logins}
    secrets = {environment["AWS_SECRET_ACCESS_KEY"], ":guest@", *passwords}
    assert all(len(secret) > 5 for secret in secrets)
    for path in pathlib.Path(world.system.stack.log_file("embed").parent).iterdir():
        text = path.read_text(encoding="utf-8")
        assert text
        assert not [secret for secret in secrets if secret in text], path.name


@pytest.mark.slow
def test_broker_killed(data_dir: pathlib.Path) -> None:
    """A RabbitMQ of the test's own, with an event, retries and a match in it; nothing of them is lost."""
    if not (rabbitmq.SCRIPTS / "rabbitmq-server").exists():
        pytest.skip(f"no rabbitmq-server in {rabbitmq.SCRIPTS}")
    with (
        rabbitmq.Node(data_dir / "rabbitmq") as node,
        faulty.world(data_dir / "stack", node.url) as world,
    ):
        world.store.refuse()
        names = {f"{number}.jpg" for number in range(6)}
        for number in range(6):
            world.upload("42", f"{number}.jpg", faulty.photo(number))
        acceptance.until(
            lambda: len(_logged(world, "embed", "task_retried")) >= 6, "the retries wait in the broker"
        )
        queues = (*rabbitmq.TASK_QUEUES, world.system.stack.environment["DEDUP_EVENT_QUEUE"])
        acceptance.until(lambda: node.remembers(queues), "the node has the queues on its disk")
        node.kill()
        world.until_told(["ingest"], "events away for")
        world.until_told(["embed", "match", "sweep"], "broker away for")
        world.store.mend()
        node.start()
        world.until_done("42", names)
        world.until_well()
