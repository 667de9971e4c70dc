"""Folders that a server under another user can reach."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture
def open_tmp() -> Iterator[pathlib.Path]:
    """An empty folder with mode 0755; pytest's own tmp_path has parents that only its user can pass."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
