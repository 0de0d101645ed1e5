"""What may come next: the event that a request makes of a state, or why there is none. Two at once make the same number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import date, timedelta
from typing import Any

from esteira.errors import Refused
from esteira.lifecycle.events import effective_day
from esteira.lifecycle.sequence import Pinned, Promoted, Released, RolledBack, Undone
from esteira.lifecycle.state import Serving, State


@dataclass(frozen=True)
class Proposal:
    """A version that is to become champion, as of a day, with the reason and the numbers for it.

    `measured` is the champion that it was compared with, None where there was none. It takes the place of what is published
    from `replaces_from` on, else from the day after `as_of`. `once`: the run promotes one version at most, whatever it is. `twin`
    and `seen` are Promoted's.
    """

    version: int
    as_of: date
    _: KW_ONLY
    measured: int | None
    why: str
    by: str
    replaces_from: date | None = None
    once: bool = False
    twin: int | None = None
    seen: date | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def promote(state: State, proposal: Proposal) -> Promoted | None:
    """Make a version champion from the day after its `as_of` on; None where it is.

    Raises Refused where another champion than the one measured came in between, or serves from a later day; where the same
    run had promoted the version before, or, if it promotes but `once`, any; and where a roll-back stands that voids the
    version: what a person has rolled back no task brings back.
    """
    now, version, as_of = state.champion, proposal.version, proposal.as_of
    if now is not None and now.version == version:
        return None
    mine = [each for each in state.promotions if each.by == proposal.by]
    if any(proposal.once or each.version == version for each in mine):
        raise Refused(
            f"{named(mine[-1].version)} was promoted by {proposal.by} before, and {named(now.version if now else None)} is the "
            f"champion since, so version {version} is not promoted; train or check for a later day"
        )
    rolled_back = state.voided_by(version)
    if rolled_back is not None:
        raise Refused(
            f"version {version} was rolled back by {rolled_back.by}, on the way to version {rolled_back.version}; take it again "
            f"(`esteira rollback --to {version}`), or train it anew with --again"
        )
    if (now.version if now else None) != proposal.measured:
        raise Refused(
            f"version {version} was measured against {named(proposal.measured)}, but the champion is "
            f"{named(now.version if now else None)}; train or check again"
        )
    if now is not None and effective_day(as_of) < now.effective_day:
        raise Refused(
            f"version {version} is of {as_of}, older than the champion, which serves from {now.effective_day}; train for a later day"
        )
    return Promoted(
        number=state.number + 1,
        version=version,
        measured=proposal.measured,
        day=effective_day(as_of),
        replaces_from=proposal.replaces_from or effective_day(as_of),
        twin=proposal.twin,
        seen=proposal.seen,
        why=proposal.why,
        by=proposal.by,
        facts=proposal.facts,
    )


def roll_back(
    state: State, *, to: int | None, last_served: date | None, first_day: date | None = None, reason: str = "", by: str
) -> RolledBack | Promoted | None:
    """Go back to a version that was champion, by default the one before; None where that is how it stands.

    All promotions since the one of that version that stands are void, from `first_day` on where it is given, those too that
    were void on some days before. The version serves from the day after `last_served` on. One that was itself taken back is
    promoted again. Raises Refused where there is none to go back to.
    """
    now, standing_back = state.champion, state.standing_back
    if now is None:
        raise Refused("there is no champion yet, so there is nothing to roll back")
    if standing_back is not None and to in (None, now.version) and _is_wider(first_day, standing_back.first_day):
        return replace(
            standing_back,
            number=state.number + 1,
            bad=now.version,
            first_day=first_day,
            voids=tuple(sorted(state.voided(standing_back))),
            why=_why(standing_back.bad, reason),
            by=by,
        )
    if to == now.version or (to is None and standing_back is not None):
        _require_its_days(state, now, first_day)
        return None
    others = [each for each in state.standing() if each.version != now.version]
    target = next((each for each in reversed(others) if to in (None, each.version)), None)
    since = max(now.effective_day, _after(last_served))
    if target is None and to is None:
        raise Refused(
            f"version {now.version} is the first champion, so there is none to go back to; train and promote a new version"
        )
    if target is None:
        return _chosen_again(state, to or 0, since, first_day, reason, by)
    return RolledBack(
        number=state.number + 1,
        version=target.version,
        bad=now.version,
        voids=tuple(each.number for each in state.promotions if each.number > target.number),
        first_day=first_day,
        day=max(since, first_day or date.min),
        why=_why(now.version, reason),
        by=by,
    )


def _require_its_days(state: State, now: Serving, first_day: date | None) -> None:
    """Raise Refused where days are asked for that the champion's promotion does not replace: no going back gives it those."""
    promoted = state.promotion_of(now)
    if promoted is not None and first_day is not None and first_day < state.replaces_from(promoted):
        raise Refused(
            f"version {now.version} is the champion already, and its promotion replaces predictions from "
            f"{state.replaces_from(promoted)} on, not from {first_day}; score the days before with it "
            f"(`esteira score --day {first_day} --last-day … --version {now.version}`)"
        )


