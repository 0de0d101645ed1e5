"""Files of a source: those that match and no others, regular, whole, and where they belong."""

from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from esteira import data
from esteira.data.kinds import SHORT
from esteira.data.sources import csv, files
from esteira.errors import DataError, OutOfReach, SpecError, Unfinished
from esteira.spec import ModelSpec

from tests import models

DAY = date(2026, 1, 2)
NEXT = date(2026, 1, 3)
HEADER = "at,site,hour,heat,open,amount\n"
LINES = "2026-01-02 01:00,A,1,1.5,True,10\n2026-01-02 02:00,B,2,2.5,False,20\n"


def declare(folder: Path, source: str, more: str = "") -> ModelSpec:
    source = source.replace("{", "{{").replace("}", "}}")
    yaml = models.YAML.replace("{{kind: python, function: source.read}}", f"{{{{{source}}}}}")
    return models.write(folder, yaml=yaml + more.replace("{", "{{").replace("}", "}}"))


def put(path: Path, text: str = HEADER + LINES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame = pd.DataFrame([line.split(",") for line in text.splitlines()[1:]], columns=HEADER.strip().split(","))
        frame.astype({"hour": int, "heat": float}).assign(open=True).to_parquet(path)
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize(
    "path", ["gone/x-{day}.csv", "gone/{day}/x.csv", "gone/*.csv", "gone/x.parquet", "gone/{day}.parquet"]
)
def test_a_folder_that_is_gone_is_no_empty_day(tmp_path: Path, path: str) -> None:
    kind = "parquet" if path.endswith("parquet") else "csv"
    spec = declare(tmp_path, f'kind: {kind}, path: "{tmp_path}/{path}"')
    with pytest.raises(
        OutOfReach, match=rf"the folder {tmp_path}/gone is not there; mount it, or correct source\.path"
    ):
        data.read(spec, DAY, DAY)
    (tmp_path / "gone").mkdir()
    if "day" in path:
        assert data.read(spec, DAY, DAY).empty


def test_the_folder_of_labels_is_named_too(tmp_path: Path) -> None:
    labels = f'labels: {{source: {{kind: csv, path: "{tmp_path}/gone/{{day}}.csv"}}}}\n'
    spec = declare(tmp_path, "kind: python, function: source.read", labels)
    with pytest.raises(OutOfReach, match=r"gone is not there; mount it, or correct labels\.source\.path"):
        data.read_labels(spec, DAY, DAY)


def test_folders_before_the_day_that_match_nothing_are_no_empty_day(tmp_path: Path) -> None:
    put(tmp_path / "in" / "other" / "x.csv")
    spec = declare(tmp_path, f'kind: csv, path: "{tmp_path}/in/shop*/{{day}}.csv"')
    with pytest.raises(OutOfReach, match=r"no folder matches .*in/shop\*; mount it"):
        data.read(spec, DAY, DAY)
    put(tmp_path / "in" / "shop1" / f"{DAY}.csv")
    assert len(data.read(spec, DAY, DAY)) == 2


def test_a_folder_that_can_not_be_listed_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in" / f"{DAY}-1.csv")
    spec = declare(tmp_path, f'kind: csv, path: "{tmp_path}/in/{{day}}-*.csv"')
    monkeypatch.setattr(os, "listdir", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OutOfReach, match="in: can't be read: Input/output error; see that its volume is there"):
        data.read(spec, DAY, DAY)


def test_a_link_to_a_folder_that_is_not_there_is_no_empty_folder(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a" / f"{DAY}.csv")
    (tmp_path / "in" / "b").symlink_to("c")
    (tmp_path / "in" / "note").symlink_to("a/x")
    spec = declare(tmp_path, f'kind: csv, path: "{tmp_path}/in/?/{{day}}.csv"')
    with pytest.raises(OutOfReach, match="in/b: is a link to a folder that is not there; mount it, or remove the link"):
        data.read(spec, DAY, DAY)
    (tmp_path / "in" / "c").mkdir()
    assert len(data.read(spec, DAY, DAY)) == 2


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?b", "[!x]"])
@pytest.mark.parametrize("relative", [True, False])
def test_signs_of_a_pattern_in_a_folders_name_are_signs_of_a_name(tmp_path: Path, name: str, relative: bool) -> None:
    models_folder = tmp_path / name
    path = "in/{day}.csv" if relative else f"{tmp_path}/{name}/sales/in/{{day}}.csv"
    spec = declare(models_folder, f'kind: csv, path: "{path}"')
    put(models_folder / "sales" / "in" / f"{DAY}.csv")
    assert len(data.read(spec, DAY, DAY)) == 2


@pytest.mark.parametrize("name", ["data[1]", "d*", "{day}[x]"])
def test_a_file_that_is_there_by_its_very_name_is_it(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name.replace('{day}', str(DAY))}.csv").write_text(HEADER + LINES)
    (tmp_path / "data1.csv").write_text("something else\n")
    assert len(data.read(declare(tmp_path, f'kind: csv, path: "{tmp_path}/{name}.csv"'), DAY, DAY)) == 2


def test_a_pattern_of_files_and_of_folders_is_one_still(tmp_path: Path) -> None:
    for path in ("in/a/1.csv", "in/b/2.csv", "in/b/.hidden.csv", "in/b/3.txt"):
        put(tmp_path / path, HEADER + LINES)
    assert len(data.read(declare(tmp_path, f'kind: csv, path: "{tmp_path}/in/[ab]/*.csv"'), DAY, DAY)) == 4


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("odd", ["pipe", "socket", "folder", "device"])
@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_by_name(tmp_path: Path, kind: str, odd: str) -> None:
    path = tmp_path / "in" / f"{DAY}.{kind}"
    path.parent.mkdir()
    makers: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
        "socket": lambda: socket.socket(socket.AF_UNIX).bind(str(path)),
    }
    try:
        makers[odd]()
    except OSError as error:
        pytest.skip(f"this machine makes no {odd}: {error}")
    spec = declare(tmp_path, f'kind: {kind}, path: "{tmp_path}/in/{{day}}.{kind}", follow_links: true')
    with pytest.raises(DataError, match=rf"{DAY}\.{kind}: is a {odd}, and not a file; remove it"):
        data.read(spec, DAY, DAY)


def test_a_link_may_not_lead_out_of_the_folder_unless_it_is_said_to(tmp_path: Path) -> None:
    secret = put(tmp_path / "elsewhere" / "secret.csv", "password\nhunter2\n")
    (tmp_path / "in").mkdir()
    link = tmp_path / "in" / f"{DAY}.csv"
    link.symlink_to(secret)
    source = f'kind: csv, path: "{tmp_path}/in/{{day}}.csv"'
    with pytest.raises(
        DataError, match=r"is a link that leads out of .*in; put the file itself there, or set source.foll"
    ) as said:
        data.read(declare(tmp_path, source), DAY, DAY)
    assert "hunter2" not in str(said.value)
    assert "password" not in str(said.value)
    put(secret)
    assert len(data.read(declare(tmp_path, f"{source}, follow_links: true"), DAY, DAY)) == 2
    link.unlink()
    put(tmp_path / "in" / "real.csv")
    link.symlink_to("real.csv")
    assert len(data.read(declare(tmp_path, source), DAY, DAY)) == 2


def test_a_folder_that_is_a_link_may_not_lead_out_either_but_the_one_that_is_named_may(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / f"{DAY}" / "x.csv")
    (tmp_path / "named").symlink_to(tmp_path / "elsewhere")
    assert len(data.read(declare(tmp_path, f'kind: csv, path: "{tmp_path}/named/{{day}}/x.csv"'), DAY, DAY)) == 2
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{DAY}").symlink_to(tmp_path / "elsewhere" / f"{DAY}")
    with pytest.raises(DataError, match="is a link that leads out of"):
        data.read(declare(tmp_path, f'kind: csv, path: "{tmp_path}/in/{{day}}/x.csv"'), DAY, DAY)


CUT = [
    (HEADER + LINES[:-1], "its last line has no line end"),
    (HEADER + LINES[:-5], "its last line has no line end"),
    (HEADER[:-1], "its last line has no line end"),
    ("", "the file is empty, without even a header"),
    (HEADER + LINES + '2026-01-02 03:00,"A\n', "EOF inside string"),
]


@pytest.mark.parametrize(("text", "said"), CUT)
@pytest.mark.parametrize("how", ["plain", "gzip", "utf-16"])
def test_a_file_that_is_cut_off_is_tried_again(tmp_path: Path, text: str, said: str, how: str) -> None:
    path = tmp_path / f"{DAY}.csv{'.gz' if how == 'gzip' else ''}"
    content = text.encode("utf-16" if how == "utf-16" and text else "utf-8")
    path.write_bytes(gzip.compress(content) if how == "gzip" else content)
    more = ", encoding: utf-16" if how == "utf-16" else ""
    spec = declare(tmp_path, f'kind: csv, path: "{tmp_path}/{{day}}.csv{".gz" if how == "gzip" else ""}"{more}')
    with pytest.raises(Unfinished, match=said):
        data.read(spec, DAY, DAY)
    assert data.read(spec, date(2026, 1, 1), date(2026, 1, 1)).empty  # for a day beside, it is not that day's matter


def test_a_cut_off_gzip_or_parquet_file_is_tried_again(tmp_path: Path) -> None:
    whole = gzip.compress((HEADER + LINES).encode())
    (tmp_path / "x.csv.gz").write_bytes(whole[:-12])
    with pytest.raises(Unfinished, match="it is still being written, or was cut off"):
        data.read(declare(tmp_path, f"kind: csv, path: {tmp_path}/x.csv.gz"), DAY, DAY)
    path = put(tmp_path / "x.parquet")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(Unfinished, match="is not a whole parquet file: it has no end"):
        data.read(declare(tmp_path, f"kind: parquet, path: {tmp_path}/x.parquet"), DAY, DAY)


@pytest.mark.parametrize("change", ["grow", "replace", "remove", "touch"])
def test_a_file_that_changes_while_it_is_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = put(tmp_path / "x.csv")
    real = pd.read_csv

    def read_csv(*args: object, **options: object) -> pd.DataFrame:
        rows = real(*args, **options)  # type: ignore[call-overload]
        if change == "grow":
            with path.open("a") as file:
                file.write(LINES)
        elif change == "replace":
            put(tmp_path / "new.csv").replace(path)
        elif change == "touch":
            os.utime(path, (1, 1))
        else:
            path.unlink(missing_ok=True)
        return rows  # type: ignore[no-any-return]

    monkeypatch.setattr(pd, "read_csv", read_csv)
    with pytest.raises(Unfinished, match=r"x\.csv: changed while it was read: it is still being written"):
        data.read(declare(tmp_path, f"kind: csv, path: {tmp_path}/x.csv"), DAY, DAY)


WHOLE = {
    "crlf": (HEADER + LINES).replace("\n", "\r\n"),
    "cr": (HEADER + LINES).replace("\n", "\r"),
    "blank lines at the end": HEADER + LINES + "\n\n  \n",
    "blanks after the end": HEADER + LINES + "  ",
    "blank lines between": HEADER + "\n" + LINES.replace("\n", "\n\n"),
    "quoted line break": HEADER + LINES.replace("A", '"A\nB"'),
    "quoted separator": HEADER + LINES.replace("A", '"A,B"'),
    "quote within": HEADER + LINES.replace("A", 'A"').replace("B", '"B"""'),
    "byte order mark": "\ufeff" + HEADER + LINES,
}


@pytest.fixture(params=["whole", "bit by bit"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "bit by bit":
        monkeypatch.setattr(csv, "LARGE", -1)
        monkeypatch.setattr(csv, "BATCH", 1)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE.keys())
def test_a_whole_file_has_no_short_row(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode())
    rows = data.read(declare(tmp_path, f"kind: csv, path: {path}"), DAY, DAY)
    assert len(rows) == 2
    assert SHORT not in rows.columns


def test_a_file_of_one_column_has_no_short_row(tmp_path: Path) -> None:
    path = put(tmp_path / "x.csv", "at\n2026-01-02 01:00\n\n2026-01-02 02:00\n")
    spec = declare(tmp_path, f"kind: csv, path: {path}")
    (rows,) = csv.CsvReader(spec, spec.source).read(files.File(str(path), str(tmp_path)), DAY, DAY)  # type: ignore[arg-type]
    assert (len(rows), list(rows.columns)) == (2, ["at"])


SHORTS = {
    "plain": "2026-01-02 03:00,A,3,1.5\n",
    "cut within a value": "2026-01-02 03:00,A,3,1\n",
    "quoted": '2026-01-02 03:00,"A",3,1.5\n',
    "quoted separators make up for those that lack": '2026-01-02 03:00,"A,,",3,1.5\n',
    "quoted line break": '2026-01-02 03:00,"A\n",3,1.5\n',
    "with a stray quote": '2026-01-02 03:00,A",3,1.5\n',
}


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("line", SHORTS.values(), ids=SHORTS.keys())
@pytest.mark.parametrize("separator", [",", ";", r"\t", "§"])
def test_a_row_with_too_few_fields_goes_to_quarantine_whole(tmp_path: Path, line: str, separator: str) -> None:
    sign = {r"\t": "\t"}.get(separator, separator)
    text = (HEADER + LINES[:33] + "\n" + line + LINES[33:]).replace(",", sign)
    path = put(tmp_path / "x.csv", text)
    spec = declare(tmp_path, f"kind: csv, path: {path}, separator: '{separator}'")
    rows = data.read(spec, DAY, DAY)
    good, bad = data.storable(spec, rows, {})
    assert list(good["at"]) == ["2026-01-02 01:00", "2026-01-02 02:00"]
    assert list(bad["rule"]) == ["short"]
    assert bad["reason"].iloc[0] == "the row has 4 fields, fewer than the header"
    assert bad["at"].iloc[0] == "2026-01-02 03:00"
    assert bad["hour"].iloc[0] == 3
    assert SHORT not in good.columns
    assert SHORT not in bad.columns


@pytest.mark.usefixtures("_either_way")
def test_a_line_that_a_carriage_return_ends_hides_no_short_row(tmp_path: Path) -> None:
    """It brings the separators that another row lacks, and no line feed."""
    text = HEADER + "2026-01-02 01:00,A,1,1.5,True,10\r2026-01-02 02:00,B,2,2.5,False,20\n2026-01-02 03:00\n"
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode())
    spec = declare(tmp_path, f"kind: csv, path: {path}")
    good, bad = data.storable(spec, data.read(spec, DAY, DAY), {})
    assert (len(good), list(bad["rule"])) == (2, ["short"])


@pytest.mark.usefixtures("_either_way")
def test_a_row_may_be_short_where_a_column_has_no_name(tmp_path: Path) -> None:
    """As DataFrame.to_csv() writes a frame with its index."""
    lines = [f"{number},{line}\n" for number, line in enumerate([*LINES.splitlines(), LINES[:20] + "C,3,1.5"])]
    path = put(tmp_path / "x.csv", f",{HEADER}" + "".join(lines))
    spec = declare(tmp_path, f"kind: csv, path: {path}")
    good, bad = data.storable(spec, data.read(spec, DAY, DAY), {})
    assert (len(good), list(bad["rule"])) == (2, ["short"])


@pytest.mark.usefixtures("_either_way")
def test_rows_between_blanks_may_be_short_too(tmp_path: Path) -> None:
    path = put(
        tmp_path / "x.csv", "at site  hour heat open amount\n2026-01-02T01 A 1 1.5  True 10\n\n 2026-01-02T02 B 2\n"
    )
    spec = declare(tmp_path, rf"kind: csv, path: {path}, separator: '\s+'")
    assert list(data.storable(spec, data.read(spec, DAY, DAY), {})[1]["rule"]) == ["short"]


def test_what_is_incomplete_is_accepted_where_it_is_said_to(tmp_path: Path) -> None:
    path = put(tmp_path / "x.csv", HEADER + "2026-01-02 03:00,A,3\n" + LINES[:-1])
    spec = declare(tmp_path, f"kind: csv, path: {path}, incomplete: accept")
    rows = data.read(spec, DAY, DAY)
    assert len(rows) == 3
    assert pd.isna(rows["heat"].iloc[0])
    assert data.storable(spec, rows, {})[1].empty


def test_a_label_of_a_short_row_goes_to_quarantine(tmp_path: Path) -> None:
    path = put(tmp_path / "labels.csv", "at,site,amount,extra\n2026-01-02 01:00,A,10,x\n2026-01-02 02:00,B,2\n")
    labels = f"labels: {{source: {{kind: csv, path: {path}}}}}\n"
    spec = declare(tmp_path, "kind: python, function: source.read", labels)
    good, bad = data.validate_labels(spec, data.read_labels(spec, DAY, DAY))
    assert (list(good["label"]), list(bad["label"]), list(bad["rule"])) == ([10], [2], ["short"])


@pytest.mark.parametrize("ready", ["{day}.done", "in/{day}.done"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_is_read_when_its_marker_is_there(tmp_path: Path, ready: str, kind: str) -> None:
    folder = tmp_path / "sales" / "in"
    put(folder / f"{DAY}.{kind}")
    spec = declare(tmp_path, f'kind: {kind}, path: "in/{{day}}.{kind}", ready: "{ready}"')
    with pytest.raises(Unfinished, match=rf"not ready yet: waits for the marker .*in/{DAY}\.done; make it once"):
        data.read(spec, DAY, DAY)
    (folder / f"{DAY}.done").touch()
    put(folder / f"{NEXT}.{kind}")  # without its marker: it is the next day's matter
    assert len(data.read(spec, DAY, DAY)) == 2
    with pytest.raises(Unfinished, match=rf"{NEXT}\.done"):
        data.read(spec, DAY, NEXT)
    (folder / f"{DAY}.{kind}").unlink()
    assert data.read(spec, DAY, DAY).empty


def test_one_marker_is_for_all_files_of_its_folder(tmp_path: Path) -> None:
    for shop in ("a", "b"):
        put(tmp_path / "in" / shop / f"{DAY}" / "1.csv")
        put(tmp_path / "in" / shop / f"{DAY}" / "2.csv")
    spec = declare(tmp_path, f'kind: csv, path: "{tmp_path}/in/*/{{day}}/*.csv", ready: _SUCCESS')
    (tmp_path / "in" / "a" / f"{DAY}" / "_SUCCESS").touch()
    with pytest.raises(Unfinished, match=f"waits for the marker .*in/b/{DAY}/_SUCCESS"):
        data.read(spec, DAY, DAY)
    (tmp_path / "in" / "b" / f"{DAY}" / "_SUCCESS").touch()
    assert len(data.read(spec, DAY, DAY)) == 8


def test_a_file_of_many_days_waits_for_the_marker_of_the_last_day_asked(tmp_path: Path) -> None:
    path = put(tmp_path / "all.csv")
    spec = declare(tmp_path, f'kind: csv, path: {path}, ready: "{{day}}.done"')
    (tmp_path / f"{DAY}.done").touch()
    assert len(data.read(spec, date(2026, 1, 1), DAY)) == 2
    with pytest.raises(Unfinished, match=f"{NEXT}.done"):
        data.read(spec, DAY, NEXT)


WRONG = [
    ("kind: csv, path: x, separator: '(a+)+$'", r"got '\(a\+\)\+\$'; a separator is exactly one character"),
    ("kind: csv, path: x, separator: ''", "a separator is exactly one character"),
    ("kind: csv, path: x, separator: '\"'", "a separator is exactly one character"),
    ("kind: csv, path: x, separator: '||'", "a separator is exactly one character"),
    ("kind: csv, path: x, encoding: utf8x", "unknown encoding 'utf8x'; did you mean 'utf-8'"),
    ("kind: csv, path: x, encoding: base64", "unknown encoding 'base64'"),
    ("kind: csv, path: x, incomplete: ignore", "allowed: refuse, accept"),
    ("kind: csv, path: 'gs://b/x.csv'", "csv and parquet are files of this machine, or objects"),
    ("kind: csv, path: in/", r"got 'in/', which is a folder; name the files in it, such as in/\*"),
    ("kind: csv, path: x, ready: '*.done'", "a marker is one file: write its name"),
    ("kind: csv, path: 'in/{day}.csv', ready: DONE", "one marker for all days"),
    ("kind: csv, path: 'in/{day}/x.csv', ready: in/DONE", "one marker for all days"),
    ("kind: parquet, path: x, incomplete: accept", "unknown key 'incomplete'"),
]


@pytest.mark.parametrize(("source", "said"), WRONG)
def test_an_impossible_source_is_named_in_the_spec(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        declare(tmp_path, source)


def test_keys_that_say_when_a_file_is_read_make_nothing_stale(tmp_path: Path) -> None:
    plain = declare(tmp_path, "kind: csv, path: x.csv")
    also = declare(tmp_path, "kind: csv, path: x.csv, ready: DONE, follow_links: true")
    assert plain.source.model_dump() == also.source.model_dump()
    assert set(plain.source.model_dump()) == {"kind", "path", "separator", "encoding"}  # as before there were such keys


LARGE = [
    ("plain", "", ""),
    ("a value with a line in it", '2026-01-02 03:00,"A\n,B",3,3.5,True,30\n', ""),
    ("rows that are short", "2026-01-02 03:00,A,3\n2026-01-02 04:00,A,3,1,True,9\n", ""),
    ("accepted as they are", "2026-01-02 03:00,A,3\n", ", incomplete: accept"),
    ("blank lines", "\n\n2026-01-02 03:00,C,3,3.5,True,30\n\n", ""),
    ("a form feed", "\x0c\n", ""),
    ("another encoding", "2026-01-02 03:00,\u00e9,3,3.5,True,30\n", ", encoding: utf-16"),
]


@pytest.mark.parametrize(("more", "options"), [case[1:] for case in LARGE], ids=[case[0] for case in LARGE])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_large_file_is_read_bit_by_bit_and_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, options: str, packed: str
) -> None:
    spec = declare(tmp_path, f'kind: csv, path: "{tmp_path}/{{day}}.csv{packed}"{options}')
    content = (HEADER + LINES * 3 + more + LINES).encode("utf-16" if "utf-16" in options else "utf-8")
    (tmp_path / f"{DAY}.csv{packed}").write_bytes(gzip.compress(content) if packed else content)
    wanted = data.read(spec, DAY, DAY)
    monkeypatch.setattr(csv, "LARGE", -1)
    monkeypatch.setattr(csv, "BATCH", 3)
    parts = [*csv.CsvReader(spec, spec.source).parts(DAY, DAY)]  # type: ignore[arg-type]
    assert [len(rows) for rows, _ in parts[:2]] == [3, 3]
    found = data.read(spec, DAY, DAY)
    pd.testing.assert_frame_equal(found[wanted.columns], wanted, check_dtype=False)
    assert (SHORT in wanted.columns) is (SHORT in found.columns)


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        (HEADER + LINES[:-1], Unfinished, "no line end"),
        (HEADER + LINES + "a\0b\n", DataError, f"byte {len(HEADER + LINES) + 1} is NUL"),
        (HEADER + LINES + '2026-01-02 03:00,"A\n', Unfinished, "EOF inside string"),
        (HEADER + LINES + "2026-01-02 03:00,A,3,1,True,9,9\n", DataError, "Expected 6 fields"),
    ],
)
def test_a_large_file_that_is_damaged_is_refused_as_a_small_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception], match: str
) -> None:
    spec = declare(tmp_path, f'kind: csv, path: "{tmp_path}/{{day}}.csv"')
    put(tmp_path / f"{DAY}.csv", text)
    for large in (csv.LARGE, -1):
        monkeypatch.setattr(csv, "LARGE", large)
        with pytest.raises(error, match=match):
            data.read(spec, DAY, DAY)


