"""A part of a server that dies of a defect says why, and is replaced all the same."""

import os
import re

import pytest

from bci_bridge import parts
from bci_bridge.part import SAID_CHARACTERS, part_of, said_of
from bci_bridge.parts import forked
from bci_bridge.places import held_places
from bci_bridge.settings import PUBLISHER, ServeConfig
from bci_bridge.setup import Failure, path_of, read_if_there, write_whole
from bci_bridge.supervisor import Supervisor


@pytest.fixture
def server():
    with held_places(None, str) as places:
        config = ServeConfig(address="tcp://127.0.0.1:*", is_urgent=False)
        built = Supervisor(config, places, ["/nowhere/worker"])
        yield built
        built.kill()


def test_what_a_copy_never_meant_to_raise_is_told_with_kind_and_place(
    server, monkeypatch
):
    def turns(*_, **__):
        raise RuntimeError("a defect,\nof two lines")

    monkeypatch.setattr(parts, "Publisher", turns)
    child = server._children[PUBLISHER]
    server._start(child)

    while child.restarts < 2:
        server.turn()

    assert child.pid
    for notice in server.notices():
        assert re.fullmatch(
            r"publisher died \(publisher: RuntimeError at parts\.py:\d+: "
            r"a defect, of two lines\) and was replaced",
            notice,
        )


def test_a_defect_is_no_reason_to_give_a_server_up(server):
    setup = server._setup

    def body(setup):
        with part_of(setup, PUBLISHER):
            raise MemoryError

    _, status = os.waitpid(forked(body, setup), 0)
    failure = read_if_there(
        path_of(server._places.moment, PUBLISHER, "failure"), Failure
    )

    assert os.waitstatus_to_exitcode(status) == 1
    assert failure is not None
    assert not failure.is_final
    assert re.fullmatch(r"publisher: MemoryError at part\.py:\d+", failure.message)


def test_a_line_is_short_however_much_a_defect_says():
    assert said_of(ValueError("x" * 999)) == "ValueError: " + "x" * SAID_CHARACTERS


def test_the_place_is_ours_where_a_library_raised_it(server):
    moment = server._places.moment
    with pytest.raises(FileNotFoundError) as raised:
        write_whole(
            moment / "no such folder" / "file", Failure(message="", exit_status=1)
        )

    assert re.match(r"FileNotFoundError at setup\.py:\d+: ", said_of(raised.value))
