"""A day from its source to its predictions in one pass: staged by one task, or by several a share each; published by one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import groupby

from esteira import data
from esteira.data import ALL, Share
from esteira.errors import DataError, Superseded, Unaccounted
from esteira.lifecycle import changes
from esteira.spec import ModelSpec
from esteira.spec.policy import MOST_SHARDS
from esteira.steps import ingest, keys, labelling, quality, scoring, staging
from esteira.steps.scoring import NOTHING, Request
from esteira.steps.staging import Staged
from esteira.store import handover, lake, ledger
from esteira.store.backend import Part
from esteira.store.schemas import Kind
from esteira.text import counted, shown_days

log = logging.getLogger(__name__)

MONTH = 31
SHARE = 400 << 20  # bytes of a source, before they were compressed, that are worth a task of their own


def score_from_source(
    spec: ModelSpec,
    days: list[date],
    run: str,
    asked: Request = NOTHING,
) -> str:
    """Read, validate, build the features of, score and publish the days. Returns what became of their rows, as a sentence.

    Raises what extract(), require_fit() and score() raise; no prediction is published then.
    """
    if not days:
        return quality.accounted(spec, days)
    staged = stage(spec, days, run, asked)
    return publish(spec, days, run, [staged], asked)


def requeue(spec: ModelSpec, days: list[date], run: str, when_gone: ingest.WhenGone = "refuse") -> str:
    """Read the days anew and score them, each by the version that is published for it.

    Their labels are read again, too, where they were read before. Returns what was read, published and is left in
    quarantine, as a sentence. Raises DataError where the days are not fit to be scored yet.
    """
    if spec.labels and spec.labels.source:  # which may have them, though the source of the rows has let go the days
        labelling.store_again(spec, days)
    return score_from_source(spec, days, run, Request(when_gone=when_gone))


def stage(
    spec: ModelSpec,
    days: list[date],
    run: str,
    asked: Request = NOTHING,
    share: Share = ALL,
) -> Staged:
    """Read the days' rows, or a share of them, look at them, predict them; nobody sees it before publish() was called."""
    chosen = _expected(spec, days, asked)
    mark, before = ingest.features_mark(spec), ingest.as_it_is(spec, days)

    def once(known: ingest.Hindsight) -> Staged:
        source = _state(spec, days, share)
        bad = ingest.Bad(spec)
        extraction = ingest.Extraction(spec, days, known, bad)
        examination = ingest.Examination(spec, known, bad, raw=extraction.raw)
        prediction = scoring.Prediction(spec, chosen, run)
        with lake.whole_or_nothing(extraction.raw, bad.staging, examination.features, *prediction.stagings):
            with _Beside() as others:
                for rows in extraction.good(share):
                    built = examination.take(rows)
                    others.do(extraction.keeping(shared=examination.are_raw), partial(prediction.take, built))
            examination.require_no_repeats()
            if _state(spec, days, share) != source:  # a shard may have read some of it before, and others after
                raise ingest.SourceChanged
        parts: dict[Kind, tuple[Part, ...]] = {
            "raw": tuple(extraction.raw.done()),
            "quarantine": tuple(bad.staging.done()),
            "features": tuple(examination.done()),
        }
        seen = examination.seen() if share != ALL else keys.NONE
        return Staged(
            mark=mark,
            source=f"{source} {extraction.digest}",
            before=before,
            read=extraction.read,
            rows=dict(extraction.rows),
            unread=extraction.unread(),
            parts=parts,
            late=extraction.late(),
            seen=seen,
            predicted=prediction.done(),
        )

    return ingest.in_hindsight(once)


class _Beside:
    """Does what a batch still needs while the next one is read, where there is a core for it: one at a time, and no more waits."""

    def __enter__(self) -> _Beside:
        import joblib

        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stage") if joblib.cpu_count() > 1 else None
        self._left: Future[None] | None = None
        self._begun = False
        return self

    def do(self, *works: Callable[[], None]) -> None:
        """Do the works in order, once those before are done. Raises what those before raised."""
        self._wait()
        if self._pool is None or not self._begun:  # the first opens tables, and reads the model
            self._begun = True
            _in_order(works)
        else:
            self._left = self._pool.submit(_in_order, works)

    def _wait(self) -> None:
        left, self._left = self._left, None
        if left is not None:
            left.result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown(wait=True)


def _in_order(works: Iterable[Callable[[], None]]) -> None:
    for work in works:
        work()


def publish(
    spec: ModelSpec,
    days: list[date],
    run: str,
    staged: Sequence[Staged],
    asked: Request = NOTHING,
) -> str:
    """Publish what was staged of the days, all shares together. Returns what became of their rows, as a sentence.

    Each table's rows are there all at once, or not at all. Where another run has written the days' raw rows since they were
    read, they are read again, so that all tables are of one reading, the last. Raises as score_from_source() does.
    """
    return _publish(spec, days, run, staged, asked)[0]


