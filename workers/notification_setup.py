"""Getting a store to tell of its photos: queue, dead-letter queue, policies and the bucket's notification.

Each part is compared with what there is, and only what is missing or differs is changed, so that a second run does
nothing. What others have set up on the same bucket, queue, topic or rule stays. Each policy names one source, after
https://docs.aws.amazon.com/AmazonS3/latest/userguide/grant-destinations-permissions-to-s3.html.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import boto3
import botocore.exceptions

from core import errors, objects, settings
from workers import app, aws_errors, aws_policies

Way = Literal["sqs", "sns", "eventbridge"]
EVENTS = ("s3:ObjectCreated:*", "s3:ObjectRemoved:*")
ID = aws_policies.ID

MOST_RECEIVES = 1000
"""SQS' most. Ingest holds a message through an outage and SQS counts each time that it becomes visible again
meanwhile; what ingest can't read it puts on record by itself. So only what kills ingest ends as a dead letter."""

_RULE_NAME = 64  # EventBridge's longest; a bucket's is 63
_KEPT_SECONDS = 14 * 86_400  # SQS' longest


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is to be set up. `target_arn`: the store's own target (AMQP), to which the bucket is only connected."""

    bucket: str
    queue: str
    prefix: str = ""
    way: Way = "sqs"
    target_arn: str | None = None
    create_bucket: bool = False


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that must be so; `change` makes it so, or is None where it is already."""

    text: str
    change: Callable[[], object] | None


class Setup:
    """Looks at an account and says what is to be changed. Clients are those of boto3's own settings."""

    def __init__(self, config: settings.Settings, wish: Wish) -> None:
        self._config = config
        self._wish = wish
        self._s3 = objects.client(config)
        if wish.target_arn is not None:
            return
        region = {"region_name": config.s3_region}
        self._sqs = boto3.client("sqs", **region)
        self._sns = boto3.client("sns", **region)
        self._events = boto3.client("events", **region)
        with aws_errors.sorted_errors():
            identity = boto3.client("sts", **region).get_caller_identity()
        self.account = identity["Account"]
        self._partition = identity["Arn"].split(":")[1]

    def steps(self) -> Iterator[Step]:
        """What must be so, in the order in which it can be made. Look at one only after the one before is done.

        Raises:
            ConfigurationError: a right, the bucket or the credentials are missing.
            TransientError: the service is away.
        """
        with aws_errors.sorted_errors():
            yield self._bucket()
        if self._wish.target_arn is not None:
            with aws_errors.sorted_errors():
                yield self._notification("Queue", self._wish.target_arn)
            return
        for step in (self._dead_letter_queue, self._queue, self._queue_policy, *self._route()):
            with aws_errors.sorted_errors():
                yield step()

    def arn(self, service: str, name: str) -> str:
        """The name of a resource in this account and region."""
        return f"arn:{self._partition}:{service}:{self._config.s3_region}:{self.account}:{name}"

    @property
    def bucket_arn(self) -> str:
        """The bucket's name for policies."""
        return f"arn:{self._partition}:s3:::{self._wish.bucket}"

    @property
    def queue_arn(self) -> str:
        """The event queue's name for policies."""
        return self.arn("sqs", self._wish.queue)

    def _route(self) -> list[Callable[[], Step]]:
        if self._wish.way == "sns":
            topic = self.arn("sns", self._wish.queue)
            return [
                self._topic,
                self._topic_policy,
                self._subscription,
                lambda: self._notification("Topic", topic),
            ]
        if self._wish.way == "eventbridge":
            return [self._rule, self._rule_target, self._event_bridge]
        return [lambda: self._notification("Queue", self.queue_arn)]

    def _bucket(self) -> Step:
        name, region = self._wish.bucket, self._config.s3_region
        try:
            self._s3.head_bucket(Bucket=name)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in {"404", "NoSuchBucket"}:
                raise
            if not self._wish.create_bucket:
                raise errors.ConfigurationError(
                    f"There is no bucket {name}; see --bucket and DEDUP_S3_ENDPOINT_URL, or add --create-bucket."
                ) from error
            # The oldest region is the only one that must not be named.
            place = (
                {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            )
            return Step(f"bucket {name}", lambda: self._s3.create_bucket(Bucket=name, **place))
        return Step(f"bucket {name}", None)

    def _dead_letter_queue(self) -> Step:
        return self._queue_with(
            _dead_letters(self._wish.queue), {"MessageRetentionPeriod": str(_KEPT_SECONDS)}
        )

    def _queue(self) -> Step:
        redrive = {
            "deadLetterTargetArn": self.arn("sqs", _dead_letters(self._wish.queue)),
            "maxReceiveCount": MOST_RECEIVES,
        }
        wanted = {
            "MessageRetentionPeriod": str(_KEPT_SECONDS),
            "VisibilityTimeout": str(self._config.visibility_timeout_seconds),
            "RedrivePolicy": json.dumps(redrive),
        }
        return self._queue_with(self._wish.queue, wanted)

    def _queue_with(self, name: str, wanted: Mapping[str, str]) -> Step:
        try:
            url = self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
        except self._sqs.exceptions.QueueDoesNotExist:
            create = {"QueueName": name, "Attributes": dict(wanted)}
            return Step(f"queue {name}", lambda: self._sqs.create_queue(**create))
        found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        differing = {
            key: value for key, value in wanted.items() if not aws_policies.same(found.get(key), value)
        }
        if not differing:
            return Step(f"queue {name}", None)
        what = ", ".join(f"{key}={value}" for key, value in differing.items())
        return Step(
            f"queue {name}: {what}",
            lambda: self._sqs.set_queue_attributes(QueueUrl=url, Attributes=differing),
        )

    def _queue_policy(self) -> Step:
        sources = {
            "sqs": ("s3", self.bucket_arn),
            "sns": ("sns", self.arn("sns", self._wish.queue)),
            "eventbridge": ("events", self.arn("events", f"rule/{self._rule_name}")),
        }
        service, source = sources[self._wish.way]
        text = f"queue {self._wish.queue}: only {source} may send to it"
        statement = aws_policies.service_statement(
            service, source, "sqs:SendMessage", self.queue_arn, self.account
        )
        try:
            url = self._sqs.get_queue_url(QueueName=self._wish.queue)["QueueUrl"]
        except self._sqs.exceptions.QueueDoesNotExist:  # a dry run, in which it was not created
            return Step(text, lambda: None)
        found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"]).get("Attributes", {})
        policy = aws_policies.with_statement(found.get("Policy"), statement)
        if policy is None:
            return Step(text, None)
        return Step(text, lambda: self._sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy}))

    def _topic(self) -> Step:
        name = self._wish.queue
        if self._topic_attributes() is not None:
            return Step(f"topic {name}", None)
        return Step(f"topic {name}", lambda: self._sns.create_topic(Name=name))

    def _topic_attributes(self) -> dict[str, str] | None:
        try:
            answer = self._sns.get_topic_attributes(TopicArn=self.arn("sns", self._wish.queue))
        except self._sns.exceptions.NotFoundException:
            return None
        return dict(answer["Attributes"])

    def _topic_policy(self) -> Step:
        topic = self.arn("sns", self._wish.queue)
        statement = aws_policies.service_statement("s3", self.bucket_arn, "sns:Publish", topic, self.account)
        policy = aws_policies.with_statement((self._topic_attributes() or {}).get("Policy"), statement)
        text = f"topic {self._wish.queue}: {self.bucket_arn} may publish to it"
        if policy is None:
            return Step(text, None)
        return Step(
            text,
            lambda: self._sns.set_topic_attributes(
                TopicArn=topic, AttributeName="Policy", AttributeValue=policy
            ),
        )

    def _subscription(self) -> Step:
        topic = self.arn("sns", self._wish.queue)
        text = f"topic {self._wish.queue}: queue {self._wish.queue} is subscribed"
        if self._topic_attributes() is not None:
            pages = self._sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
            if any(entry["Endpoint"] == self.queue_arn for page in pages for entry in page["Subscriptions"]):
                return Step(text, None)
        return Step(
            text, lambda: self._sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=self.queue_arn)
        )

    @property
    def _rule_name(self) -> str:
        name = f"{ID}-{self._wish.bucket}"
        if len(name) <= _RULE_NAME:
            return name
        # Buckets that differ at their ends alone must not share a rule.
        digest = hashlib.sha256(self._wish.bucket.encode()).hexdigest()[:8]
        return f"{name[: _RULE_NAME - 9]}-{digest}"

    def _rule(self) -> Step:
        detail: dict[str, Any] = {"bucket": {"name": [self._wish.bucket]}}
        if self._wish.prefix:
            detail["object"] = {"key": [{"prefix": self._wish.prefix}]}
        pattern = {
            "source": ["aws.s3"],
            "detail-type": ["Object Created", "Object Deleted"],
            "detail": detail,
        }
        text = f"rule {self._rule_name}"
        with contextlib.suppress(self._events.exceptions.ResourceNotFoundException):
            found = self._events.describe_rule(Name=self._rule_name)
            if found.get("State") == "ENABLED" and aws_policies.same(
                found.get("EventPattern"), json.dumps(pattern)
            ):
                return Step(text, None)
        rule = {"Name": self._rule_name, "EventPattern": json.dumps(pattern), "State": "ENABLED"}
        return Step(text, lambda: self._events.put_rule(**rule))

    def _rule_target(self) -> Step:
        text = f"rule {self._rule_name}: sends to queue {self._wish.queue}"
        with contextlib.suppress(self._events.exceptions.ResourceNotFoundException):
            targets = self._events.list_targets_by_rule(Rule=self._rule_name)["Targets"]
            if any((target["Id"], target["Arn"]) == (ID, self.queue_arn) for target in targets):
                return Step(text, None)
        target = {"Id": ID, "Arn": self.queue_arn}
        return Step(text, lambda: self._put_target(target))

    def _put_target(self, target: Mapping[str, str]) -> None:
        answer = self._events.put_targets(Rule=self._rule_name, Targets=[dict(target)])
        # The request itself succeeds all the same.
        if answer["FailedEntryCount"]:
            raise errors.ConfigurationError(
                f"Rule {self._rule_name} does not take {target['Arn']} as its target: {answer['FailedEntries']}"
            )

    def _event_bridge(self) -> Step:
        found = self._found_notifications()
        others = _without_ours(found)
        text = f"bucket {self._wish.bucket}: sends its events to EventBridge"
        if "EventBridgeConfiguration" in found and others == found:
            return Step(text, None)
        return Step(text, lambda: self._put_notifications({**others, "EventBridgeConfiguration": {}}))

    def _notification(self, kind: Literal["Queue", "Topic"], target: str) -> Step:
        wanted: dict[str, Any] = {"Id": ID, f"{kind}Arn": target, "Events": list(EVENTS)}
        if self._wish.prefix:
            wanted["Filter"] = {"Key": {"FilterRules": [{"Name": "prefix", "Value": self._wish.prefix}]}}
        text = f"bucket {self._wish.bucket}: sends {' and '.join(EVENTS)} to {target}"
        found = self._found_notifications()
        if any(_same_notification(entry, wanted) for entry in found.get(f"{kind}Configurations", ())):
            return Step(text, None)
        others = _without_ours(found)
        others[f"{kind}Configurations"] = [*others.get(f"{kind}Configurations", []), wanted]
        return Step(text, lambda: self._put_notifications(others))

    def _found_notifications(self) -> dict[str, Any]:
        try:
            found = self._s3.get_bucket_notification_configuration(Bucket=self._wish.bucket)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in {
                "404",
                "NoSuchBucket",
            }:  # a dry run, in which it was not created
                return {}
            raise
        return {key: value for key, value in found.items() if key != "ResponseMetadata"}

    def _put_notifications(self, configuration: Mapping[str, Any]) -> None:
        self._s3.put_bucket_notification_configuration(
            Bucket=self._wish.bucket, NotificationConfiguration=dict(configuration)
        )


def _dead_letters(queue: str) -> str:
    return app.EVENT_DEAD_LETTERS.format(queue=queue)


def _without_ours(found: Mapping[str, Any]) -> dict[str, Any]:
    # An entry of ours may be of another kind, from before the way was changed: events would come twice.
    return {
        key: [entry for entry in value if entry.get("Id") != ID] if isinstance(value, list) else value
        for key, value in found.items()
    }


def _same_notification(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    def comparable(entry: Mapping[str, Any]) -> dict[str, Any]:
        rules = entry.get("Filter", {}).get("Key", {}).get("FilterRules", [])
        # Stores differ in how they write the rule's name back (prefix, Prefix).
        filters = sorted((rule["Name"].lower(), rule["Value"]) for rule in rules)
        return {**entry, "Events": sorted(entry["Events"]), "Filter": filters}

    return comparable(found) == comparable(wanted)
