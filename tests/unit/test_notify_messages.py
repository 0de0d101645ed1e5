"""What mails say that no check in other tests comes to."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
from esteira.lifecycle.policy import Outcome
from esteira.notify import messages
from esteira.store.measurements import Estimate

from tests import models

DAY = date(2026, 3, 1)


@pytest.mark.parametrize(
    ("attempts", "said"),
    [
        ({1: (Outcome.FAILS, 0.25, 0.1), 2: (Outcome.FAILS, 0.2, 0.2)}, "Attempt 1 was, at 0.25,"),
        ({0: (Outcome.UNPROVEN, 0.25, 0.1)}, "A blend of what was trained before was, at 0.25,"),
        ({1: (Outcome.FAILS, 0.25, -0.1)}, ""),  # the champion was in range there, too
        ({1: (Outcome.FAILS, 0.35, 0.1)}, ""),
        ({1: (Outcome.IMPROVES, 0.25, 0.1)}, ""),  # it is promoted
    ],
)
def test_a_warning_says_where_an_attempt_was_back_in_range_and_not_surely_better(
    tmp_path: Path, attempts: dict[int, tuple[Outcome, float, float]], said: str
) -> None:
    known = {
        number: SimpleNamespace(outcome=outcome, value=value, gain=gain)
        for number, (outcome, value, gain) in attempts.items()
    }
    found = messages._back_in_range(models.write(tmp_path), SimpleNamespace(attempts=known))  # type: ignore[arg-type]
    assert found == said


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (None, "Nobody knows how good its predictions are meanwhile."),
        (Estimate(0.1234, True, None), "By the estimate from its inputs mae_over_mean is 0.1234 meanwhile."),
    ],
)
def test_a_mail_of_a_wait_gives_the_estimate_where_there_is_one(
    tmp_path: Path, expected: Estimate | None, said: str
) -> None:
    mail = messages.waits(models.write(tmp_path), DAY, date(2026, 1, 1), "few labels", None, expected)
    assert said in mail.lead
