from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from workers import embedded_host, embedded_s3

ROOT = pathlib.Path(__file__).parents[2]
KEY = "properties/42/a+b é #1.jpg"
START = """
import pathlib, sys, time
from workers import embedded_s3
server = embedded_s3.EmbeddedS3(pathlib.Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server(open_tmp: pathlib.Path) -> Iterator[embedded_s3.EmbeddedS3]:
    server = embedded_s3.EmbeddedS3(open_tmp)
    assert server.start()
    yield server
    server.stop()


def client(service: str, server: embedded_s3.EmbeddedS3) -> Any:
    return boto3.client(
        service,
        endpoint_url=server.endpoint_url,
        region_name=embedded_s3.REGION,
        aws_access_key_id=embedded_s3.ACCESS_KEY_ID,
        aws_secret_access_key=embedded_s3.SECRET_ACCESS_KEY,
    )


def events(server: embedded_s3.EmbeddedS3) -> list[tuple[str, str, str]]:
    """Take all waiting events off the queue: name, key, ETag."""
    queue = client("sqs", server)
    found = []
    while messages := queue.receive_message(QueueUrl=server.queue_url, MaxNumberOfMessages=10).get(
        "Messages"
    ):
        for message in messages:
            queue.delete_message(QueueUrl=server.queue_url, ReceiptHandle=message["ReceiptHandle"])
            for record in json.loads(message["Body"]).get("Records", []):
                item = record["s3"]["object"]
                found.append((record["eventName"], urllib.parse.unquote_plus(item["key"]), item["eTag"]))
    return found


def kill(server: embedded_s3.EmbeddedS3) -> None:
    process = server._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def keys(store: Any) -> list[str]:
    return [item["Key"] for item in store.list_objects_v2(Bucket="photos").get("Contents", [])]


def test_put_and_delete_raise_events_under_the_prefix(server: embedded_s3.EmbeddedS3) -> None:
    store = client("s3", server)
    etag = store.put_object(Bucket="photos", Key=KEY, Body=b"photo")["ETag"].strip('"')
    store.put_object(Bucket="photos", Key="elsewhere/1.jpg", Body=b"photo")
    assert events(server) == [("ObjectCreated:Put", KEY, etag)]
    store.delete_object(Bucket="photos", Key=KEY)
    assert events(server) == [("ObjectRemoved:Delete", KEY, etag)]


def test_kill_loses_no_object_and_raises_events_again(server: embedded_s3.EmbeddedS3) -> None:
    store = client("s3", server)
    body = bytes(range(256)) * 4096
    etag = store.put_object(
        Bucket="photos", Key=KEY, Body=body, ContentType="image/jpeg", Metadata={"agent": "7"}
    )["ETag"]
    before = store.head_object(Bucket="photos", Key=KEY)
    url = server.endpoint_url
    kill(server)
    assert not server.is_alive()
    assert server.start()
    assert server.endpoint_url == url
    assert events(server) == [("ObjectCreated:Put", KEY, etag.strip('"'))]
    after = store.get_object(Bucket="photos", Key=KEY)
    assert after["Body"].read() == body
    for name in ("ContentType", "ContentLength", "ETag", "Metadata", "LastModified"):
        assert after[name] == before[name]
    ranged = store.get_object(Bucket="photos", Key=KEY, Range="bytes=256-259")
    assert ranged["Body"].read() == b"\x00\x01\x02\x03"


def test_every_way_to_write_is_kept(server: embedded_s3.EmbeddedS3, open_tmp: pathlib.Path) -> None:
    store = client("s3", server)
    store.put_object(Bucket="photos", Key="properties/1/old.jpg", Body=b"old")
    store.put_object(Bucket="photos", Key="properties/1/old.jpg", Body=b"new")
    source = {"Bucket": "photos", "Key": "properties/1/old.jpg"}
    store.copy_object(Bucket="photos", Key="properties/1/copy.jpg", CopySource=source)
    long_key = "properties/1/" + "é" * 400
    store.put_object(Bucket="photos", Key=long_key, Body=b"long")
    upload = store.create_multipart_upload(Bucket="photos", Key="properties/1/parts.jpg")["UploadId"]
    part = {"Bucket": "photos", "Key": "properties/1/parts.jpg", "UploadId": upload}
    etag = store.upload_part(**part, PartNumber=1, Body=b"parts")["ETag"]
    whole = store.complete_multipart_upload(
        **part, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}
    )["ETag"]
    with socket.create_connection((embedded_host.HOST, int(server.endpoint_url.rsplit(":", 1)[1]))):
        pass  # a client that hangs up does no harm
    kill(server)
    server.start()
    contents = {key: store.get_object(Bucket="photos", Key=key)["Body"].read() for key in keys(store)}
    assert contents == {
        "properties/1/old.jpg": b"new",
        "properties/1/copy.jpg": b"new",
        long_key: b"long",
        "properties/1/parts.jpg": b"parts",
    }
    assert store.head_object(Bucket="photos", Key="properties/1/parts.jpg")["ETag"] == whole
    objects = [{"Key": key} for key in contents if key != long_key]
    store.delete_objects(Bucket="photos", Delete={"Objects": objects})
    store.delete_object(Bucket="photos", Key=long_key)
    assert keys(store) == []
    assert list((open_tmp / "s3" / "objects" / "photos").glob("*.object")) == []
    kill(server)
    server.start()
    # Events of removals that were lost in memory are raised again.
    assert sorted(events(server)) == sorted(("ObjectRemoved:Delete", key, "") for key in contents)
    assert keys(store) == []


def test_damaged_file_does_not_stop_the_start(server: embedded_s3.EmbeddedS3, open_tmp: pathlib.Path) -> None:
    store = client("s3", server)
    store.put_object(Bucket="photos", Key=KEY, Body=b"photo")
    (open_tmp / "s3" / "objects" / "photos" / "broken.object").write_bytes(b"")
    kill(server)
    server.start()
    assert keys(store) == [KEY]


def test_stranger_on_the_port_is_not_ours(server: embedded_s3.EmbeddedS3) -> None:
    port = int(server.endpoint_url.rsplit(":", 1)[1])
    server.stop()
    with socket.create_server((embedded_host.HOST, port)):
        assert server.start()
        assert not server.endpoint_url.endswith(f":{port}")
        assert server.is_alive()


def test_second_starter_finds_it_and_it_ends_with_the_first(open_tmp: pathlib.Path) -> None:
    command = [sys.executable, "-c", START, str(open_tmp)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "True\n"
        second = embedded_s3.EmbeddedS3(open_tmp)
        assert not second.start()
        starter.kill()
    assert embedded_host.wait_until(lambda: not second.is_alive(), 20)
    assert second.start()
    second.stop()
    assert not second.is_alive()


def test_setting_it_up_again_adds_no_second_notification(server: embedded_s3.EmbeddedS3) -> None:
    setup = subprocess.run(
        [
            *(sys.executable, "-m", "workers", "setup", "s3", "--bucket", server.bucket),
            f"--target-arn=arn:aws:sqs:{embedded_s3.REGION}:123456789012:{server.queue}",
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "DEDUP_S3_ENDPOINT_URL": server.endpoint_url,
            "AWS_ACCESS_KEY_ID": embedded_s3.ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": embedded_s3.SECRET_ACCESS_KEY,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert setup.returncode == 0, setup.stderr
    client("s3", server).put_object(Bucket=server.bucket, Key=KEY, Body=b"x")
    assert len(events(server)) == 1
