"""The bodies of a server's processes: set up, take turns, end in order.

Each ends by itself when its supervisor does, however that came about: nobody is left
behind who would hold a port or a lock.
"""

import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import zmq

from bci_bridge.admission import Admission
from bci_bridge.answerer import Answerer
from bci_bridge.decoder import Decoder
from bci_bridge.examination import examine
from bci_bridge.health import Health
from bci_bridge.ingress import Ingress
from bci_bridge.messages import RigNote
from bci_bridge.pages import page_of
from bci_bridge.publisher import Publisher
from bci_bridge.settings import INGRESS, PUBLISHER
from bci_bridge.setup import (
    Account,
    Beat,
    Failure,
    Ready,
    Setup,
    path_of,
    read_if_there,
    write_whole,
)
from bci_bridge.urgency import SERVER, become_urgent
from bci_bridge.vitals import Vitals
from runtime.errors import BackendError, GuardError, NeuroFlowError

_PR_SET_PDEATHSIG: Final = 1
ACCOUNT_NS: Final = 100_000_000
"""How often a part says what it has done."""


@runtime_checkable
class _Part(Protocol):
    def turn(self) -> None: ...

    def sleep_ms(self) -> int: ...


def forked(body: Callable[[Setup], None], setup: Setup) -> int:
    """Let a copy of this process, which has no thread, be a part; return its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        body(setup)
        status = 0
    except NeuroFlowError:
        pass  # on record for the supervisor
    finally:
        # Not the way out of the program that this process is a copy of.
        os._exit(status)


def run_ingress(setup: Setup) -> None:
    """Be the process that meets the scanner."""
    if setup.outlet is None or setup.admission is None:
        raise BackendError("ingress: expected outlet and admission, found none")
    _cap_memory(setup)
    with _part(setup, INGRESS) as (stop, stack):
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
        poller, earlier = _poller(ingress.socket), _earlier(setup, INGRESS)

        def account() -> Account:
            came = ingress.report().after(earlier.came)
            return Account(came=came, trouble=ingress.trouble)

        def ready() -> Ready | None:
            if not ingress.has_held():
                return None
            return Ready(endpoint=ingress.endpoint, is_urgent=is_urgent)

        try:
            _take_turns(setup, INGRESS, ingress, poller, stop, ready, account)
        except BackendError:
            ingress.finish(is_urgent=True)
            raise
        ingress.finish()
        _say(setup, INGRESS, account())


def run_publisher(setup: Setup) -> None:
    """Be the process that gives outcomes out."""
    _cap_memory(setup)
    with _part(setup, PUBLISHER) as (stop, stack):
        is_urgent = setup.config.is_urgent and become_urgent(SERVER)
        earlier = _earlier(setup, PUBLISHER)
        publisher = Publisher(
            setup.config,
            setup.places,
            time.monotonic_ns,
            stack,
            is_restart=setup.is_restart,
            counted=None if earlier.went is None else earlier.went.counts,
        )
        poller, health = _poller(*publisher.sockets), _health(setup, stack)

        def account() -> Account:
            went = publisher.report().after(earlier.went)
            trouble = publisher.trouble or ("" if health is None else health.trouble)
            return Account(went=went, trouble=trouble)

        def ready() -> Ready | None:
            # Its ports are needed before its attack on itself is over.
            return Ready(
                outlet=publisher.outlet,
                is_safe=publisher.has_held(),
                health="" if health is None else health.endpoint,
                is_urgent=is_urgent,
            )

        _take_turns(setup, PUBLISHER, publisher, poller, stop, ready, account)
        publisher.turn()
        _say(setup, PUBLISHER, account())


def run_worker(
    setup: Setup,
    name: str,
    open_decoder: Callable[[contextlib.ExitStack], Decoder],
    rig: RigNote | None = None,
) -> None:
    """Be a process that answers or stands by.

    Args:
        setup: What to know.
        name: One of `bci_bridge.settings.WORKERS`.
        open_decoder: Loads and warms the decoder; what it opens goes on the stack.
        rig: What the decoder computes with.
    """
    with _part(setup, name) as (stop, stack):
        decoder = open_decoder(stack)
        # Only now: who loads for seconds must not hold up who answers meanwhile.
        is_urgent = setup.config.is_urgent and become_urgent(SERVER)
        places = setup.places
        answerer = Answerer(name, places, decoder, time.monotonic_ns, stack, rig)
        admission, earlier = Admission.of(decoder), _earlier(setup, name)

        def account() -> Account:
            return Account(wrote=answerer.report().after(earlier.wrote))

        def ready() -> Ready | None:
            # A standby is ready once it has caught up as far as it may.
            return Ready(
                admission=admission, is_active=answerer.is_active, is_urgent=is_urgent
            )

        _take_turns(
            setup, name, answerer, _poller(answerer.socket), stop, ready, account
        )
        answerer.drain()
        _say(setup, name, account())


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


def _cap_memory(setup: Setup) -> None:
    """Let a peer that bursts this process not burst the machine."""
    limit = setup.config.memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@contextlib.contextmanager
def _part(
    setup: Setup, name: str
) -> Iterator[tuple[Callable[[], bool], contextlib.ExitStack]]:
    """Live and die with the supervisor; leave a line where it ends badly."""
    _die_with(setup.supervisor)
    caught: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    # Ctrl-C reaches the whole group; the supervisor says who ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with contextlib.ExitStack() as stack:
            yield lambda: bool(caught), stack
    except NeuroFlowError as error:
        failure = Failure(
            message=str(error),
            exit_status=error.exit_status,
            is_final=isinstance(error, GuardError),
        )
        write_whole(path_of(Path(setup.moment), name, "failure"), failure)
        raise


def _take_turns(
    setup: Setup,
    name: str,
    part: _Part,
    poller: zmq.Poller,
    stop: Callable[[], bool],
    ready: Callable[[], Ready | None],
    account: Callable[[], Account],
) -> None:
    gc.collect()
    # What exists now lives as long as the process: no pause should look at it.
    gc.freeze()
    beat, said, accounted_ns = Beat(Path(setup.moment), name), None, 0
    done: Account | None = None
    try:
        while not stop():
            part.turn()
            now_ns = time.monotonic_ns()
            beat.beat(now_ns)
            found = ready()
            if found is not None and found != said:
                write_whole(path_of(Path(setup.moment), name, "ready"), found)
                said = found
            if now_ns - accounted_ns > ACCOUNT_NS:
                accounted_ns, before, done = now_ns, done, account()
                if done != before:
                    _say(setup, name, done)
            poller.poll(part.sleep_ms())
    finally:
        beat.close()


def _say(setup: Setup, name: str, account: Account) -> None:
    # A full memory costs the monitor its figures, and nobody an answer.
    with contextlib.suppress(OSError):
        write_whole(path_of(Path(setup.moment), name, "account"), account)


def _earlier(setup: Setup, name: str) -> Account:
    """Read what the process did that this one replaces, to within `ACCOUNT_NS`."""
    path = path_of(Path(setup.moment), name, "account")
    return read_if_there(path, Account) or Account()


def _poller(*sockets: "zmq.Socket[bytes] | int") -> zmq.Poller:
    poller = zmq.Poller()
    for one in sockets:
        poller.register(one, zmq.POLLIN)
    return poller


def _die_with(supervisor: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        raise BackendError("supervisor: expected it to live, found it gone")
