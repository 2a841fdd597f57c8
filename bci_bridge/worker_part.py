"""The process of a server that answers, or stands by.

Apart from the others, because it starts while someone waits: it imports what it does
and nothing of what they do.
"""

import contextlib
import time
from collections.abc import Callable, Mapping

from bci_bridge.admission import Admission
from bci_bridge.answerer import Answerer
from bci_bridge.decoder import Decoder
from bci_bridge.messages import RigNote
from bci_bridge.part import earlier_account, part_of, poller_of, say, take_turns
from bci_bridge.setup import Account, Ready, Setup
from bci_bridge.urgency import SERVER, become_urgent


def run_worker(
    setup: Setup,
    name: str,
    open_decoder: Callable[[contextlib.ExitStack], Decoder],
    rig: RigNote | None = None,
    engines: Callable[[], Mapping[str, int]] = dict,
) -> None:
    """Be a process that answers or stands by.

    Args:
        setup: What to know.
        name: One of `bci_bridge.settings.WORKERS`.
        open_decoder: Loads and warms the decoder; what it opens goes on the stack.
        rig: What the decoder computes with.
        engines: What became of the engines that it asked a cache for, by name.
    """
    with part_of(setup, name) as (stop, stack):
        decoder = open_decoder(stack)
        # All are open now; what they were does not change with a turn.
        counted = dict(engines())
        # None until it has been asked for, once: the system may refuse.
        is_urgent: bool | None = None
        places = setup.places
        answerer = Answerer(name, places, decoder, time.monotonic_ns, stack, rig)
        admission, earlier = Admission.of(decoder), earlier_account(setup, name)

        def account() -> Account:
            wrote = answerer.report().after(earlier.wrote)
            return Account(wrote=wrote, unread=answerer.unread)

        def ready() -> Ready | None:
            nonlocal is_urgent
            # Only now: who loads, or decodes again what is answered, for seconds must
            # not hold up who answers meanwhile.
            if answerer.has_caught_up and is_urgent is None:
                is_urgent = setup.config.is_urgent and become_urgent(SERVER)
            return Ready(
                admission=admission,
                is_active=answerer.is_active,
                is_behind=not answerer.has_caught_up,
                is_urgent=bool(is_urgent),
                engines=counted,
            )

        take_turns(
            setup, name, answerer, poller_of(answerer.socket), stop, ready, account
        )
        answerer.drain()
        say(setup, name, account())
