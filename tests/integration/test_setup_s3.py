"""`dedup setup s3` against moto's server: real requests, and events that really arrive in the queue."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore import stub as stubs
from moto import server as moto_server
from typer import testing

from core import errors, events, settings
from tests.acceptance.system import until
from workers import aws_errors, aws_policies, cli, collectors, notification_setup, processes

PHOTO = "properties/42/photos/a b.jpg"
PATTERN = events.KeyPattern(
    re.compile(settings.Settings.model_fields["key_pattern"].default), frozenset({"photos"})
)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An account with nothing in it; gives its endpoint."""
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name in [name for name in os.environ if name.startswith(("DEDUP_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="photos")
    settings.get.cache_clear()
    yield endpoint
    settings.get.cache_clear()
    # Moto's tables are the process's: the next test is to find none of this.
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()  # noqa: S310
    server.stop()


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended; `stderr` holds the text of the error that it raised."""

    returncode: int
    stdout: str
    stderr: str


def dedup(*arguments: str, **environment: str) -> Ended:
    """`dedup setup s3` in this process: a process each would take most of the time."""
    settings.get.cache_clear()
    try:
        done = testing.CliRunner(env=environment).invoke(cli.app, ["setup", "s3", *arguments])
    finally:
        settings.get.cache_clear()
    codes: dict[type[BaseException] | None, int] = {
        errors.ConfigurationError: processes.EXIT_CONFIGURATION,
        errors.TransientError: processes.EXIT_AWAY,
    }
    raised = type(done.exception) if done.exception else None
    return Ended(codes.get(raised, done.exit_code), done.stdout, str(done.exception or ""))


def everything(queue: str = "dedup-events") -> dict[str, Any]:
    """What is set up in the account."""
    sqs, sns, rules, s3 = (boto3.client(name) for name in ("sqs", "sns", "events", "s3"))
    queues = {}
    for url in sqs.list_queues().get("QueueUrls", []):
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        queues[url.rpartition("/")[2]] = {
            name: value for name, value in found.items() if not name.startswith("Approximate")
        }
    topics = [topic["TopicArn"] for topic in sns.list_topics()["Topics"]]
    notification = s3.get_bucket_notification_configuration(Bucket="photos")
    notification.pop("ResponseMetadata")
    return {
        "queues": queues,
        "topics": {arn: sns.get_topic_attributes(TopicArn=arn)["Attributes"] for arn in topics},
        "subscriptions": sns.list_subscriptions()["Subscriptions"],
        "rules": rules.list_rules()["Rules"],
        "notification": notification,
    }


def arrives(queue: str = "dedup-events") -> events.Event:
    """Upload a photo, and read its event from the queue as ingest does."""
    sqs = boto3.client("sqs")
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    boto3.client("s3").put_object(Bucket="photos", Key=PHOTO, Body=b"x")

    def look() -> list[events.Event]:
        messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        return [event for message in messages for event in events.parse(message["Body"], PATTERN).events]

    return until(look, "the event of the upload arrives", 30)[0]


@pytest.mark.parametrize("via", ["sqs", "sns", "eventbridge"])
def test_events_arrive_and_a_second_run_changes_nothing(aws: str, via: str) -> None:
    first = dedup("--bucket", "photos", "--via", via, "--prefix", "properties/")
    assert first.returncode == 0, first.stderr
    assert "done" in first.stdout
    event = arrives()
    assert (event.bucket, event.key, event.property_id) == ("photos", PHOTO, "42")
    assert event.kind is events.Kind.CREATED
    before = everything()
    second = dedup("--bucket", "photos", "--via", via, "--prefix", "properties/")
    assert second.returncode == 0, second.stderr
    lines = [line for line in second.stdout.splitlines() if not line.startswith("DEDUP_")]
    # Moto does not tell that a bucket sends to EventBridge; S3 does.
    assert [line for line in lines if not line.startswith("ok") and "EventBridge" not in line] == []
    assert len(lines) > 4
    assert everything() == before


@pytest.mark.parametrize("via", ["sqs", "sns", "eventbridge"])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(aws: str, via: str) -> None:
    before = everything()
    shown = dedup("--bucket", "photos", "--via", via, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert everything() == before
    planned = [line.removeprefix("would ") for line in shown.stdout.splitlines() if line.startswith("would")]
    done = dedup("--bucket", "photos", "--via", via)
    assert [
        line.removeprefix("done  ") for line in done.stdout.splitlines() if line.startswith("done")
    ] == planned


def test_only_the_bucket_may_send_and_what_fails_goes_to_the_dead_letters(aws: str) -> None:
    assert dedup("--bucket", "photos").returncode == 0
    queue = everything()["queues"]["dedup-events"]
    (statement,) = json.loads(queue["Policy"])["Statement"]
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Resource"] == queue["QueueArn"]
    assert statement["Condition"] == {
        "ArnEquals": {"aws:SourceArn": "arn:aws:s3:::photos"},
        "StringEquals": {"aws:SourceAccount": "123456789012"},
    }
    redrive = json.loads(queue["RedrivePolicy"])
    assert redrive["deadLetterTargetArn"] == f"{queue['QueueArn']}-dead-letters"
    assert queue["VisibilityTimeout"] == "300"


def test_dead_events_are_measured(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dedup("--bucket", "photos").returncode == 0
    sqs = boto3.client("sqs")
    url = sqs.get_queue_url(QueueName="dedup-events-dead-letters")["QueueUrl"]
    for _ in range(2):
        sqs.send_message(QueueUrl=url, MessageBody="{}")
    access = aws.replace("http://", "sqs://test:test@")
    config = settings.Settings(event_broker_url=f"{access}//", s3_endpoint_url=aws)
    monkeypatch.setattr(collectors, "parts", collectors.Asked())
    collectors._register_shared(config)
    ask, _ = collectors.parts._parts["events"]
    (family,) = ask()
    found = {sample.labels["queue"]: sample.value for sample in family.samples}
    # The store says once that it could send (s3:TestEvent).
    assert found == {"dedup-events": 1, "dedup-events-dead-letters": 2}


def test_what_others_set_up_stays(aws: str) -> None:
    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    other = sqs.create_queue(QueueName="thumbnails")["QueueUrl"]
    other_arn = sqs.get_queue_attributes(QueueUrl=other, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    theirs = {
        "Id": "thumbnails",
        "QueueArn": other_arn,
        "Events": ["s3:ObjectCreated:Put"],
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "logos/"}]}},
    }
    s3.put_bucket_notification_configuration(
        Bucket="photos", NotificationConfiguration={"QueueConfigurations": [theirs]}
    )
    assert dedup("--bucket", "photos", "--prefix", "old/").returncode == 0
    url = sqs.get_queue_url(QueueName="dedup-events")["QueueUrl"]
    policy = {
        "Sid": "audit",
        "Effect": "Allow",
        "Principal": "*",
        "Action": "sqs:GetQueueUrl",
        "Resource": "*",
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": policy})
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": document, "DelaySeconds": "1"})
    assert dedup("--bucket", "photos", "--prefix", "properties/").returncode == 0
    found = everything()
    entries = {entry["Id"]: entry for entry in found["notification"]["QueueConfigurations"]}
    assert set(entries) == {"thumbnails", aws_policies.ID}
    assert entries["thumbnails"]["Filter"]["Key"]["FilterRules"][0]["Value"] == "logos/"
    assert entries[aws_policies.ID]["Filter"]["Key"]["FilterRules"][0]["Value"] == "properties/"
    statements = json.loads(found["queues"]["dedup-events"]["Policy"])["Statement"]
    assert [statement["Sid"] for statement in statements] == ["audit", "listing-dedup-s3-photos"]
    assert found["queues"]["dedup-events"]["DelaySeconds"] == "1"


def test_a_second_bucket_sends_to_the_same_queue(aws: str) -> None:
    boto3.client("s3").create_bucket(Bucket="more")
    for bucket in ("photos", "more", "photos"):
        assert dedup("--bucket", bucket).returncode == 0
    statements = json.loads(everything()["queues"]["dedup-events"]["Policy"])["Statement"]
    sources = [statement["Condition"]["ArnEquals"]["aws:SourceArn"] for statement in statements]
    assert sources == ["arn:aws:s3:::photos", "arn:aws:s3:::more"]


def test_changing_the_way_leaves_no_second_one(aws: str) -> None:
    for via in ("sqs", "sns", "eventbridge"):
        assert dedup("--bucket", "photos", "--via", via).returncode == 0
        entries = everything()["notification"]
        assert len(entries.get("QueueConfigurations", [])) == (via == "sqs")
        assert len(entries.get("TopicConfigurations", [])) == (via == "sns")
    assert dedup("--bucket", "photos").returncode == 0
    notification = everything()["notification"]
    assert [entry["Id"] for entry in notification["QueueConfigurations"]] == [aws_policies.ID]
    assert not notification.get("TopicConfigurations")


def test_the_workers_policy_names_what_they_touch_and_nothing_else(aws: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "policy.json"
    done = dedup(
        "--bucket", "photos", "--prefix", "properties/", "--iam-policy", str(path), DEDUP_BROKER_URL="sqs://"
    )
    assert done.returncode == 0, done.stderr
    rights = {
        statement["Sid"]: (set(statement["Action"]), statement["Resource"])
        for statement in json.loads(path.read_text())["Statement"]
    }
    assert rights["ReadPhotos"] == ({"s3:GetObject"}, ["arn:aws:s3:::photos/properties/*"])
    assert rights["TellWhatIsGone"] == ({"s3:ListBucket"}, ["arn:aws:s3:::photos"])
    assert rights["TakeEvents"][1] == ["arn:aws:sqs:us-east-1:123456789012:dedup-events"]
    assert "sqs:SendMessage" not in rights["TakeEvents"][0]
    assert rights["CountDeadEvents"] == (
        {"sqs:GetQueueUrl", "sqs:GetQueueAttributes"},
        ["arn:aws:sqs:us-east-1:123456789012:dedup-events-dead-letters"],
    )
    assert [arn.rpartition(":")[2] for arn in rights["CarryTasks"][1]] == [
        "embed", "embed-bulk", "match", "match-bulk", "dedup-dead-letters",
    ]  # fmt: skip
    # IAM itself reads it.
    boto3.client("iam").create_policy(PolicyName="dedup", PolicyDocument=path.read_text())


def test_a_dry_run_writes_no_policy(aws: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "policy.json"
    shown = dedup("--bucket", "photos", "--iam-policy", str(path), "--dry-run")
    assert f"would write {path}" in shown.stdout
    assert not path.exists()


def test_buckets_that_differ_at_their_ends_have_a_rule_each(aws: str) -> None:
    alike = "a" * 60
    for end in ("one", "two"):
        boto3.client("s3").create_bucket(Bucket=alike + end)
        done = dedup("--bucket", alike + end, "--via", "eventbridge")
        assert done.returncode == 0, done.stderr
    rules = boto3.client("events").list_rules()["Rules"]
    assert sorted(json.loads(rule["EventPattern"])["detail"]["bucket"]["name"][0] for rule in rules) == [
        alike + "one",
        alike + "two",
    ]
    assert {len(rule["Name"]) for rule in rules} == {64}


def test_a_target_that_is_not_taken_ends_the_setup(aws: str) -> None:
    wish = notification_setup.Wish("photos", "dedup-events", way="eventbridge")
    setup = notification_setup.Setup(settings.Settings(), wish)
    refused = {
        "FailedEntryCount": 1,
        "FailedEntries": [{"TargetId": "x", "ErrorCode": "ThrottlingException"}],
    }
    stub = stubs.Stubber(setup._events)
    stub.add_client_error("list_targets_by_rule", "ResourceNotFoundException")
    stub.add_response("put_targets", refused)
    with stub:
        step = setup._rule_target()
        assert step.change is not None
        with pytest.raises(errors.ConfigurationError, match="ThrottlingException"):
            step.change()


def test_a_missing_bucket_is_named(aws: str) -> None:
    shown = dedup("--bucket", "fotos")
    assert shown.returncode == 78
    assert "There is no bucket fotos" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert everything()["queues"] == {}
    made = dedup("--bucket", "fotos", "--create-bucket", DEDUP_S3_REGION="eu-west-1")
    assert made.returncode == 0, made.stderr
    assert boto3.client("s3").get_bucket_location(Bucket="fotos")["LocationConstraint"] == "eu-west-1"


def test_a_store_with_a_target_of_its_own_is_only_connected(aws: str) -> None:
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName="amqp")["QueueUrl"]
    target = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    for _ in range(2):
        done = dedup("--bucket", "photos", "--target-arn", target)
        assert done.returncode == 0, done.stderr
    found = everything()
    assert list(found["queues"]) == ["amqp"]
    assert [entry["QueueArn"] for entry in found["notification"]["QueueConfigurations"]] == [target]


def test_a_store_that_is_away_and_missing_credentials_are_told_apart(aws: str) -> None:
    command = [sys.executable, "-m", "workers", "setup", "s3", "--bucket", "photos"]

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **environment},
            check=False,
        )

    away = run(AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert away.returncode == 75, away.stderr
    # An empty file keeps the home folder's credentials out.
    nobody = run(
        AWS_ACCESS_KEY_ID="",
        AWS_SECRET_ACCESS_KEY="",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_CONFIG_FILE=os.devnull,
    )
    assert nobody.returncode == 78, nobody.stderr
    assert "credentials" in nobody.stderr
    assert "Traceback" not in away.stderr + nobody.stderr


def test_wrong_usage(aws: str) -> None:
    assert dedup("--bucket", "photos", "--via", "kafka").returncode == 2
    assert dedup().returncode == 2


def test_throttling_may_work_later() -> None:
    response = {
        "Error": {"Code": "ThrottlingException", "Message": "slow"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }
    with pytest.raises(errors.TransientError, match="try again later"), aws_errors.sorted_errors():
        raise boto3.client("sqs", region_name="us-east-1").exceptions.ClientError(response, "CreateQueue")
