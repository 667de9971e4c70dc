"""The stack that all tests of this folder share; each test has a property of its own in it."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest

from core import settings
from workers import embedded

from . import brokers
from . import system as acceptance

TIMEOUT_SECONDS = 600
"""For one test, on a machine with much else to do; what is awaited has a shorter deadline of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder, which start many processes, more time than the others."""
    for item in items:
        if item.path.parent == pathlib.Path(__file__).parent and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_machine() -> Iterator[None]:
    """Take away settings that happen to be in the environment: the processes under test would inherit them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(settings.PREFIX)]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_counts() -> None:
    """A shell's script lets what it runs in the background ignore Ctrl-C, and the processes under test would, too."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def system(no_settings_of_the_machine: None) -> Iterator[acceptance.System]:
    """A running stack with two embed and two match workers."""
    folder = open_folder()
    with embedded.Stack(folder, acceptance.stack_environment()) as stack:
        for kind in ("embed", "match"):
            stack.start_worker(f"{kind}-2", kind)
        yield acceptance.System(stack)
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drop what a test left in the task queues, perhaps without anybody to take it: the next one must not wait."""
    yield
    if "system" in request.fixturenames:
        request.getfixturevalue("system").drop_tasks()


@pytest.fixture
def rabbitmq(system: acceptance.System, property_id: str) -> Iterator[brokers.Broker]:
    """RabbitMQ with nothing in it, and a bucket of the test's own, of which the test itself tells."""
    with brokers.rabbitmq(system, bucket=f"photos-{property_id.replace('_', '-')[:40]}") as broker:
        yield broker


@pytest.fixture
def data_dir() -> Iterator[pathlib.Path]:
    """An empty folder for a stack of the test's own."""
    folder = open_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def property_id(request: pytest.FixtureRequest) -> str:
    """A property that no other test uses."""
    return str(request.node.name).removeprefix("test_")


def open_folder() -> pathlib.Path:
    """A folder with mode 0755; pytest's own have parents that only their user can pass."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-acceptance-", dir="/tmp"))
    folder.chmod(0o755)
    return folder
