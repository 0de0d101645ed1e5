"""Part the good rows from the bad: each row is in exactly one of the two, and a bad one has the rule and the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from esteira.data import kinds
from esteira.data.sources import call
from esteira.data.sources.columns import writable
from esteira.errors import DataError
from esteira.spec import Expectation, ModelSpec, canonical
from esteira.text import counted

if TYPE_CHECKING:
    import pandera.pandas as pandera

BUILT = "a pandas DataFrame of the same rows, with their index and every feature that model.yaml names"

Failure = tuple[str, pd.Series, str | pd.Series]
Twice = Callable[[pd.DataFrame, list[str]], pd.Series]  # of rows and the columns that tell them apart


def repeated(rows: pd.DataFrame, names: list[str]) -> pd.Series:
    """Which rows have the names' values of a row before them."""
    return rows.duplicated(names)


def part(rows: pd.DataFrame, failures: Iterable[Failure]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that fail nothing, and the others with `rule` and `reason`: those of the first that they fail."""
    rule = reason = None
    for name, failed, why in failures:
        mask = failed.to_numpy(dtype=bool)
        if not mask.any():  # as of most: texts are made for those that fail only
            continue
        if rule is None or reason is None:
            rule, reason = (pd.Series("", index=rows.index, dtype=object) for _ in range(2))
        first = mask & (rule == "").to_numpy()
        rule[first], reason[first] = name, why[first] if isinstance(why, pd.Series) else why
    if rule is None or reason is None:
        return rows, rows.head(0).assign(rule="", reason="")
    bad = rule != ""
    return rows.loc[~bad], rows.loc[bad].assign(rule=rule[bad], reason=reason[bad])


def storable(
    spec: ModelSpec, rows: pd.DataFrame, known: Mapping[str, pa.DataType]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows with the types that the raw table has (`known`) or is to have, and those that it can't take, as they came.

    It takes a row with a time, on the day that it came for, with a key, and whose every value has its column's type.
    """
    if rows.empty:
        return rows, rows.assign(rule="", reason="")
    failures = [*_short(rows), *_unreadable(spec, rows)]
    rows = rows.drop(columns=kinds.SHORT, errors="ignore")
    fitted, misfits = _fitted(spec, rows, known)
    good, bad = part(rows, [*failures, *misfits])
    return fitted if bad.empty else fitted.loc[good.index], bad


def _fitted(
    spec: ModelSpec, rows: pd.DataFrame, known: Mapping[str, pa.DataType]
) -> tuple[pd.DataFrame, list[Failure]]:
    """The rows with their columns' types, and the failures of those whose values do not have them."""
    asked = {name: known.get(name) or kinds.declared(spec, name) for name in rows.columns}
    asked |= {"day": None}  # it is ours, and of the unit of the times that it is compared with
    texts = [name for name, kind in asked.items() if kind is not None and kinds.is_text(kind)]
    fitted = kinds.as_texts(rows[texts])  # whatever a value is, there is a text for it
    failures: list[Failure] = []
    for name in (name for name in rows.columns if name not in fitted):
        given, kind = rows[name], asked[name]
        fitted[name] = kinds.fitted(given, kind, key=name in spec.key, feature=name in spec.features.numeric)
        if fitted[name] is given:
            continue
        lost = given.notna() & fitted[name].isna()
        if lost.any():
            values = kinds.masked(spec, rows.loc[lost, [name]].astype(object))[name]
            why = f"{name!r} is not {_named(kind)}: " + values.map(_shown) + _numbers_hint(spec, name, given[lost])
            failures.append(("type", lost, why.reindex(rows.index)))
    return pd.DataFrame({name: fitted[name] for name in rows.columns}, copy=False), failures


def _named(kind: pa.DataType | None) -> str:
    """A type as the model.yaml names it."""
    names = {known: name for name, known in kinds.NAMES.items()}
    name = names.get(kind, str(kind)) if kind is not None else "of one type"
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}" if kind is not None else name


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _short(rows: pd.DataFrame) -> Iterator[Failure]:
    """Rows with fewer fields than their file's header: the last one there may be half of itself."""
    if kinds.SHORT in rows.columns:
        fields = rows[kinds.SHORT]
        yield "short", fields.notna(), fields.map(_too_few, na_action="ignore")


def _too_few(fields: float) -> str:
    return f"the row has {fields:.0f} field{'s' if fields > 1 else ''}, fewer than the header"


def _unreadable(spec: ModelSpec, rows: pd.DataFrame) -> Iterator[Failure]:
    read_from = spec.time.column if not spec.time.hour else f"{spec.time.column} and {spec.time.hour}"
    yield "time", rows["event_time"].isna(), f"the time in {read_from!r} can't be read, or is not of 1678 to 2261"
    days = rows["day"].dt.as_unit(rows["event_time"].dt.unit)  # of two units the comparison takes thrice as long
    other = rows["event_time"].notna() & (rows["event_time"].dt.normalize() != days)
    yield "day", other, "its time is not of the day that its file is named for"
    for name in spec.key:
        yield "key", rows[name].isna(), f"the key {name!r} is empty"


