"""The processes of a server that its supervisor forks: ingress and publisher."""

import contextlib
import os
import time
from collections.abc import Callable
from typing import NoReturn

from bci_bridge.examination import examine
from bci_bridge.health import Health
from bci_bridge.ingress import Ingress
from bci_bridge.memory_cap import cap_memory
from bci_bridge.pages import page_of
from bci_bridge.part import earlier_account, part_of, poller_of, say, take_turns
from bci_bridge.publisher import Publisher
from bci_bridge.settings import INGRESS, PUBLISHER
from bci_bridge.setup import Account, Ready, Setup
from bci_bridge.signals import held_back
from bci_bridge.telling import flush_told
from bci_bridge.urgency import SERVER, become_urgent
from bci_bridge.vitals import Vitals
from runtime.errors import BackendError


def forked(body: Callable[[Setup], None], setup: Setup) -> int:
    """Let a copy of this process, which has no thread, be a part; return its id."""
    flush_told()
    with held_back():
        pid = os.fork()
        if not pid:
            _be(body, setup)
    return pid


def _be(body: Callable[[Setup], None], setup: Setup) -> NoReturn:
    status = 1
    try:
        body(setup)
        status = 0
    except Exception:  # noqa: S110
        pass  # on record for the supervisor, as `part_of` leaves it
    finally:
        # Not the way out of the program that this process is a copy of.
        os._exit(status)


def run_ingress(setup: Setup) -> None:
    """Be the process that meets the scanner."""
    with part_of(setup, INGRESS) as (stop, stack):
        cap_memory(setup.config.memory_mb << 20)
        if setup.outlet is None or setup.admission is None:
            raise BackendError("ingress: expected outlet and admission, found none")
        is_urgent = setup.config.is_urgent and become_urgent(SERVER)
        ingress = Ingress(
            setup.config,
            setup.places,
            setup.outlet,
            setup.admission,
            time.monotonic_ns,
            stack,
            is_restart=setup.is_restart,
        )
        poller, earlier = poller_of(ingress.socket), earlier_account(setup, INGRESS)

        def account() -> Account:
            came = ingress.report().after(earlier.came)
            return Account(came=came, trouble=ingress.trouble)

        def ready() -> Ready | None:
            if not ingress.has_held():
                return None
            return Ready(endpoint=ingress.endpoint, is_urgent=is_urgent)

        try:
            take_turns(setup, INGRESS, ingress, poller, stop, ready, account)
        except BackendError:
            ingress.finish(is_urgent=True)
            raise
        ingress.finish()
        say(setup, INGRESS, account())


def run_publisher(setup: Setup) -> None:
    """Be the process that gives outcomes out."""
    with part_of(setup, PUBLISHER) as (stop, stack):
        cap_memory(setup.config.memory_mb << 20)
        is_urgent = setup.config.is_urgent and become_urgent(SERVER)
        earlier = earlier_account(setup, PUBLISHER)
        publisher = Publisher(
            setup.config,
            setup.places,
            time.monotonic_ns,
            stack,
            is_restart=setup.is_restart,
            counted=None if earlier.went is None else earlier.went.counts,
        )
        poller, health = poller_of(*publisher.sockets), _health(setup, stack)

        def account() -> Account:
            went = publisher.report().after(earlier.went)
            trouble = publisher.trouble or ("" if health is None else health.trouble)
            return Account(went=went, trouble=trouble, unread=publisher.unread)

        def ready() -> Ready | None:
            # Its ports are needed before its attack on itself is over.
            return Ready(
                outlet=publisher.outlet,
                is_safe=publisher.has_held(),
                health="" if health is None else health.endpoint,
                is_urgent=is_urgent,
            )

        take_turns(setup, PUBLISHER, publisher, poller, stop, ready, account)
        publisher.turn()
        say(setup, PUBLISHER, account())


def _health(setup: Setup, stack: contextlib.ExitStack) -> Health | None:
    """Let a monitor ask, where one was wished for."""
    config = setup.config
    if config.health is None:
        return None

    def examined() -> Vitals:
        now_ns = time.monotonic_ns()
        return examine(setup.places, setup.supervisor, now_ns)

    health = Health(
        config.health,
        lambda path: page_of(path, examined, config),
        is_restart=setup.is_restart,
    )
    stack.callback(health.close)
    return health
