"""Sources behind s3://, against a real server that speaks S3's protocol over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from imgrec.config import DataConfig
from imgrec.data.parallel import end_decoders
from imgrec.data.store import find_store, prepare_store
from tests.conftest import no_progress
from tests.unit.data.sources.made import (
    as_csv,
    as_folder,
    as_hugging_face,
    refuse_other_data,
    stored,
)

pytestmark = [
    # Other people's code, which we cannot cure:
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(moto|botocore|aiobotocore).*"),
    pytest.mark.filterwarnings("ignore:.*utcnow:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bucket `pictures` that holds the same data three times; yields what it was filled from."""
    import s3fs

    folder = tmp_path_factory.mktemp("bucket")
    for build in (as_folder, as_csv, as_hugging_face):
        (folder / build.__name__).mkdir()
        build(folder / build.__name__)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        end_decoders()  # they would not know the environment
        filesystem = s3fs.S3FileSystem()
        filesystem.mkdir("pictures")
        filesystem.put(str(folder) + "/", "pictures/", recursive=True)
        yield folder
    end_decoders()
    server.stop()


def test_an_empty_object_goes_to_quarantine(bucket: Path, tmp_path: Path) -> None:
    """Of nothing S3 has no part to give; that must not end the scan."""
    import s3fs

    table = bucket / "as_csv" / "table.csv"
    text = table.read_text(encoding="utf-8").replace("photos/", "s3://pictures/as_csv/photos/")
    s3fs.S3FileSystem().pipe_file("pictures/nothing/empty.png", b"")
    here = tmp_path / "table.csv"
    here.write_text(text + "s3://pictures/nothing/empty.png,left,train\n", encoding="utf-8")
    (rejected,) = stored(str(here), tmp_path).rejected()

    assert rejected.reason == "empty file"


@pytest.mark.parametrize(
    "url",
    [
        "s3://pictures/as_folder/photos",
        "s3://pictures/as_csv/table.csv",
        "s3://pictures/as_hugging_face/hf/data/*.parquet",
    ],
)
def test_a_bucket_holds_the_same_data_as_the_disk(bucket: Path, url: str, tmp_path: Path) -> None:
    """A folder, a table with relative paths, and parquet files with the pictures inside."""
    reference = stored(str(bucket / "as_folder" / "photos"), tmp_path / "local")
    store = stored(url, tmp_path)

    refuse_other_data(store, reference)
    config = DataConfig(source=url)
    found = find_store(config, tmp_path / "storage")
    assert found
    assert found.folder == store.folder
    again = prepare_store(config, tmp_path / "storage", progress=no_progress)
    assert again.folder == store.folder
