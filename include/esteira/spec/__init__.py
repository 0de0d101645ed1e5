"""The contract: one model.yaml, read once into a frozen ModelSpec; every mistake is named with its line and its mend."""

from esteira.spec.cache import prune
from esteira.spec.model import ModelSpec
from esteira.spec.policy import Candidate, Dimension, Limit, Recipe, Violated
from esteira.spec.reading import by_name, digest, find, json_schema, load, load_cached, model_files, require_one
from esteira.spec.rows import Expectation
from esteira.spec.words import (
    CENTURY,
    FIRST_DAY,
    canonical,
    fault_of_day,
    nearest,
    today,
)

__all__ = [
    "CENTURY",
    "FIRST_DAY",
    "Candidate",
    "Dimension",
    "Expectation",
    "Limit",
    "ModelSpec",
    "Recipe",
    "Violated",
    "by_name",
    "canonical",
    "digest",
    "fault_of_day",
    "find",
    "json_schema",
    "load",
    "load_cached",
    "model_files",
    "nearest",
    "prune",
    "require_one",
    "today",
]
