"""Object stores: a UDF reads ``s3://`` with the endpoint and credentials of its canvas, and no others."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import httpx
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_bounds

from tests.conftest import Server
from tileserver.vault import Vault

READ = (
    "import fused\n@fused.udf\ndef udf(path: str = 's3://fused-sample/housing.csv'):\n"
    "    import pandas as pd\n    housing = pd.read_csv(path)\n"
    "    housing['price_per_area'] = housing['price'] / housing['area']\n    return housing\n"
)


@dataclass(frozen=True)
class Store:
    """An S3-compatible server, and who may read its bucket."""

    url: str
    key: str
    secret: str

    def canvas(self, name: str = "city") -> dict[str, str]:
        """A canvas whose UDF reads from it, once its secret is set."""
        settings = (
            f'[env]\nAWS_ENDPOINT_URL = "{self.url}"\nAWS_ACCESS_KEY_ID = "{self.key}"\n'
            'AWS_SECRET_ACCESS_KEY = "secret:S3_SECRET"\n'
        )
        return {f"{name}/read.py": READ, f"{name}/canvas.toml": settings}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        url = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        yield Store(url, **_filled(url))
    finally:
        process.kill()
        process.wait(10)
        process.stderr.close()


def _filled(url: str) -> dict[str, str]:
    """Put a table into a bucket, and let one user read it; from then on signatures are checked."""
    admin = boto3.Session("admin", "admin", region_name="us-east-1")
    files, users = admin.client("s3", endpoint_url=url), admin.client("iam", endpoint_url=url)
    files.create_bucket(Bucket="fused-sample")
    files.put_object(Bucket="fused-sample", Key="housing.csv", Body=b"price,area\n100,50\n90,30\n")
    users.create_user(UserName="reader")
    allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    users.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    made = users.create_access_key(UserName="reader")["AccessKey"]
    httpx.post(f"{url}/moto-api/reset-auth", content=b"0").raise_for_status()
    return {"key": made["AccessKeyId"], "secret": made["SecretAccessKey"]}


def set_secret(server: Server, canvas: str, value: str) -> None:
    vault = Vault(server.workspace / ".tileserver")
    vault.set(canvas, "S3_SECRET", value)
    vault.close()


def eventually(server: Server, path: str, status: int) -> httpx.Response:
    """The first answer of this status: another process's secret is seen within a second."""
    for _ in range(200):
        answer = server.get(path)
        if answer.status_code == status:
            return answer
    raise AssertionError(f"{answer.status_code}: {answer.text}")


def test_a_table_in_an_object_store_is_read(serve: Callable[..., Server], store: Store) -> None:
    """The first example of Fused's documentation, by endpoint and key in ``[env]`` and a stored secret."""
    server = serve(store.canvas())
    set_secret(server, "city", store.secret)

    answer = eventually(server, "/{city}/read.json", 200)

    assert answer.json() == [
        {"price": 100, "area": 50, "price_per_area": 2.0},
        {"price": 90, "area": 30, "price_per_area": 3.0},
    ]


