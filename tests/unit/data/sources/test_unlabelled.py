"""Pictures of which nothing says what they show: to be recognized, whatever kind of source they come from."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from imgrec.config import DataConfig
from imgrec.data.sources import open_source
from imgrec.errors import DataError
from tests.unit.data.sources.made import EVERY, Build, add, each_picture, png

NAMES = ("a b.png", "deep/1.png", "deep/2.png")
CONTENTS = [png(0, number) for number in range(3)]


def files(folder: Path) -> Path:
    """Beside them lies what is no picture."""
    for name, content in zip(NAMES, CONTENTS, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "notes.txt").write_text("no picture")
    (folder / "deep" / "._1.png").write_bytes(b"left by a desktop")
    return folder


def as_folder(folder: Path) -> str:
    return str(files(folder / "photos"))


def as_list(folder: Path) -> str:
    files(folder)
    (folder / "list.txt").write_text("\n".join(NAMES) + "\n")
    return str(folder / "list.txt")


def as_csv(folder: Path) -> str:
    files(folder)
    rows = "".join(f"{name},{number}\n" for number, name in enumerate(NAMES))
    (folder / "table.csv").write_text(f"file,taken\n{rows}")
    return str(folder / "table.csv")


def as_json_lines(folder: Path) -> str:
    files(folder)
    (folder / "t.jsonl").write_text("".join(f'{{"path": "{name}"}}\n' for name in NAMES))
    return str(folder / "t.jsonl")


def as_parquet(folder: Path) -> str:
    table = pa.table({"image": [{"bytes": content, "path": None} for content in CONTENTS]})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=2)
    return str(folder / "rows.parquet")


def as_folder_of_parquet(folder: Path) -> str:
    (folder / "shards").mkdir()
    for number, content in enumerate(CONTENTS):
        parquet.write_table(pa.table({"jpg": [content]}), folder / "shards" / f"{number}.parquet")
    return str(folder / "shards")


def as_tar(folder: Path) -> str:
    with tarfile.open(folder / "some.tar", "w") as tar:
        for name, content in zip(NAMES, CONTENTS, strict=True):
            add(tar, name, content)
        add(tar, "notes.txt", b"no picture")
        add(tar, "deep/._1.png", b"left by a desktop")
    return str(folder / "some.tar")


def as_zip(folder: Path) -> str:
    with zipfile.ZipFile(folder / "some.zip", "w") as packed:
        for name, content in zip(NAMES, CONTENTS, strict=True):
            packed.writestr(name, content)
    return str(folder / "some.zip")


def as_compressed(folder: Path) -> str:
    with tarfile.open(folder / "some.tar.gz", "w:gz") as tar:
        for name, content in zip(NAMES, CONTENTS, strict=True):
            add(tar, name, content)
    return str(folder / "some.tar.gz")


def as_saved(folder: Path) -> str:
    """As `save_to_disk` writes it."""
    table = pa.table({"image": [{"bytes": content, "path": None} for content in CONTENTS]})
    where = folder / "saved"
    where.mkdir()
    with (
        pa.OSFile(str(where / "data.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    (where / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (where / "dataset_info.json").write_text("{}")
    return str(where)


WITHOUT = (
    as_folder,
    as_list,
    as_csv,
    as_json_lines,
    as_parquet,
    as_folder_of_parquet,
    as_tar,
    as_zip,
    as_compressed,
    as_saved,
)


@pytest.mark.parametrize("build", WITHOUT)
def test_pictures_without_a_class_come_from_every_kind_of_source(
    build: Callable[[Path], str], tmp_path: Path
) -> None:
    """All of them in their order, and nothing else; each has a name of its own."""
    source = open_source(DataConfig(source=build(tmp_path)), tmp_path / "downloads")
    pictures = list(source.pictures())

    assert [content.read() for _, content in pictures] == CONTENTS
    assert len({name for name, _ in pictures}) == 3


def test_pictures_without_a_class_come_from_the_web(web: tuple[Path, str], tmp_path: Path) -> None:
    """A table there, and a folder packed there."""
    folder, address = web
    as_csv(folder)
    as_tar(folder)
    for name in ("table.csv", "some.tar"):
        source = open_source(DataConfig(source=f"{address}/{name}"), tmp_path)
        assert [content.read() for _, content in source.pictures()] == CONTENTS


@pytest.mark.parametrize("build", EVERY)
def test_pictures_with_a_class_come_too(build: Build, tmp_path: Path) -> None:
    """Under the names that they have when they are trained on."""
    source = open_source(DataConfig(source=build(tmp_path)), tmp_path / "downloads")
    pictures = list(source.pictures())

    assert sorted(content.read() for _, content in pictures) == sorted(
        content for *_, content in each_picture()
    )
    assert {name for name, _ in pictures} == {sample.id for sample in source}


def test_several_pictures_of_one_sample_are_recognized_each(tmp_path: Path) -> None:
    """To train on them one would have to say which is meant."""
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        add(tar, "1.jpg", CONTENTS[0])
        add(tar, "1.mask.png", CONTENTS[1])
        add(tar, "1.cls", b"left")
    source = open_source(DataConfig(source=str(tmp_path / "some.tar")), tmp_path)

    assert [content.read() for _, content in source.pictures()] == CONTENTS[:2]
    with pytest.raises(DataError, match="has several pictures"):
        list(source)


def test_a_table_without_paths_is_refused(tmp_path: Path) -> None:
    """The error names the columns that are there, and the setting; with it the table is read."""
    files(tmp_path)
    table = tmp_path / "table.csv"
    table.write_text("number,where\n" + "".join(f"1,{name}\n" for name in NAMES))
    with pytest.raises(
        DataError, match=r"no column path or file; it has number, where: .*data.columns"
    ):
        list(open_source(DataConfig(source=str(table)), tmp_path).pictures())
    config = DataConfig(source=str(table), columns={"path": "where"})
    assert [one.read() for _, one in open_source(config, tmp_path).pictures()] == CONTENTS


def test_names_of_several_tables_in_one_folder_are_all_different(tmp_path: Path) -> None:
    """Each may name the same file in the same row."""
    files(tmp_path)
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text("path,label\ndeep/1.png,cat\n")
    source = open_source(DataConfig(source=f"{tmp_path}/*.csv"), tmp_path)
    assert len({name for name, _ in source.pictures()}) == 3


def test_a_name_behind_http_may_hold_what_an_address_may_not(
    web: tuple[Path, str], tmp_path: Path
) -> None:
    """A space, a hash, a percent sign; a name that is quoted already is not quoted again."""
    folder, address = web
    names = ("a b.png", "no #1.png", "50% off.png", "a%20b.png")
    for name in names[:3]:
        (folder / name).write_bytes(png(0, 1))
    (folder / "odd.csv").write_text("path\n" + "\n".join(names) + "\n")
    source = open_source(DataConfig(source=f"{address}/odd.csv"), tmp_path)
    assert [content.read() for _, content in source.pictures()] == [png(0, 1)] * 4
