"""`dedup setup`: what an installation needs of the services around it."""

from __future__ import annotations

import json
import pathlib
from typing import Annotated

import rich.console
import typer

from core import settings

_output = rich.console.Console(highlight=False)
_setup = typer.Typer(no_args_is_help=True, help="Set up the services around an installation.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_setup, name="setup")


@_setup.callback()
def _group() -> None:
    # Typer would take a single command for the group itself.
    pass


@_setup.command("s3")
def setup_s3(
    bucket: Annotated[str, typer.Option(help="Bucket of the photos.")],
    queue: Annotated[
        str | None, typer.Option(help="Queue of the events; default: DEDUP_EVENT_QUEUE.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    via: Annotated[
        str, typer.Option(help="sqs: straight into the queue; sns: by a topic; eventbridge: by a rule.")
    ] = "sqs",
    target_arn: Annotated[
        str | None,
        typer.Option(help="For other stores: their own target (AMQP), which the bucket is connected to."),
    ] = None,
    create_bucket: Annotated[
        bool, typer.Option("--create-bucket", help="Make the bucket if missing.")
    ] = False,
    iam_policy: Annotated[
        pathlib.Path | None,
        typer.Option(help="Write the workers' least rights as an IAM policy.", dir_okay=False, writable=True),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
) -> None:
    """Have a bucket tell of its photos: queue, dead-letter queue, policies, notification. Again does nothing."""
    from workers import aws_errors, aws_policies
    from workers import notification_setup as notifications

    if via not in ("sqs", "sns", "eventbridge"):
        raise typer.BadParameter("one of sqs, sns, eventbridge", param_hint="--via")
    config = settings.get()
    name = queue or config.event_queue
    wish = notifications.Wish(bucket, name, prefix, via, target_arn, create_bucket)  # type: ignore[arg-type]
    setup = notifications.Setup(config, wish)
    for step in setup.steps():
        if step.change is None:
            _say("ok   ", step.text)
        elif dry_run:
            _say("would", step.text)
        else:
            with aws_errors.sorted_errors():
                step.change()
            _say("done ", step.text)
    if target_arn is None:
        if iam_policy is not None:
            tasks = config.broker_url.startswith("sqs")
            policy = aws_policies.worker_policy([bucket], prefix, setup.queue_arn, tasks_on_sqs=tasks)
            if not dry_run:
                iam_policy.write_text(json.dumps(policy, indent=2) + "\n", encoding="utf-8")
            _say("would write" if dry_run else "wrote", str(iam_policy))
        _say("", f"DEDUP_EVENT_BROKER_URL=sqs:// DEDUP_EVENT_QUEUE={name} DEDUP_BUCKETS={bucket}")


def _say(word: str, text: str) -> None:
    _output.print(f"{word} {text}".strip(), markup=False, soft_wrap=True)
