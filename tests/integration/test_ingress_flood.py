"""While more arrives than is read, time still tells what is missing."""

import contextlib
import time

from bci_bridge.admission import Admission
from bci_bridge.ingress import FULL_TURNS, Ingress
from bci_bridge.places import held_places
from bci_bridge.settings import Outlet, ServeConfig
from tests.integration.tiny import MeanDecoder

NOWHERE = "tcp://127.0.0.1:9"


def test_time_passes_in_a_flood_after_every_peer_has_had_its_turn(
    tmp_path, monkeypatch
):
    ticked = []
    with (
        held_places(tmp_path / "recording") as places,
        contextlib.ExitStack() as stack,
    ):
        ingress = Ingress(
            ServeConfig(address="tcp://127.0.0.1:*"),
            places,
            Outlet(publish=NOWHERE, replay=NOWHERE),
            Admission.of(MeanDecoder()),
            time.monotonic_ns,
            stack,
        )
        monkeypatch.setattr(
            ingress._protocol, "tick", lambda now_ns: ticked.append(now_ns) or []
        )
        monkeypatch.setattr(ingress, "_read_inputs", lambda: False)
        for _ in range(FULL_TURNS - 1):
            ingress.turn()
        before = len(ticked)
        ingress.turn()
        after = len(ticked)
        monkeypatch.setattr(ingress, "_read_inputs", lambda: True)
        ingress.turn()

    assert (before, after, len(ticked)) == (0, 1, 2)