def _publish(spec: ModelSpec, days: list[date], run: str, staged: Sequence[Staged], asked: Request) -> tuple[str, int]:
    """What publish() does; returns the version of the raw table, too, that has what was read."""
    whole = _joined(spec, staged)
    if whole is None:
        log.info(
            "model %s: what was made of %s can't be published as it is: the source, the model or the tables have changed since, or "
            "something is gone; it is read again as a whole",
            spec.name,
            shown_days(days),
        )
    for _ in range(ingest.TRIES):
        whole = whole or stage(spec, days, run, asked)
        settled = ingest.settled_days(spec, days, whole.rows, whole.unread, asked.when_gone)
        parts = whole.parts
        stages, before = ("extract", "rows"), whole.before
        try:
            given = parts["raw"], parts["quarantine"], whole.late, whole.unread
            at = ingest.publish(spec, settled, *given, *stages, before=before, span=(min(days), max(days)))
            _require_fit(spec, days, at, before)
            features = lake.publish("features", spec.name, parts["features"], days, mark=ingest.features_mark(spec))
        except Superseded:
            whole = None
            continue
        ingest.log_read(spec, settled, whole.read)
        scoring.choose(spec, days, run, asked)
        _, are_ready = scoring.write(spec, days, run, whole.predicted, features)
        if not (are_ready and whole.predicted.serve(spec)):
            scoring.add_to_served(spec, days, run)
        if ingest.is_last(spec, days, at, before):
            return scoring.account(spec, days), at
        whole = None
    raise ingest.overtaken(spec, days)


def _require_fit(spec: ModelSpec, days: list[date], at: int, before: ingest.Before) -> None:
    """Raises DataError where the days are not fit to be scored, and Superseded where they are not as they were read any more."""
    try:
        quality.require_fit(spec, days)
    except DataError:  # of these days as they are now: another run's, perhaps
        if ingest.is_last(spec, days, at, before):
            raise
    if not ingest.is_last(spec, days, at, before):
        raise ingest.overtaken(spec, days)


def shares(spec: ModelSpec, days: list[date]) -> int:
    """Into how many shares the days are cut: as many as model.yaml says, or as the size of its source asks for."""
    if spec.features.whole_day:
        return 1
    if spec.score.shards != "auto":
        return spec.score.shards
    size = data.reader_of(spec.source, spec).size(min(days), max(days))
    return min(max(round(size / SHARE), 1), MOST_SHARDS)


def spans(spec: ModelSpec, days: list[date]) -> list[list[date]]:
    """The days in spans, in order, each of which tasks score by themselves: a few days are one, a year is its calendar months.

    Days that are large enough to be cut into shares are spans by themselves.
    """
    if spec.score.shards != 1:
        return [[day] for day in days]
    if len(days) <= MONTH:
        return [days]
    return [list(of) for _, of in groupby(days, key=lambda day: (day.year, day.month))]


def leave(spec: ModelSpec, days: list[date], run: str, share: Share, asked: Request = NOTHING) -> int:
    """Stage a share of the days, for publish_left() of the same run to take; returns how many rows it has."""
    staged = stage(spec, days, run, asked, share)
    handover.remove(spec.name, run, _published(days))
    for name, content in staging.to_files(staged).items():
        handover.leave(spec.name, run, _file(days, share.number, share.of, name), content)
    handover.remove(
        spec.name, run, _published(days)
    )  # a task that is taken for dead may have said so meanwhile, of others
    return staged.read


def publish_left(
    spec: ModelSpec,
    days: list[date],
    run: str,
    of: int,
    asked: Request = NOTHING,
) -> str:
    """Publish what the tasks of a run have left of the days; returns what became of their rows, as a sentence.

    Said again it changes nothing. What is not there any more is read again, and so is what was refused: a person may have
    mended the source since. Raises as score_from_source() does.
    """
    if not days:
        return quality.accounted(spec, days)
    told = [handover.found(spec.name, run, _file(days, number, of, staging.NAMES[0])) for number in range(of)]
    left = [each for number in range(of) if (each := _left(spec, days, run, number, of)) is not None]
    if len(left) < of:
        if _is_published(spec, days, run):  # by this task's try before, or by one that is taken for dead
            with suppress(Unaccounted):
                scoring.publish(spec, days, run)
                return quality.accounted(spec, days)
        log.warning(
            "model %s: %d of %s that were left of %s are there; it is read again as a whole",
            spec.name,
            len(left),
            counted(of, "share"),
            shown_days(days),
        )
        left = [stage(spec, days, run, asked)]
    try:
        said, at = _publish(spec, days, run, left, asked)
    except DataError:
        _remove(spec, days, run, told)
        raise
    handover.leave(spec.name, run, _published(days), b"%d" % at)
    _remove(spec, days, run, told)
    return said


