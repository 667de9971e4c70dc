"""kombu's SQS and pgmq, so that a process that ends gives back what it was given, and gives it back once.

As kombu has them, a task that is given back to SQS is sent again as a copy while the original is still in flight: after
its visibility timeout there are two of it, each with a count of its own, so that neither ever reaches the dead-letter
queue. And what a worker that is told to stop has received and not begun waits for that timeout on both.
"""

from __future__ import annotations

from typing import Any

import structlog
from kombu.transport import SQS, pgmq

from workers import stopping

log = structlog.get_logger()


class SqsChannel(SQS.Channel):
    """Gives a message back by making it visible again.

    A consumer's poll may be under way: were the message visible at once, the process that ends would get it once more.
    """

    _consumes = False

    def basic_consume(self, *args: Any, **kwargs: Any) -> Any:
        """Called by kombu for a consumer."""
        self._consumes = True
        return super().basic_consume(*args, **kwargs)

    def close(self) -> None:
        """Called by kombu when the process ends, and when the connection is lost: then the tasks in hand go on."""
        self.qos.restore_at_shutdown = stopping.process.told
        super().close()

    def _restore(self, message: Any) -> None:
        info = message.delivery_info
        try:
            self.sqs(queue=self.canonical_queue_name(info["routing_key"])).change_message_visibility(
                QueueUrl=info["sqs_queue"],
                ReceiptHandle=info["sqs_message"]["ReceiptHandle"],
                VisibilityTimeout=self.wait_time_seconds + 2 if self._consumes else 0,
            )
        except Exception as error:  # noqa: BLE001 - it comes back after its visibility timeout
            log.warning("message_not_given_back", error=f"{type(error).__name__}: {error}")


class PgmqChannel(pgmq.Channel):
    """Gives messages back at the end, too."""

    def close(self) -> None:
        """As that of SQS."""
        self.qos.restore_at_shutdown = stopping.process.told
        super().close()

    def _restore(self, message: Any) -> None:
        try:
            super()._restore(message)
        except Exception as error:  # noqa: BLE001 - it comes back after its visibility timeout
            log.warning("message_not_given_back", error=f"{type(error).__name__}: {error}")


class Sqs(SQS.Transport):
    """`sqs://`"""

    Channel = SqsChannel


class Pgmq(pgmq.Transport):
    """`pgmq://`"""

    Channel = PgmqChannel
