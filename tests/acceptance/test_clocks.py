"""Workers whose clocks are hours wrong: nothing waits for another one's time of day."""

from __future__ import annotations

import contextlib

import pytest

from . import brokers, faulty, proxy, skewed
from . import system as acceptance

PHOTOS = 6
UNAVAILABLE = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.slow
def test_retries_on_rabbitmq(system: acceptance.System, rabbitmq: brokers.Broker, property_id: str) -> None:
    with acceptance.halted(system, "sweep"):
        check(system, rabbitmq, property_id)


@pytest.mark.slow
def test_retries_on_pgmq(system: acceptance.System, property_id: str) -> None:
    with acceptance.halted(system, "embed", "embed-2", "sweep"):
        check(system, None, property_id)


def check(system: acceptance.System, broker: brokers.Broker | None, property_id: str) -> None:
    """Photos put off by a worker hours ahead are embedded at once by one hours behind. `broker` None: the stack's.

    The other way round there was never a wait.
    """
    with contextlib.ExitStack() as running:
        store = running.enter_context(proxy.Proxy(faulty.place(system.stack.store.endpoint_url)))
        settings = {
            **(broker.settings() if broker else {}),
            "DEDUP_S3_ENDPOINT_URL": faulty.at(system.stack.store.endpoint_url, store.port),
            "DEDUP_EMBED_CONCURRENCY": "2",
            "DEDUP_TASK_RETRY_BACKOFF_SECONDS": "2",
        }
        store.answer(UNAVAILABLE)
        running.enter_context(_skewed(system, f"{property_id}-match", -1, "worker", "match", **settings))
        if broker:
            running.enter_context(_skewed(system, f"{property_id}-ingest", 1, "ingest", **settings))
            acceptance.until(broker.event_queue_exists, "ingest runs")
        for number in range(PHOTOS):
            _upload(system, broker, property_id, number)
        name = f"{property_id}-ahead"
        with _skewed(system, name, 1, "worker", "embed", **settings):

            def put_off() -> bool:
                lines = [line for line in system.log(name) if line["event"] == "task_retried"]
                return len({line["photo_id"] for line in lines}) == PHOTOS

            acceptance.until(put_off, "it has put all photos off")
        store.mend()
        running.enter_context(_skewed(system, f"{property_id}-behind", -1, "worker", "embed", **settings))
        wanted = {f"{number}.jpg": "embedded" for number in range(PHOTOS)}
        acceptance.until(lambda: system.statuses(property_id) == wanted, "every photo is embedded")
        acceptance.until(lambda: len(system.flags(property_id)) == PHOTOS - 1, "the duplicates are flagged")


def _upload(system: acceptance.System, broker: brokers.Broker | None, property_id: str, number: int) -> None:
    name = f"{number}.jpg"
    if broker is None:
        system.upload(property_id, name, faulty.photo(number))
        return
    etag = system.upload(property_id, name, faulty.photo(number), broker.bucket)
    key = acceptance.key_of(property_id, name)
    assert broker.send
    broker.send({"Records": [acceptance.record("ObjectCreated:Put", key, bucket=broker.bucket, etag=etag)]})


def _skewed(
    system: acceptance.System, name: str, hours: int, *arguments: str, **settings: str
) -> contextlib.AbstractContextManager[object]:
    variables = {**system.stack.environment, **settings, skewed.HOURS: str(hours)}
    return acceptance.process(system.stack.log_file(name), *arguments, module=skewed.__name__, **variables)
