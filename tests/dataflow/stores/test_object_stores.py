"""Listings that stores give in pages: every object once, whatever the number."""

import math
import os
from urllib.parse import parse_qs, urlsplit

import pytest

from dataflow.stores.cloud_paths import listed_folder
from dataflow.stores.paths import location, objects_below
from tests.object_stores import BUCKET, object_store
from tests.store_proxy import before_the_store

PAGE = 7


@pytest.mark.parametrize("count", [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 2])
def test_pages_of_gs(count: int) -> None:
    with object_store("gs") as url, before_the_store() as proxy:
        folder = location(url) / "photos"
        sizes = {f"{number:03d}/a b.jpg": number % 5 for number in range(count)}
        for name, size in sizes.items():
            (folder / name).write_bytes(b"x" * size)
        (location(url) / "photos-not-these.txt").write_bytes(b"")
        proxy.page = PAGE
        proxy.asked.clear()
        assert {name: status.st_size for name, status in objects_below(folder).items()} == sizes
        asked = [parse_qs(urlsplit(request.partition(" ")[2]).query) for request in proxy.asked]
        assert len(asked) == math.ceil(count / PAGE) + (count > PAGE), "an empty page comes after the first"
        tokens = [query["pageToken"][0] for query in asked if "pageToken" in query]
        assert len(tokens) == len(asked) - 1 and len(set(tokens)) == len(tokens)
        assert [path.relative_to(folder).as_posix() for path in listed_folder(folder).rglob("*")] == sorted(sizes)


@pytest.mark.parametrize("count", [1000, 1001, 2345])
def test_pages_of_s3(count: int) -> None:
    import boto3
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    with object_store("s3") as url:
        sizes = {f"{number:04d}/a b.jpg": number % 5 for number in range(count)}
        for name, size in sizes.items():  # By requests this would take longer than all else.
            s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(BUCKET, f"photos/{name}", b"x" * size)
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(BUCKET, "photos-not-these.txt", b"")
        client = boto3.client("s3", region_name="us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
        page = client.list_objects_v2(Bucket=BUCKET, Prefix="photos/")
        assert page["IsTruncated"] == (count > 1000) and page["KeyCount"] == 1000
        folder = location(url) / "photos"
        assert {name: status.st_size for name, status in objects_below(folder).items()} == sizes
        assert [path.relative_to(folder).as_posix() for path in listed_folder(folder).rglob("*")] == sorted(sizes)
