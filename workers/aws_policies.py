"""AWS' policy documents: who may send to a queue or a topic, and the least rights that the workers need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from workers import app

ID = "listing-dedup"
"""Marks what is ours among other notifications, statements and targets."""

_VERSION = "2012-10-17"
_TAKE = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility")
_LOOK = ("sqs:GetQueueUrl", "sqs:GetQueueAttributes")


def service_statement(service: str, source: str, action: str, resource: str, account: str) -> dict[str, Any]:
    """A statement by which one `source` of an AWS service may do one thing to one resource."""
    condition: dict[str, Any] = {"ArnEquals": {"aws:SourceArn": source}}
    if service == "s3":
        # A bucket's name says nothing of its owner, and is free again when the bucket is gone.
        condition["StringEquals"] = {"aws:SourceAccount": account}
    return {
        "Sid": f"{ID}-{service}-{source.rpartition(':')[2].replace('/', '-')}",
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": action,
        "Resource": resource,
        "Condition": condition,
    }


def with_statement(policy: str | None, statement: Mapping[str, Any]) -> str | None:
    """The policy with the statement in place of one of the same Sid; None when nothing would change."""
    document: dict[str, Any] = json.loads(policy) if policy else {"Version": _VERSION, "Statement": []}
    statements = document["Statement"]
    # AWS takes a single statement without a list around it.
    statements = [statements] if isinstance(statements, dict) else statements
    if dict(statement) in statements:
        return None
    kept = [entry for entry in statements if entry.get("Sid") != statement["Sid"]]
    return json.dumps({**document, "Statement": [*kept, dict(statement)]})


def same(found: str | None, wanted: str) -> bool:
    """Whether two attributes say the same, be they plain or JSON."""
    if found == wanted:
        return True
    try:
        return found is not None and _plain(json.loads(found)) == _plain(json.loads(wanted))
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    # SQS gives numbers inside its policies back as text.
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else str(value)


def worker_policy(
    buckets: Iterable[str], prefix: str, event_queue_arn: str, *, tasks_on_sqs: bool
) -> dict[str, Any]:
    """The least rights of the workers' login, as an IAM policy.

    Without ``s3:ListBucket`` S3 says "forbidden" instead of "not found" of a photo that is gone. kombu finds queues by
    ``sqs:ListQueues``, which knows no narrower resource.
    """
    partition = event_queue_arn.split(":")[1]
    arns = [f"arn:{partition}:s3:::{bucket}" for bucket in buckets]
    statements = [
        _allow("ReadPhotos", ["s3:GetObject"], [f"{arn}/{prefix}*" for arn in arns]),
        _allow("TellWhatIsGone", ["s3:ListBucket"], arns),
        _allow("TakeEvents", [*_TAKE, *_LOOK], [event_queue_arn]),
        _allow("CountDeadEvents", [*_LOOK], [app.EVENT_DEAD_LETTERS.format(queue=event_queue_arn)]),
        _allow("FindQueues", ["sqs:ListQueues"], ["*"]),
    ]
    if tasks_on_sqs:
        place = event_queue_arn.rpartition(":")[0]
        # As kombu writes them: SQS takes no dots.
        names = [name.replace(".", "-") for name in (*app.TASK_QUEUES, app.DEAD_LETTERS)]
        rights = ["sqs:SendMessage", *_TAKE, *_LOOK, "sqs:CreateQueue", "sqs:SetQueueAttributes"]
        statements.append(_allow("CarryTasks", rights, [f"{place}:{name}" for name in names]))
    return {"Version": _VERSION, "Statement": statements}


def _allow(sid: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