def validate(spec: ModelSpec, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that are as expected, and the others with `rule` and `reason`: each row is in exactly one of the two.

    What a model's features.py makes of a row is looked at too. The target's expectation is not: it belongs to the labels,
    which scoring must not read.
    """
    good, bad, _ = _examine(spec, rows[asked_columns(spec, rows.columns)])
    if bad.empty:
        return rows, rows.head(0).assign(rule="", reason="")
    return rows.loc[good.index], rows.loc[bad.index].assign(rule=bad["rule"], reason=bad["reason"])


def build_features(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """The feature rows of those raw rows that are as expected: key, event_time, day, each feature as float64 or text.

    Where the model's folder has a features.py, its build(rows) gives the features; it must keep the rows and their index.
    """
    return examine(spec, rows)[1]


def examine(
    spec: ModelSpec, rows: pd.DataFrame, twice: Twice = repeated, *, as_they_are: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What validate() and build_features() give of raw rows, by one look at them: the bad rows, and the features of the others.

    `twice` says which of those that are good by themselves are there twice. Rows that are their own features may come back
    `as_they_are`, if all are good.
    """
    good, bad, built = _examine(spec, rows[asked_columns(spec, rows.columns)], twice)
    if as_they_are and bad.empty:
        return bad, rows
    bad = rows.loc[bad.index].assign(rule=bad["rule"], reason=bad["reason"]) if len(bad) else bad
    return bad, _features(spec, good, built)


def _features(spec: ModelSpec, good: pd.DataFrame, built: pd.DataFrame) -> pd.DataFrame:
    if good.empty:
        return pd.DataFrame()
    columns = {name: good[name] for name in ("event_time", "day")}
    columns |= {name: typed(spec, name, good[name]) for name in spec.key}  # features.py does not change who a row is
    columns |= {name: typed(spec, name, built[name]) for name in spec.features.all if name not in spec.key}
    return pd.DataFrame(columns).sort_values(["day", "event_time", *spec.key], kind="stable", ignore_index=True)


def asked_columns(spec: ModelSpec, names: Iterable[str]) -> list[str]:
    """Those of the names that decide about a row and its features: all of them where a features.py may look at them."""
    asked = {"event_time", "day", spec.time.column, *spec.key, *spec.features.all, *spec.expect}
    return [name for name in names if spec.has_features_code or name in asked]


def _examine(
    spec: ModelSpec, rows: pd.DataFrame, twice: Twice = repeated
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The good rows, the bad ones with rule and reason, and what features.py makes of the good ones."""
    if rows.empty:
        return rows, rows, rows
    good, bad = part(rows, [*_unreadable(spec, rows), *_unexpected(spec, rows)])
    built = _built(spec, good)
    features = built[[name for name in spec.features.all if name in built.columns]]
    good, worse = part(good, [*_not_numbers(spec, built), *_unexpected(spec, features)])
    # Last, so that a row that is bad by itself never costs a good one of the same key its place.
    good, again = part(
        good, [("unique_key", twice(good, ["day", *spec.key]), "another row of the day has the same key")]
    )
    bad = pd.concat([bad, worse, again]).sort_index() if len(bad) + len(worse) + len(again) else bad
    return good, bad, built if len(built) == len(good) else built.loc[good.index]


def _built(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """What the model's features.py makes of the rows, or the rows themselves, with every feature and the same index."""
    built = rows
    if spec.has_features_code and len(rows):
        # Day by day, whoever asks: a day's features must not depend on which other days are read with it.
        known = rows.drop(columns=[spec.target], errors="ignore")
        parts = [_built_day(spec, part.copy()) for _, part in known.groupby("day", sort=False)]
        built = (pd.concat(parts) if len(parts) > 1 else parts[0]).loc[rows.index]
    missing = [name for name in (*spec.key, *spec.features.all) if name not in built.columns]
    if missing and len(rows):
        raise DataError(
            f"model {spec.name}: {missing} neither come from the source nor from features.py; it gave {list(built.columns)}"
        )
    return built


def _built_day(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """What the model's features.py makes of a day's rows: the same rows, and no column twice."""
    built = call(spec.folder, "features.build", BUILT)(rows)
    where = f"{spec.folder / 'features.py'}: build"
    if not built.index.sort_values().equals(rows.index.sort_values()):
        raise DataError(
            f"{where} must return the {counted(len(rows), 'row')} that it got, with their index; it returned {len(built)}"
        )
    if built.columns.nlevels > 1 or not built.columns.is_unique:
        twice = [str(name) for name in built.columns[built.columns.duplicated()]]
        raise DataError(
            f"{where} must return columns of one name each; twice: {', '.join(twice) or 'none, but in levels'}"
        )
    return writable(built, spec.features.all)


def validate_labels(spec: ModelSpec, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Like `validate`, of rows with a `label`: it must be there, be a number for a regression, and be as expected."""
    label = rows["label"]
    failures: list[Failure] = [*_short(rows), ("label", label.isna(), "the label is empty")]
    if "disputed" in rows:
        failures.append(("unique_key", rows["disputed"].astype(bool), "the same key has another label, too"))
    if spec.task == "regression":
        number = kinds.as_number(label)
        failures.append(("label", number.isna() | np.isinf(number), "the label is not a finite number"))
    if spec.target in spec.expect:
        failures += failing({spec.target: spec.expect[spec.target]}, rows.rename(columns={"label": spec.target}))
    good, bad = part(rows, failures)
    return good.drop(columns=kinds.SHORT, errors="ignore"), bad.drop(columns=kinds.SHORT, errors="ignore")


def _not_numbers(spec: ModelSpec, built: pd.DataFrame) -> Iterator[Failure]:
    for name in (*spec.features.numeric, *spec.features.boolean) if len(built) else ():
        number = kinds.as_number(built[name])
        infinite = np.isinf(number.to_numpy())
        if number is built[name] and not infinite.any():
            continue
        bad = pd.Series(infinite, number.index) | (built[name].notna() & number.isna())
        if bad.any():
            yield "number", bad, f"{name!r} is not a finite number{_numbers_hint(spec, name, built.loc[bad, name])}"


def _numbers_hint(spec: ModelSpec, name: str, bad: pd.Series) -> str:
    """How a value that is nearly a number can be made one."""
    if len(bad) and bad.astype("str").str.fullmatch(r"-?\d{1,3}(?:\.?\d{3})*,\d+").all():
        return " (with a decimal comma a source.py must read it: pandas.read_csv(…, decimal=','))"
    return (
        ", and no true or false (others, such as yes and no, are for a features.py)"
        if name in spec.features.boolean
        else ""
    )


def _unexpected(spec: ModelSpec, rows: pd.DataFrame) -> list[Failure]:
    asked = {name: expectation for name, expectation in spec.expect.items() if name != spec.target}
    return failing({name: asked[name] for name in asked if name in rows.columns}, rows)


def failing(asked: Mapping[str, Expectation], rows: pd.DataFrame) -> list[Failure]:
    """The rows that fail what is expected of their values, rule by rule; pandera finds them."""
    if rows.empty or not asked:
        return []
    import pandera.pandas as pandera  # not above: it takes as long as to score a small day of which nothing is expected

    columns, shapes = {}, {}
    for name, each in asked.items():
        numeric = list(_bounds(name, each))
        if numeric:
            columns[f"number {name}"] = kinds.as_number(rows[name])
            shapes[f"number {name}"] = pandera.Column(float, numeric, nullable=True)
        columns[f"text {name}"] = kinds.as_text(rows[name])
        shapes[f"text {name}"] = pandera.Column(None, list(_words(name, each)), nullable=not each.required)
    try:
        pandera.DataFrameSchema(shapes).validate(pd.DataFrame(columns), lazy=True)
        return []
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
    by_check = {key: part_of["index"] for key, part_of in cases.groupby(["column", "check"], sort=False)}
    found: list[Failure] = []
    for column, said in sorted(by_check, key=lambda key: list(shapes).index(key[0])):  # a row fails its first rule
        rule, _, why = str(said).partition(": ")
        if rule == "not_nullable":
            rule, why = "required", f"{column.partition(' ')[2]!r} is empty"
        found.append((rule, pd.Series(rows.index.isin(by_check[column, said]), index=rows.index), why))
    return found


def _bounds(name: str, asked: Expectation) -> Iterator[pandera.Check]:
    """What is expected of a value as a number; the text before the colon is the rule's name."""
    import pandera.pandas as pandera

    if asked.min is not None:
        yield pandera.Check.ge(asked.min, error=f"min: {name!r} is below {asked.min:g}")
    if asked.max is not None:
        yield pandera.Check.le(asked.max, error=f"max: {name!r} is above {asked.max:g}")
    if asked.type == "integer":
        yield pandera.Check(lambda numbers: numbers % 1 == 0, error=f"type: {name!r} is not a whole number")


def _words(name: str, asked: Expectation) -> Iterator[pandera.Check]:
    """What is expected of a value as text."""
    import pandera.pandas as pandera

    if asked.values is not None:
        allowed = [canonical(value) for value in asked.values]
        yield pandera.Check.isin(allowed, error=f"in: {name!r} is not one of {list(asked.values)}")
    if asked.matches is not None:
        pattern = asked.matches
        yield pandera.Check(lambda texts: _match(texts, pattern), error=f"matches: {name!r} does not match {pattern}")


def _match(texts: pd.Series, pattern: str) -> pd.Series:
    """Which texts the pattern matches whole. By RE2, whose time grows with a text's length: re's may have no end."""
    matched = pc.match_substring_regex(pa.array(texts, pa.large_string(), from_pandas=True), rf"\A(?:{pattern})\z")
    return pd.Series(matched.to_numpy(zero_copy_only=False), index=texts.index).fillna(False).astype(bool)


def typed(spec: ModelSpec, name: str, values: pd.Series) -> pd.Series:
    """A column as the feature store keeps it: categories as text, numbers and booleans as float64, a key as it is."""
    if name in spec.features.categorical:
        return kinds.as_text(values)
    if name in spec.features.all:
        return kinds.as_number(values)
    return kinds.as_text(values) if kinds.is_mixed(values) else values  # lists, say, which can't be compared
