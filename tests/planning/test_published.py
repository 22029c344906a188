"""Plans beside runs that were published: device hours of pretraining, to the factor that docs/scale.md states."""

import pytest

from fathom.planning.models import MODELS
from fathom.planning.plan import Plan, plan
from tests.planning.runs import FACTOR, RUNS, Published


def planned(run: Published) -> Plan:
    """As `fathom plan MODEL --devices NxDEVICE --tokens T --batch B` plans it."""
    rows = run.batch // MODELS[run.model].context_length
    return plan(run.model, devices=f"{run.n}x{run.device}", tokens=run.tokens, batch=rows)


def hours(run: Published) -> float:
    return run.n * float(planned(run).time["hours"])


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.model)
def test_device_hours_are_within_the_factor(run: Published) -> None:
    assert 1 / FACTOR <= hours(run) / run.hours <= FACTOR
