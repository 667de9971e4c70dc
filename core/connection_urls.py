"""URLs of database and brokers: they hold passwords, so they may come from files, and they say whom to trust."""

from __future__ import annotations

import pathlib
import urllib.parse
from collections.abc import Iterable, Mapping

from core import errors

FILE_SUFFIX = "_FILE"


def from_files(environment: Mapping[str, str | None], variables: Iterable[str]) -> dict[str, str]:
    """The values of those `variables` that name a file (``<VARIABLE>_FILE``), without the white space around them.

    Raises:
        ConfigurationError: a file cannot be read, or a variable is given both ways. Never with a value in the text.
    """
    found = {}
    for variable in variables:
        path = environment.get(variable + FILE_SUFFIX)
        if not path:
            continue
        if environment.get(variable):
            raise errors.ConfigurationError(
                f"{variable} and {variable}{FILE_SUFFIX} are both set; leave one of them out."
            )
        try:
            found[variable] = pathlib.Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise errors.ConfigurationError(
                f"{variable}{FILE_SUFFIX}: {path} cannot be read ({type(error).__name__}); it must hold the URL and "
                "nothing else, and be readable by this process."
            ) from error
    return found


def verified(url: str, authority: str) -> str:
    """A Postgres URL by which the server must prove its name, by a certificate that `authority` (a PEM file) signed.

    What the URL itself says of TLS stands (``sslmode``, ``sslrootcert``, ``sslcert``, ``sslkey``; see libpq's manual).
    """
    parts = urllib.parse.urlsplit(url)
    query = {"sslmode": "verify-full", "sslrootcert": authority}
    query.update(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    return parts._replace(query=urllib.parse.urlencode(query, quote_via=urllib.parse.quote)).geturl()