@pytest.mark.parametrize("at", range(2, 6))
@pytest.mark.parametrize("short", ["", "2026-01-02 03:00,A,3,1,True\n"])
@pytest.mark.parametrize("incomplete", ["refuse", "accept"])
def test_a_row_that_is_too_long_is_refused_wherever_a_batch_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, short: str, incomplete: str
) -> None:
    """read_csv does not count the fields of the first row that it reads together, and a row that is too short may make up for it."""
    spec = declare(tmp_path, f'kind: csv, path: "{tmp_path}/{{day}}.csv", incomplete: {incomplete}')
    lines = (LINES * 4).splitlines(keepends=True)
    lines.insert(at, "2026-01-02 03:00,A,3,1,True,9,9\n")
    put(tmp_path / f"{DAY}.csv", HEADER + "".join(lines) + short + LINES)
    monkeypatch.setattr(csv, "LARGE", -1)
    monkeypatch.setattr(csv, "BATCH", 3)
    with pytest.raises(DataError, match=f"row {at + 1} has 7 fields|Expected 6 fields in line {at + 2}, saw 7"):
        data.read(spec, DAY, DAY)


def test_of_blanks_a_value_with_a_line_in_it_shifts_no_row_s_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = declare(tmp_path, f"kind: csv, path: '{tmp_path}/{{day}}.csv', separator: '\\s+'")
    head = HEADER.replace(",", " ")
    lines = ['2026-01-02T01:00 "A\n" 1 1 True 10', "2026-01-02T02:00 A 2 2 True 20", "2026-01-02T03:00 A 3"]
    put(tmp_path / f"{DAY}.csv", head + "\n".join(lines) + "\n2026-01-02T04:00 A 4 4 True 40\n")
    for large in (csv.LARGE, -1):
        monkeypatch.setattr(csv, "LARGE", large)
        with pytest.raises(DataError, match=r"can't be told|have fewer fields"):
            data.read(spec, DAY, DAY)


