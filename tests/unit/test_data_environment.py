"""What clients of storage must not do unasked."""

from __future__ import annotations

import os

import pytest
from esteira import data


def test_no_metadata_service_is_asked_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    data.skip_instance_metadata()
    assert os.environ["AWS_EC2_METADATA_DISABLED"] == "true"
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    data.skip_instance_metadata()
    assert os.environ["AWS_EC2_METADATA_DISABLED"] == "false"