def _remove(spec: ModelSpec, days: list[date], run: str, told: Sequence[bytes | None]) -> None:
    """Remove what the shares have left of the days, but for what is not as it was told: of a task that was tried again since."""
    for number, known in enumerate(told):
        first, *names = [_file(days, number, len(told), name) for name in staging.NAMES]
        if handover.found(spec.name, run, first) in (known, None):
            handover.remove(spec.name, run, first, *names)


def _left(spec: ModelSpec, days: list[date], run: str, number: int, of: int) -> Staged | None:
    return staging.from_files(lambda name: handover.found(spec.name, run, _file(days, number, of, name)))


def _file(days: list[date], number: int, of: int, name: str) -> str:
    """The name of a file that a share of so many leaves of the days for publish_left()."""
    return f"{days[0]}.{number}-of-{of}.{name}"


def _is_published(spec: ModelSpec, days: list[date], run: str) -> bool:
    """Whether the run has published the days before, and nobody has written their raw rows since."""
    at = handover.found(spec.name, run, _published(days))
    return bool(at) and lake.untouched("raw", spec.name, days, int(at or 0))


def _published(days: list[date]) -> str:
    """The name of the file that says that what was left of the days is published, by which version of the raw table, and may be gone."""
    return f"{days[0]}.published"


def _expected(spec: ModelSpec, days: list[date], asked: Request) -> dict[date, int]:
    """The version that will be published for each day, as it looks now. Raises NoChampion where one has none."""
    if asked.version:
        scoring.require_usable(spec, asked.version)
        return dict.fromkeys(days, asked.version)
    known = ledger.state(spec)
    let_go = changes.release(known, min(days), max(days), by="", run="") if asked.champion else None
    if let_go is not None:
        known = replace(known, numbered=(*known.numbered, let_go))
    return ledger.require_published(spec, days, known)


def _state(spec: ModelSpec, days: list[date], share: Share) -> str:
    """The state that the source of a share is in; empty where it is read as a whole."""
    return "" if share == ALL else data.reader_of(spec.source, spec).state(min(days), max(days))


def _joined(spec: ModelSpec, staged: Sequence[Staged]) -> Staged | None:
    """All shares as one; None where they can't be published: they are of another source or model.yaml, or of other versions, a key
    is in two of them, a column is of two types, or their files are gone.
    """
    first, chosen = staged[0], staged[0].predicted.chosen
    if any(each.mark != ingest.features_mark(spec) for each in staged):
        return None
    if not _are_there(spec, staged):
        return None
    if len(staged) == 1:
        return first
    same = all(each.source == first.source and each.predicted.chosen == chosen for each in staged)
    if not same or not _are_alike(staged) or len(keys.repeated([each.seen for each in staged])):
        return None
    served = [each.predicted.served for each in staged]
    predicted = scoring.Predicted(
        chosen,
        tuple(part for each in staged for part in each.predicted.parts),
        None if None in served else tuple(part for parts in served for part in parts or ()),
        min(each.predicted.served_at for each in staged),
        min(each.predicted.at for each in staged),
    )
    return Staged(
        mark=first.mark,
        source=first.source,
        before=ingest.Before(
            min(each.before.raw for each in staged),
            min(each.before.quarantine for each in staged),
            frozenset().union(*(each.before.unwritten for each in staged)),
        ),
        read=sum(each.read for each in staged),
        rows=sum((Counter(each.rows) for each in staged), Counter[date]()),
        unread=frozenset().union(*(each.unread for each in staged)),
        parts={kind: tuple(part for each in staged for part in each.parts[kind]) for kind in first.parts},
        late=ingest.joined_late(each.late for each in staged),
        seen=keys.NONE,
        predicted=predicted,
    )


def _are_there(spec: ModelSpec, staged: Sequence[Staged]) -> bool:
    """Whether the files are there still."""
    for each in staged:
        named = {**each.parts, "predictions": each.predicted.parts, "served": each.predicted.served or ()}
        if not all(lake.are_there(kind, spec.name, parts) for kind, parts in named.items()):
            return False
    return True


def _are_alike(staged: Sequence[Staged]) -> bool:
    """Whether each column has one type."""
    for kind in staged[0].parts:
        fields = [field for each in staged for part in each.parts[kind] for field in part.schema]
        if len({field.name for field in fields}) < len({(field.name, field.type) for field in fields}):
            return False
    return True