MIXED = {
    "codes, then words": ["001", "002", "X9"],
    "whole numbers, then others": ["1", "2", "2.5"],
    "whole numbers, then none": ["1", "2", ""],
    "truth, then none": ["True", "False", ""],
    "truth, then numbers": ["True", "1", "0"],
    "negative, then beyond 63 bits": ["-1", "2", "18446744073709551615"],
    "beyond 63 bits": ["1", "2", "18446744073709551615"],
    "none at first": ["", "", "7"],
    "words at first": ["a", "1", "2"],
    "beyond all bits": ["1", "2", "99999999999999999999999"],
}


@pytest.mark.parametrize("values", MIXED.values(), ids=MIXED.keys())
@pytest.mark.parametrize("has_code", [True, False])
def test_of_a_large_file_each_column_has_the_type_that_all_its_rows_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[str], has_code: bool
) -> None:
    lines = [f"2026-01-02 0{n}:00,A,{n},1.5,True,10,{value}\n" for n, value in enumerate([*values, *values[::-1]])]
    path = put(tmp_path / "x.csv", HEADER.replace("\n", ",more\n") + "".join(lines))
    spec = declare(tmp_path, f"kind: csv, path: {path}")
    if has_code:
        spec.folder.joinpath("features.py").write_text("def build(rows):\n    return rows\n")
    wanted = data.read(spec, DAY, DAY)
    monkeypatch.setattr(csv, "LARGE", -1)
    monkeypatch.setattr(csv, "BATCH", 1)
    parts = [rows for rows, _ in csv.CsvReader(spec, spec.source).parts(DAY, DAY)]  # type: ignore[arg-type]
    assert len(parts) == 6
    kinds = {part["more"].dtype for part in parts}
    if wanted["more"].dtype != object:
        assert kinds == {wanted["more"].dtype}
    found = pd.concat([part["more"] for part in parts], ignore_index=True)
    assert list(map(repr, found)) == list(map(repr, wanted["more"]))


def test_of_the_file_of_another_day_only_rows_of_the_days_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = declare(tmp_path, f'kind: csv, path: "{tmp_path}/{{day}}.csv"')
    put(tmp_path / f"{DAY}.csv")
    put(tmp_path / f"{NEXT}.csv", HEADER + "2026-01-02 23:59,A,1,1.5,True,10\n" + LINES.replace("-02", "-03") * 4)
    monkeypatch.setattr(files, "BATCH", 3)
    held = [len(rows) for rows, _ in csv.CsvReader(spec, spec.source).parts(DAY, DAY)]  # type: ignore[arg-type]
    assert held == [2, 1]
    assert len(data.read(spec, DAY, DAY)) == 3