def test_files_of_an_object_store_are_listed_read_and_signed(
    serve: Callable[..., Server], store: Store
) -> None:
    """Contract, section 13: ``fused.api`` with the paths of a store. A signed address names the key, for an
    hour, and never the secret; that it opens is for a real store to say, which moto is not."""
    source = (
        "@fused.udf\ndef udf(name: str = 's3://fused-sample/housing.csv'):\n"
        "    fused.api.upload(b'a,b', 's3://fused-sample/new/one.csv')\n"
        "    return [fused.api.list('s3://fused-sample/'), fused.api.get(name).decode(),\n"
        "            fused.api.delete('s3://fused-sample/new/one.csv'),\n"
        "            fused.api.sign_url(name), list(fused.api.sign_url_prefix('s3://fused-sample/'))]\n"
    )
    files = {**store.canvas(), "city/files.py": source}
    files["city/canvas.toml"] += 'AWS_DEFAULT_REGION = "eu-central-1"\n'
    server = serve(files)
    set_secret(server, "city", store.secret)

    entries, read, deleted, address, prefix = eventually(server, "/{city}/files.json", 200).json()

    assert sorted(entries) == ["s3://fused-sample/housing.csv", "s3://fused-sample/new/"]
    assert (read, deleted) == ("price,area\n100,50\n90,30\n", True)
    signed = httpx.URL(address)
    assert str(signed.copy_with(query=None)) == f"{store.url}/fused-sample/housing.csv"
    assert signed.params["X-Amz-Credential"].startswith(f"{store.key}/")
    assert (signed.params["X-Amz-Expires"], len(signed.params["X-Amz-Signature"])) == ("3600", 64)
    assert store.secret not in address
    assert prefix == ["s3://fused-sample/housing.csv"]


def test_a_changed_secret_is_used_by_the_next_run(serve: Callable[..., Server], store: Store) -> None:
    """Libraries keep connections with the credentials that they were made with: a worker that has another
    environment is not used again. What a wrong secret gives is the UDF's failure, and is not stored."""
    server = serve(store.canvas())
    set_secret(server, "city", store.secret)
    assert len(eventually(server, "/{city}/read.json", 200).json()) == 2

    set_secret(server, "city", "wrong")
    refused = eventually(server, "/{city}/read.json", 422)
    assert json.loads(refused.headers["x-fused-metadata"])["has_exception"]
    set_secret(server, "city", store.secret)
    assert len(eventually(server, "/{city}/read.json", 200).json()) == 2


def test_another_canvas_has_no_credentials(serve: Callable[..., Server], store: Store) -> None:
    """Neither its workers nor posted code read with the secret of this one."""
    server = serve({**store.canvas("city"), **store.canvas("sea")})
    set_secret(server, "city", store.secret)
    _, token = server.access.create_token()
    where = f"path, storage_options={{'endpoint_url': {store.url!r}}}"
    udf = {"code": READ.replace("read_csv(path", f"read_csv({where}"), "entrypoint": "udf"}
    body = {"step_config": json.dumps({"udf": udf}), "format": "json"}

    assert eventually(server, "/{city}/read.json", 200).json()
    sea = server.get("/{sea}/read.json")
    posted = server.get("/run/udf", "POST", json=body, headers={"authorization": f"Bearer {token}"})
    for answer in (sea, posted):
        assert answer.status_code == 422
        assert re.search("[Cc]redentials|Forbidden", answer.json()["detail"])


def test_a_raster_is_read_from_the_same_store(
    store: Store, serve: Callable[..., Server], tmp_path: Path
) -> None:
    """``tileserver.raster`` takes the canvas's variables as the other libraries do."""
    profile = {"count": 1, "width": 64, "height": 64, "dtype": "uint8", "crs": 4326}
    with rasterio.open(
        tmp_path / "a.tif", "w", **profile, driver="GTiff", transform=from_bounds(0, 0, 10, 10, 64, 64)
    ) as file:
        file.write(np.full((1, 64, 64), 77, np.uint8))
    bucket = boto3.client(
        *("s3", "us-east-1"),
        endpoint_url=store.url,
        aws_access_key_id=store.key,
        aws_secret_access_key=store.secret,
    )
    bucket.upload_file(str(tmp_path / "a.tif"), "fused-sample", "a.tif")
    source = (
        "from tileserver import raster\n@fused.udf\ndef udf():\n"
        "    return raster.read('s3://fused-sample/a.tif', [2, 2, 3, 3], 8)\n"
    )
    server = serve({**store.canvas(), "city/photo.py": source})
    set_secret(server, "city", store.secret)

    response = eventually(server, "/{city}/photo.npy", 200)

    assert (np.load(io.BytesIO(response.content)) == 77).all()
