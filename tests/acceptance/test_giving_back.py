"""Tasks that a worker gives back: at its end, when they last too long, and when it finds that it is unfit.

The next worker gets them at once. Where the broker hides a message for a while from others, that is ten minutes here.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator

import pytest

from workers import processes

from . import brokers, faulty_device, pictures
from . import system as acceptance

STOP_SECONDS = 2


@pytest.fixture
def sqs(system: acceptance.System) -> brokers.Broker:
    """The embedded SQS, with a bucket that sends its own notifications to it."""
    bucket = "photos-given-back"
    events, url = brokers.sqs_events(system, bucket, f"{brokers.EVENTS}-{bucket}")
    return brokers.Broker(url, bucket, None, events=events)


@pytest.fixture
def pgmq(system: acceptance.System) -> Iterator[brokers.Broker]:
    """Queues of the test's own."""
    with brokers.pgmq(system, bucket="photos-given-back-pgmq") as broker:
        yield broker


@pytest.mark.slow
def test_on_sqs(
    system: acceptance.System, sqs: brokers.Broker, property_id: str, tmp_path: pathlib.Path
) -> None:
    check(system, sqs, f"given-back-{property_id}", tmp_path / "fault")
    url = system.sqs.get_queue_url(QueueName="embed")["QueueUrl"]
    counts = system.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    waiting = [int(counts[f"ApproximateNumberOfMessages{which}"]) for which in ("", "NotVisible", "Delayed")]
    assert waiting == [0, 0, 0], "giving back left no copy"


@pytest.mark.slow
def test_on_pgmq(
    system: acceptance.System, pgmq: brokers.Broker, property_id: str, tmp_path: pathlib.Path
) -> None:
    check(system, pgmq, f"given-back-{property_id}", tmp_path / "fault")


@pytest.mark.slow
def test_on_rabbitmq(
    system: acceptance.System, rabbitmq: brokers.Broker, property_id: str, tmp_path: pathlib.Path
) -> None:
    check(system, rabbitmq, f"given-back-{property_id}", tmp_path / "fault")


def check(system: acceptance.System, broker: brokers.Broker, property_id: str, fault: pathlib.Path) -> None:
    """A worker whose forward pass hangs is told to stop, the next one lacks the model, the third one embeds."""
    settings = {
        **broker.settings(),
        "DEDUP_STOP_SECONDS": str(STOP_SECONDS),
        "DEDUP_VISIBILITY_TIMEOUT_SECONDS": "600",
        faulty_device.FILE: str(fault),
    }
    log = f"{property_id}-embed"

    def said(event: str) -> bool:
        return any(line["event"] == event for line in system.log(log))

    def embedded() -> bool:
        return system.statuses(property_id) == {"a.jpg": "embedded"}

    worker = functools.partial(
        acceptance.process,
        system.stack.log_file(log),
        "worker",
        "embed",
        module=faulty_device.__name__,
        **{**system.stack.environment, **settings},
    )
    fault.write_text("hangs", encoding="ascii")
    with acceptance.halted(system, "sweep"), system.process(f"{property_id}-ingest", "ingest", **settings):
        if broker.send:
            acceptance.until(broker.event_queue_exists, "ingest runs")
        etag = system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"), broker.bucket)
        if broker.send:
            key = acceptance.key_of(property_id, "a.jpg")
            broker.send(
                {"Records": [acceptance.record("ObjectCreated:Put", key, bucket=broker.bucket, etag=etag)]}
            )
        with worker() as hanging:
            acceptance.until(
                lambda: system.ask(
                    "SELECT FROM photo WHERE property_id = %(property_id)s AND attempts = 1",
                    property_id=property_id,
                ),
                "it has the photo in hand",
            )
            hanging.terminate()
            assert hanging.wait(acceptance.DEADLINE_SECONDS) == 0
        assert said("stopped_with_work_in_hand")
        assert not said("part_away")
        assert system.photo(property_id, "a.jpg")["attempts"] == 0, "an order to stop says nothing of a photo"
        fault.write_text("unfit", encoding="ascii")
        with worker() as unfit:
            assert unfit.wait(acceptance.DEADLINE_SECONDS) == processes.EXIT_CONFIGURATION
        assert said("process_unfit")
        fault.unlink()
        with worker() as sound:
            acceptance.until(embedded, "the next one embeds it")
            sound.terminate()
            assert sound.wait(acceptance.DEADLINE_SECONDS) == 0
    assert not said("photo_lost_its_worker")
