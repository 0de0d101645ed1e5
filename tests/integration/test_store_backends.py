"""What every lake and every registry must do, Delta's and MLflow's, and those in memory, by the same tests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from esteira.errors import Conflict, Superseded, UnknownVersion
from esteira.learning import pipelines, predicting
from esteira.spec import ModelSpec
from esteira.store import lake, runs, schemas
from esteira.store.backend import Lake
from esteira.store.delta import DeltaLake
from esteira.store.memory import MemoryLake
from esteira.store.memory_tracking import MemoryTracking
from esteira.store.mlflow_tracking import MlflowTracking
from esteira.store.tracking import Tracking

from tests import models
from tests.conftest import fresh_home, use_home, use_object_store

FIRST = date(2026, 1, 1)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def rows(number: int, *values: float, **more: object) -> pd.DataFrame:
    return pd.DataFrame({"day": pd.to_datetime([day(number)] * len(values)), "value": values, **more})


@pytest.fixture(params=["folder", "object store", "memory"])
def backend(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    if request.param == "object store":
        use_object_store(request.getfixturevalue("object_store"), monkeypatch)
    made: Lake = MemoryLake() if request.param == "memory" else DeltaLake()
    with lake.using(made):
        yield made


def put(number: int, *values: float, **options: object) -> int:
    return lake.replace_days("raw", "m", rows(number, *values), [day(number)], **options)  # type: ignore[arg-type]


def values(number: int, at: int | None = None) -> list[float]:
    found = lake.read("raw", "m", at=at, day=day(number))
    return sorted(found["value"]) if len(found) else []


@pytest.mark.usefixtures("backend")
class TestLake:
    def test_a_table_that_is_not_there_has_nothing(self) -> None:
        assert lake.version("raw", "m") == -1
        assert lake.read("raw", "m").empty
        assert lake.columns("raw", "m") == lake.days_of("raw", "m") == []
        assert lake.unwritten_days("raw", "m", [day(0)]) == [day(0)]
        assert list(lake.read("metrics", "m").columns) == schemas.METRICS.names

    def test_a_day_is_replaced_and_the_others_stay(self) -> None:
        put(0, 1.0, 2.0)
        put(1, 3.0)
        before = lake.version("raw", "m")
        assert put(0, 5.0) == before + 1
        assert (values(0), values(1)) == ([5.0], [3.0])
        assert lake.days_of("raw", "m") == [day(0), day(1)]

    def test_versions_stay_as_they_were(self) -> None:
        written = [put(0, value) for value in (1.0, 2.0, 3.0)]
        assert [values(0, at) for at in written] == [[1.0], [2.0], [3.0]]
        assert values(0, -1) == []

    def test_an_empty_day_was_written(self) -> None:
        put(1, 1.0)
        lake.replace_days("raw", "m", pd.DataFrame(), [day(0), day(1)])
        assert lake.days_of("raw", "m") == []
        assert lake.unwritten_days("raw", "m", [day(n) for n in range(3)]) == [day(2)]

    def test_marks_say_under_what_a_day_was_written_last(self) -> None:
        put(0, 1.0, mark=7)
        put(1, 1.0, mark=8, marks={"settled": 3})
        assert lake.marks("raw", "m", [day(0), day(1), day(2)]) == {day(0): 7, day(1): 8, day(2): None}
        assert lake.missing_days("raw", "m", [day(0), day(1)], mark=8) == [day(0)]
        assert lake.named_marks("raw", "m", ["settled", "else"]) == {"settled": 3, "else": None}

    def test_a_higher_mark_is_not_written_over(self) -> None:
        put(0, 1.0, mark=5, newest=True)
        put(0, 2.0, mark=5, newest=True)
        put(1, 2.0, mark=4, newest=True)
        with pytest.raises(Superseded):
            lake.replace_days("raw", "m", rows(1, 9.0), [day(0), day(1)], mark=4, newest=True)
        assert (values(0), values(1)) == ([2.0], [2.0])

    def test_a_new_column_is_empty_before(self) -> None:
        put(0, 1.0)
        lake.replace_days("raw", "m", rows(1, 2.0, name="x"), [day(1)])
        found = lake.read("raw", "m").sort_values("day")
        assert found["name"].isna().tolist() == [True, False]
        assert set(lake.types("raw", "m")) == {"day", "value", "name"}

    def test_part_of_a_day_is_replaced(self) -> None:
        for stage in ("rows", "labels"):
            bad = rows(0, 1.0, stage=stage)
            lake.replace_days("quarantine", "m", bad, [day(0)], stage=stage)
        lake.replace_days("quarantine", "m", pd.DataFrame(), [day(0)], stage="rows")
        assert list(lake.read("quarantine", "m")["stage"]) == ["labels"]

    def test_filters_are_equalities_and_ranges(self) -> None:
        for number in range(4):
            lake.replace_days("raw", "m", rows(number, float(number), name=f"n'{number}"), [day(number)])
        assert sorted(lake.read("raw", "m", day=(day(1), day(2)))["value"]) == [1.0, 2.0]
        assert list(lake.read("raw", "m", name="n'3")["value"]) == [3.0]
        assert lake.read("raw", "m", columns=["value", "gone"], day=day(0)).columns.tolist() == ["value"]
        assert lake.read("raw", "m", unknown="x").empty

    def test_what_does_not_fit_its_column_is_named(self) -> None:
        put(0, 1.0)
        odd = rows(1, 1.0).assign(value=["text"])
        with pytest.raises(ValueError, match="column 'value' was double so far and is now"):
            lake.replace_days("raw", "m", odd, [day(1)])

    def test_the_rows_of_the_commit_are_merged(self) -> None:
        put(0, 1.0)

        def add(had: pd.DataFrame) -> pd.DataFrame:
            return pd.concat([had, rows(0, 2.0)], ignore_index=True)

        lake.replace_days("raw", "m", pd.DataFrame(), [day(0)], merge=add)
        assert values(0) == [1.0, 2.0]
        before = lake.version("raw", "m")
        lake.replace_days("raw", "m", pd.DataFrame(), [day(0)], merge=lambda _: None)
        assert lake.version("raw", "m") == before

    def test_an_id_is_taken_once_and_all_or_none_are_written(self) -> None:
        def row(key: str, why: str = "") -> dict[str, object]:
            return {"id": key, "effective_day": FIRST, "why": why, "to_state": "x"}

        assert lake.append_once("m", row("a"), row("b")) == 2
        assert lake.append_once("m", row("a", "again"), row("c")) == 1
        found = lake.read("ledger", "m").set_index("id")["why"]
        assert found.to_dict() == {"a": "", "b": "", "c": ""}
        assert lake.version("ledger", "m") >= 1

    def test_a_table_made_anew_is_another(self, backend: Lake) -> None:
        put(0, 1.0)
        assert lake.state("raw", "m") == lake.state("raw", "m")
        first = lake.state("raw", "m")
        with lake.using(type(backend)()):
            assert lake.state("raw", "other") != first


@pytest.mark.parametrize(
    ("theirs", "marks", "refused"),
    [(0, {}, True), (1, {}, False), (1, {"2026-01-01": 2}, True)],
    ids=["same day", "another day", "same mark"],
)
def test_of_two_writers_of_the_same_rows_one_is_refused(
    backend: Lake, theirs: int, marks: dict[str, int], refused: bool
) -> None:
    put(0, 1.0)
    put(1, 1.0)
    place = lake.path("raw", "m")
    seen = backend.open(place, lake.version("raw", "m"))
    put(theirs, 2.0, marks=marks)
    new = pa.table({"day": pa.array([day(0)], pa.date32()), "value": [3.0]})
    mine = {"2026-01-01": 1}
    if refused:
        with pytest.raises(Conflict):
            backend.replace(place, seen, new, {"day": [day(0)]}, marks=mine, partition="day")
    else:
        backend.replace(place, seen, new, {"day": [day(0)]}, marks=mine, partition="day")
    assert values(0) == ([2.0] if theirs == 0 else [1.0] if refused else [3.0])


def test_of_two_first_writers_one_is_refused(backend: Lake) -> None:
    place = lake.path("raw", "m")
    new = pa.table({"day": pa.array([day(0)], pa.date32()), "value": [3.0]})
    put(1, 1.0)
    with pytest.raises(Conflict):
        backend.replace(place, None, new, {"day": [day(0)]}, marks={}, partition="day")
    assert (values(0), values(1)) == ([], [1.0])


# -------------------------------------------------------------------------------------------------------------- runs


def staged(number: int, *values: float, **more: object) -> lake.Staging:
    made = lake.Staging("raw", "m")
    for value in values:
        made.write(rows(number, value, **more))
    return made


@pytest.mark.usefixtures("backend")
class TestParts:
    def test_nobody_sees_a_part_before_it_is_published_and_then_all_of_them(self) -> None:
        put(0, 1.0)
        put(1, 2.0)
        parts = staged(0, 5.0, 6.0).done()
        assert (values(0), values(1)) == ([1.0], [2.0])
        before = lake.version("raw", "m")
        assert lake.publish("raw", "m", parts, [day(0)], mark=7) == before + 1
        assert (values(0), values(1)) == ([5.0, 6.0], [2.0])
        assert lake.marks("raw", "m", [day(0), day(1)]) == {day(0): 7, day(1): 1}
        assert lake.count("raw", "m", [day(0)]) == 2

    def test_a_day_without_parts_is_an_empty_day(self) -> None:
        put(0, 1.0)
        lake.publish("raw", "m", [], [day(0), day(1)])
        assert values(0) == values(1) == []
        assert lake.unwritten_days("raw", "m", [day(0), day(1)]) == []

    def test_a_table_whose_first_day_is_empty_takes_times_later(self) -> None:
        lake.publish("raw", "m", [], [day(0)])
        lake.publish("raw", "m", staged(1, 1.0, at=pd.Timestamp("2026-01-01 01:00")).done(), [day(1)])
        more = staged(1, 2.0, at=pd.Timestamp("2026-01-01 02:00"), seen=pd.Timestamp("2026-01-02")).done()
        lake.publish("raw", "m", more, [day(1)], add_to=lake.version("raw", "m"))
        found = lake.read("raw", "m", day=day(1)).sort_values("value")
        assert [at.hour for at in found["at"]] == [1, 2]
        assert found["seen"].isna().tolist() == [True, False]

    def test_the_first_parts_make_the_table_and_later_ones_its_columns(self) -> None:
        lake.publish("raw", "m", staged(0, 1.0).done(), [day(0)])
        lake.publish("raw", "m", staged(1, 2.0, name="x").done(), [day(1)])
        assert lake.columns("raw", "m") == ["day", "value", "name"]
        assert lake.read("raw", "m", day=day(0))["name"].isna().all()
        added = staged(1, 3.0, more=1.0).done()
        lake.publish("raw", "m", added, [day(1)], add_to=lake.version("raw", "m"))
        assert values(1) == [2.0, 3.0]
        assert "more" in lake.columns("raw", "m")

    def test_nothing_is_added_to_a_table_that_was_written_meanwhile(self) -> None:
        put(0, 1.0)
        seen, parts = lake.version("raw", "m"), staged(0, 2.0).done()
        put(1, 3.0)
        with pytest.raises(Superseded):
            lake.publish("raw", "m", parts, [day(0)], add_to=seen)
        assert values(0) == [1.0]

    def test_what_is_newer_is_not_replaced(self) -> None:
        put(0, 1.0, mark=5)
        with pytest.raises(Superseded):
            lake.publish("raw", "m", staged(0, 2.0).done(), [day(0)], mark=4, newest=True)
        assert values(0) == [1.0]

    def test_rows_that_are_to_stay_do(self) -> None:
        put(0, 1.0, 2.0)
        lake.publish("raw", "m", staged(0, 3.0).done(), [day(0)], keep=lambda had: had[had["value"] > 1])
        assert values(0) == [2.0, 3.0]

    def test_shared_rows_are_another_tables_too(self) -> None:
        raw = lake.Staging("raw", "m")
        raw.add(raw.typed(rows(0, 1.0, 2.0, secret="x")), shared=True)
        raw.add(raw.typed(rows(0, 3.0, secret="y")))
        features = lake.Staging("features", "m")
        features.write(rows(0, 4.0))
        features.link(raw, ["day", "value"])
        lake.publish("raw", "m", raw.done(), [day(0)])
        lake.publish("features", "m", features.done(), [day(0)])
        assert values(0) == [1.0, 2.0, 3.0]
        found = lake.read("features", "m", day=day(0))
        assert list(found.columns) == ["day", "value"]
        assert sorted(found["value"]) == [1.0, 2.0, 4.0]

    def test_a_column_of_another_type_than_before_is_told_with_the_type_of_all(self) -> None:
        made = lake.Staging("raw", "m")
        made.write(rows(0, 1.0, code=7))
        with pytest.raises(lake.TypesDiffer) as caught:
            made.write(rows(0, 1.0, code="x"))
        assert caught.value.kinds["code"] == pa.string()
        made.drop()

    def test_what_is_staged_and_fails_leaves_no_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lake, "OPEN", 1)  # so that the first day's file is whole already
        removed: list[str] = []
        real = type(lake._backend).remove
        monkeypatch.setattr(
            type(lake._backend),
            "remove",
            lambda self, place, part: [removed.append(part.path), real(self, place, part)][1],
        )
        made = lake.Staging("raw", "m")

        def killed() -> None:
            with lake.whole_or_nothing(made, None):
                made.write(rows(0, 1.0))
                made.write(rows(1, 1.0))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            killed()
        assert len(removed) == 1
        assert made.done() == []

    def test_days_that_were_written_since_are_told_without_reading_them(self) -> None:
        put(0, 1.0)
        seen = put(1, 2.0)
        put(1, 2.0)
        put(2, 3.0)
        assert lake.changed_days("raw", "m", [day(0), day(1), day(2)], seen) == [day(1), day(2)]
        assert lake.changed_days("raw", "m", [day(0), day(5)], -1) == [day(0)]
        assert lake.changed_days("labels", "m", [day(0)], -1) == []

    def test_batches_are_the_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lake, "BATCH", 2)
        lake.publish("raw", "m", staged(0, 1.0, 2.0, 3.0).done(), [day(0)])
        found = [*lake.batches("raw", "m", columns=["value"], day=day(0))]
        assert sorted(pd.concat(found)["value"]) == [1.0, 2.0, 3.0]
        assert [len(rows) for rows in found] == [2, 1], "what is one file, or one frame, is cut, too"
        assert [*lake.batches("raw", "m", day=day(5))] == []
        assert [*lake.batches("labels", "m")] == []

    def test_what_is_staged_is_read_back_whole_days_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lake, "BATCH", 3)
        made = staged(0, 1.0, 2.0)
        for number in (1, 2, 0):
            made.write(rows(number, 3.0))
        found = [*made.read_back()]
        assert [sorted(set(each["day"].dt.day)) for each in found] == [[FIRST.day], [FIRST.day + 1, FIRST.day + 2]]
        assert [sorted(each["value"]) for each in found] == [[1.0, 2.0, 3.0], [3.0, 3.0]]
        assert list(found[0].columns) == list(rows(0, 1.0).columns)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return models.write(tmp_path)


@pytest.fixture(params=[MlflowTracking, MemoryTracking])
def registry(request: pytest.FixtureRequest, home: Path) -> Iterator[None]:
    with runs.using(request.param()):
        yield


def logged(spec: ModelSpec, key: str = "k") -> str:
    frame = models.labelled(spec, length=5)
    with runs.tracked(spec, key, "n", kind="x", day=FIRST) as run_id:
        runs.log(run_id, params={"depth": 3}, metrics={"mae": 0.5, "none": float("nan")}, tags={"value": 1.5})
        model = pipelines.baseline(spec, frame)
        runs.log_model(spec, run_id, model, frame.head(3), {"heat": {"edges": [], "shares": []}})
    return run_id


@pytest.mark.usefixtures("registry")
class TestRuns:
    def test_a_run_keeps_what_it_was_told(self, spec: ModelSpec) -> None:
        found = runs.get(logged(spec))
        assert (found.status, found.params, found.metrics) == ("FINISHED", {"depth": "3"}, {"mae": 0.5})
        assert {"key": "k", "kind": "x", "day": "2026-01-01", "value": "1.5"}.items() <= found.tags.items()
        assert [each.id for each in runs.search(spec, kind="x", day=FIRST)] == [found.id]
        assert runs.search(spec, kind="y") == []

    def test_a_run_again_replaces_it_unless_a_version_needs_it(self, spec: ModelSpec) -> None:
        first, second = logged(spec), logged(spec)
        assert [each.id for each in runs.search(spec, key="k")] == [second] != [first]
        runs.register(spec, second)
        third = logged(spec)
        assert {each.id for each in runs.search(spec, key="k")} == {second, third}

    def test_a_run_that_fails_has_failed(self, spec: ModelSpec) -> None:
        with pytest.raises(MemoryError), runs.tracked(spec, "k", "n") as run_id:
            raise MemoryError
        assert runs.get(run_id).status == "FAILED"

    def test_a_model_is_registered_once_and_loaded(self, spec: ModelSpec) -> None:
        run_id = logged(spec)
        assert runs.version_of(spec, run_id) is None
        assert runs.register(spec, run_id) == runs.register(spec, run_id) == 1
        assert [(each.number, each.run_id) for each in runs.versions(spec)] == [(1, run_id)]
        assert runs.versions(spec)[0].tags["kind"] == "x"
        assert runs.run_of(spec, 1) == run_id
        frame = models.labelled(spec, length=2)
        model = runs.load_version(spec, 1, runs.model_digest(run_id))
        assert model.version == 1
        assert len(predicting.predict(spec, model, frame)) == len(frame)
        assert runs.profile(run_id) == {"heat": {"edges": [], "shares": []}}

    def test_an_alias_points_moves_and_goes(self, spec: ModelSpec) -> None:
        assert runs.aliases(spec) == {}
        for key in ("a", "b"):
            runs.register(spec, logged(spec, key))
        runs.alias(spec, "champion", 1)
        runs.alias(spec, "champion", 2)
        runs.alias(spec, "challenger", 1)
        assert runs.aliases(spec) == {"champion": 2, "challenger": 1}
        runs.alias(spec, "challenger", None)
        runs.alias(spec, "challenger", None)
        assert runs.aliases(spec) == {"champion": 2}

    def test_an_unknown_version_is_named(self, spec: ModelSpec) -> None:
        runs.register(spec, logged(spec))
        with pytest.raises(UnknownVersion, match="model sales has no version 7"):
            runs.run_of(spec, 7)
        with pytest.raises(UnknownVersion, match="model sales has no version 7"):
            runs.alias(spec, "champion", 7)


@pytest.mark.parametrize("kind", [MlflowTracking, MemoryTracking])
def test_what_one_registry_has_another_has_not(
    kind: type[Tracking],
    spec: ModelSpec,
    home: Path,
    tmp_path: Path,
    mlflow_template: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with runs.using(kind()):
        runs.register(spec, logged(spec))
        assert runs.run_of(spec, 1)
    fresh_home(tmp_path / "other", mlflow_template)
    use_home(tmp_path / "other", monkeypatch)
    with runs.using(kind()), pytest.raises(UnknownVersion):
        runs.run_of(spec, 1)


def test_a_copy_of_a_registry_in_memory_goes_its_own_way(spec: ModelSpec) -> None:
    first = MemoryTracking()
    second = first.copied()
    for registry, keys in ((first, "a"), (second, "bc")):
        with runs.using(registry):
            made = [logged(spec, key) for key in keys][-1]
            runs.register(spec, made)
            assert runs.run_of(spec, 1) == made
    assert first.identity != second.identity
