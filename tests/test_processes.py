"""What torchrun's environment says of a process, and what it cannot say."""

import re

import pytest

from fathom.errors import FathomError
from fathom.processes import Process, launch_name, this_process

MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_without_an_environment_a_process_is_alone() -> None:
    assert this_process({}) == this_process({"RANK": "0", "WORLD_SIZE": "1"}) == Process()
    assert not this_process({}).several and this_process({}).first


def test_what_torchrun_sets() -> None:
    """Two machines with four processes each: the second process of the second one, started for the third time."""
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", **MEETING}
    assert this_process(environment) == Process(5, 8, 1, 4)
    again = this_process(environment | {"TORCHELASTIC_RESTART_COUNT": "2"})
    assert again == Process(5, 8, 1, 4, attempt=2, restarts=True) and again.several and not again.first


WRONG = {
    "the environment has RANK='one'": {"RANK": "one", "WORLD_SIZE": "2"},
    "the environment has RANK='-1'": {"RANK": "-1", "WORLD_SIZE": "2"},
    "the environment has RANK='2'; expected a whole number from 0 to 1": {"RANK": "2", "WORLD_SIZE": "2"},
    "the environment has RANK='²'": {"RANK": "²", "WORLD_SIZE": "4"},
    "the environment has RANK=''": {"RANK": "", "WORLD_SIZE": "4"},
    "the environment has WORLD_SIZE='0'": {"RANK": "0", "WORLD_SIZE": "0"},
    "the environment has WORLD_SIZE='2.0'": {"RANK": "0", "WORLD_SIZE": "2.0"},
    "RANK is set and WORLD_SIZE is not": {"RANK": "0"},
    "WORLD_SIZE is set and RANK is not": {"WORLD_SIZE": "2"},
    "the environment has LOCAL_RANK='7'": {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "7", "LOCAL_WORLD_SIZE": "4"},
    "the environment has LOCAL_WORLD_SIZE='9'": {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "9"},
    "the environment has MASTER_PORT='http'": {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "http"},
    "the environment has MASTER_PORT='70000'": {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "70000"},
    "WORLD_SIZE is 2 and MASTER_ADDR is not set": {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": ""},
    "the environment has TORCHELASTIC_RESTART_COUNT='x'": {
        "RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "x"
    },
}  # fmt: skip


@pytest.mark.parametrize("found", WRONG)
def test_an_environment_that_cannot_be_is_refused(found: str) -> None:
    with pytest.raises(FathomError, match=re.escape(found)) as error:
        this_process(MEETING | WRONG[found])
    assert "unset RANK and WORLD_SIZE to train with one process" in str(error.value)


def test_a_launch_has_one_name() -> None:
    assert launch_name() == launch_name() and launch_name().split()
