"""Real signals, sent by the kernel to this process and to a saving child."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fathom.formats import checkpoint
from fathom.training.signals import Stop, stop_on_signal
from tests.conftest import ROOT

BOTH = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def handlers_as_at_the_start() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in BOTH}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_is_a_wish(number: signal.Signals) -> None:
    with stop_on_signal() as stop:
        assert stop.requested is None
        os.kill(os.getpid(), number)
        assert stop.requested is number


@pytest.mark.parametrize("first", BOTH)
def test_ctrl_c_after_a_wish_interrupts_at_once(first: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signal() as stop:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("not interrupted")
    assert stop.requested is first


def test_sigterm_twice_is_still_a_wish() -> None:
    with stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested is signal.SIGINT  # the first one: it names the exit code


@pytest.mark.parametrize("error", [None, ValueError])
def test_handlers_are_given_back(error: type[Exception] | None) -> None:
    caught: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    try:
        with stop_on_signal():
            if error:
                raise error
    except ValueError:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert caught == [signal.SIGTERM]


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested is None


def test_outside_the_main_thread_it_is_an_empty_wish() -> None:
    found: list[Stop] = []

    def run() -> None:
        with stop_on_signal() as stop:
            found.append(stop)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found[0].requested is None


LOOP = """
import sys
from pathlib import Path
from fathom.formats import checkpoint
from fathom.training.signals import stop_on_signal
with stop_on_signal() as stop:
    for step in range(1, 10**9):
        if step % 50 == 0:
            print(step, flush=True)
        if stop.requested:
            checkpoint.save(Path(sys.argv[1]), step, {"state.json": str(step).encode()})
            sys.exit(128 + stop.requested)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_loop_that_is_asked_to_stop_leaves_a_good_checkpoint(tmp_path: Path, number: int, code: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", LOOP, tmp_path], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline()  # it is in the loop
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    found = checkpoint.latest(tmp_path)
    assert (found.path / "state.json").read_text() == str(found.step)
