"""Where the server may listen, and the socket options that keep a rig answering.

Loopback and ipc without keys; with keys any one interface as well, under CURVE. Never
all interfaces at once: a rig has one network for the experiment, and others.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final

import zmq

from bci_bridge.header import MAX_PAYLOAD_BYTES
from bci_bridge.keyring import KeyPair
from runtime.errors import BackendError, UsageError

SLACK_BYTES: Final = 1 << 16
"""Room for headers beside the largest payload."""

SUBSCRIPTION_BYTES: Final = 1024
"""Longest that a subscriber may say: topics are empty, and a handshake takes 400."""


@dataclass(frozen=True, slots=True)
class Lock:
    """What makes a socket ask for keys."""

    pair: KeyPair
    """The server's own."""
    domain: bytes
    """Under which name `bci_bridge.zap` is asked; never empty."""


def check_address(address: str, *, has_keys: bool = False) -> None:
    """Refuse an address that is malformed, or that anyone could reach without a key.

    Args:
        address: Where a socket shall listen.
        has_keys: Whether it will ask for keys.

    Raises:
        UsageError: With the remedy.
    """
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://") or not host or not port:
        raise UsageError(
            f"address {address!r}: expected tcp://127.0.0.1:PORT or ipc://PATH"
        )
    if port != "*" and not (port.isdecimal() and int(port) < 65536):
        raise UsageError(f"address {address!r}: expected a port below 65536 or *")
    if is_loopback(host):
        return
    if not has_keys:
        raise UsageError(
            f"address {address!r}: expected a loopback address, found {host}. "
            "Other interfaces need keys, which this server does not have. "
            "Make them with: neuroflow keys make, and give --keys"
        )
    if not is_one_interface(host):
        raise UsageError(
            f"address {address!r}: expected the IP address of one interface, "
            f"found {host}. Name the interface of the rig's own network."
        )


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a host of an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(_unbracketed(host)).is_loopback
    except ValueError:
        return False


def _unbracketed(host: str) -> str:
    """Take the brackets off an IPv6 address; one without its other stays."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def beside(address: str) -> str:
    """Give an address on the same interface with a port that the system chooses."""
    if not address.startswith("tcp://"):
        return "tcp://127.0.0.1:*"
    return f"{address.rpartition(':')[0]}:*"


def is_one_interface(host: str) -> bool:
    """Say whether a host of an address is the number of one interface, not of all."""
    # A literal only: libzmq takes "0" and "0x0" for all interfaces.
    try:
        found = ipaddress.ip_address(_unbracketed(host))
    except ValueError:
        return False
    inner = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return not any(
        one.is_unspecified or one.is_multicast
        for one in (found, inner)
        if one is not None
    )


def _why_not_bound(address: str, errno: int) -> str:
    if errno == zmq.EADDRINUSE:
        return (
            f"address {address}: expected a free port, found it in use. "
            "Stop the other program or give another --address."
        )
    return (
        f"address {address}: expected an address to listen at, "
        f"found {zmq.strerror(errno).lower()}"
    )


def bound(
    context: "zmq.Context[zmq.Socket[bytes]]",
    kind: int,
    address: str,
    *,
    high_water: int,
    lock: Lock | None = None,
) -> tuple["zmq.Socket[bytes]", str]:
    """Open a server socket.

    Args:
        context: With its ZAP handler bound, where there is a lock.
        kind: ROUTER or PUB.
        address: Where to listen.
        high_water: Messages per peer that wait in memory.
        lock: Ask for keys.

    Returns:
        The socket, which the caller closes, and its endpoint with the real port.

    Raises:
        UsageError: If the address is not allowed.
        BackendError: If it cannot be bound.
    """
    check_address(address, has_keys=lock is not None)
    socket = context.socket(kind)
    # reliability.md 3.6: a peer that stalls, floods or vanishes must cost nothing.
    options: dict[int, int | bytes] = {
        zmq.LINGER: 500,
        zmq.RCVHWM: high_water,
        zmq.SNDHWM: high_water,
        zmq.MAXMSGSIZE: MAX_PAYLOAD_BYTES + SLACK_BYTES,
        zmq.HANDSHAKE_IVL: 1000,
        # The kernel finds a machine that is gone within 4 s; whoever stands still loses
        # a lease (`bci_bridge.protocol`). No ZMQ_HEARTBEAT_IVL: a ping to a peer that
        # has died while its input was stopped at the mark aborts this process (libzmq
        # 4.3.5; tests/integration/test_killed_flooder.py).
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: 1,
        zmq.TCP_KEEPALIVE_INTVL: 1,
        zmq.TCP_KEEPALIVE_CNT: 3,
        # A storm of connections must not push a peer's own out of the queue.
        zmq.BACKLOG: 1024,
    }
    if kind == zmq.PUB:
        # Room for a handshake; each byte of a topic costs tens in the publisher.
        options[zmq.MAXMSGSIZE] = SUBSCRIPTION_BYTES
    if kind == zmq.ROUTER:
        options |= {zmq.ROUTER_MANDATORY: 1, zmq.ROUTER_HANDOVER: 0}
    if address.startswith("tcp://["):
        options[zmq.IPV6] = 1
    if lock is not None:
        # A domain alone lets everyone in where the handler has died; enforcing it does
        # not (libzmq 4.3.5, ZMQ_ZAP_ENFORCE_DOMAIN).
        options |= {
            zmq.CURVE_SERVER: 1,
            zmq.CURVE_SECRETKEY: lock.pair.secret_key.encode(),
            zmq.ZAP_DOMAIN: lock.domain,
            zmq.ZAP_ENFORCE_DOMAIN: 1,
        }
    for option, value in options.items():
        socket.setsockopt(option, value)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise BackendError(_why_not_bound(address, error.errno or 0)) from error
    return socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)