def _chosen_again(state: State, version: int, since: date, first_day: date | None, reason: str, by: str) -> Promoted:
    """Promote a version that was taken back, from `since` on; it replaces from the first day that was asked for on."""
    before = next((each for each in reversed(state.promotions) if each.version == version), None)
    if before is None:
        raise Refused(f"version {version} was never champion, so there is no going back to it")
    return Promoted(
        number=state.number + 1,
        version=version,
        measured=state.champion.version if state.champion else None,
        day=since,
        replaces_from=first_day or since,
        twin=before.twin,
        seen=before.seen,
        why="chosen again" + (f": {reason}" if reason else ""),
        by=by,
    )


def _is_wider(asked: date | None, done: date | None) -> bool:
    """Whether a roll-back from a first day on (None: of all days) reaches further back than one that was done."""
    return done is not None and (asked is None or asked < done)


def _why(bad: int, reason: str) -> str:
    return f"rolled back from version {bad}" + (f": {reason}" if reason else "")


def undo(state: State, *, last_served: date | None, reason: str = "", by: str) -> Undone | None:
    """Take the last roll-back back; None where that was done. Raises Refused after a later promotion, or without one."""
    last = state.changes[-1] if state.changes else None
    if last is not None and any(each.number == last.number for each in state.of(Undone)):
        return None
    rollback = next((each for each in state.rollbacks if last is not None and each.number == last.number), None)
    if rollback is None:
        raise Refused("the last change is no roll-back, so there is none to undo; promote, or roll back with --to")
    return Undone(
        number=state.number + 1,
        version=rollback.bad,
        undoes=rollback.number,
        day=max(rollback.day, _after(last_served)),
        why=f"the roll-back to version {rollback.version} was undone" + (f": {reason}" if reason else ""),
        by=by,
    )


def pin(state: State, version: int, first: date, last: date, *, by: str, run: str = "") -> Pinned | None:
    """Choose a version for days by hand; None where the `run` has done it before, or where it is so."""
    done = any(_is_done(each, first, last, run) and each.version == version for each in state.of(Pinned))
    held = (state.pinned(day) for day in _days(first, last))
    if done or (not run and all(each is not None and each.version == version for each in held)):
        return None  # by a run it is noted all the same: what it has found done it does not do later either
    why = f"version {version} was chosen by hand"
    return Pinned(number=state.number + 1, version=version, day=first, last=last, why=why, by=by, run=run)


def release(state: State, first: date, last: date, *, by: str, run: str = "") -> Released | None:
    """Let go what was chosen by hand for days, and for no others; None where the `run` has done it before, or where nothing was."""
    done = any(_is_done(each, first, last, run) for each in state.of(Released))
    if done or (not run and all(state.pinned(day) is None for day in _days(first, last))):
        return None
    return Released(number=state.number + 1, day=first, last=last, why="the champion again", by=by, run=run)


def _is_done(before: Pinned | Released, first: date, last: date, run: str) -> bool:
    """Whether a run has done so for the days, or for more: one that was deleted may be started again under its name for others."""
    return bool(run) and before.run == run and before.day <= first and last <= before.last


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def named(version: int | None) -> str:
    """A version in a sentence."""
    return f"version {version}" if version else "no version"


def _after(last: date | None) -> date:
    return last + timedelta(days=1) if last else date.min
