from __future__ import annotations

import json
import subprocess
import sys

SECRET = "s3cret/of+forty%3Dcharacters"
PROGRAM = """
import logging, threading
import structlog
from workers import logs
logs.configure("info", "embed", ["postgresql://dedup:pass%2Fword-1@db/dedup", None, "amqp://guest:guest@broker//"])
log = structlog.get_logger()
with logs.bound(correlation_id="c"):
    log.info("ours", key="a.jpg")
logs.rebind(photo_id=7)
logging.getLogger("celery").error("theirs %s", "amqp://user:short@host//")
logs.rebind(photo_id=8)
threading.Thread(target=lambda: log.info("in a thread")).start()
try:
    raise ValueError("pass/word-1 and pass%2Fword-1 and SECRET")
except ValueError:
    log.exception("failed")
logging.getLogger("celery").info("of no concern")
""".replace("SECRET", SECRET)


def test_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env={"AWS_SECRET_ACCESS_KEY": SECRET, "PATH": ""},
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    ours, theirs, thread, failed = lines
    assert all(line["process"] == "embed" and line["timestamp"].endswith("Z") for line in lines)
    assert (ours["event"], ours["key"], ours["correlation_id"]) == ("ours", "a.jpg", "c")
    assert (theirs["event"], theirs["level"]) == ("theirs amqp://user:***@host//", "error")
    assert (theirs["photo_id"], "correlation_id" in theirs) == (7, False)
    assert "photo_id" not in thread
    assert (failed["photo_id"], "Traceback" in failed["exception"]) == (8, True)
    assert "ValueError: *** and *** and ***" in failed["exception"]
    assert not [secret for secret in ("word-1", SECRET, "short") if secret in done.stderr]
