"""boto3's errors as ours: what may work later, and what somebody must mend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import botocore.exceptions

from core import errors


@contextlib.contextmanager
def sorted_errors() -> Iterator[None]:
    """Errors of boto3 as ours, each with what to do."""
    try:
        yield
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        raise _sorted(error) from error


def _sorted(error: Exception) -> errors.DedupError:
    if isinstance(error, botocore.exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code", "")
        if status >= 500 or "Throttl" in code:
            return errors.TransientError(f"{error}; try again later.")
        return errors.ConfigurationError(
            f"{error}. See the rights of this login (docs/deploy.md), --bucket, --queue and DEDUP_S3_REGION."
        )
    if isinstance(error, (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError)):
        return errors.TransientError(f"{error}; see DEDUP_S3_ENDPOINT_URL.")
    return errors.ConfigurationError(f"{error}; see the AWS credentials and DEDUP_S3_REGION.")
