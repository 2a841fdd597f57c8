"""Where the server may listen, and the socket options that keep a rig answering.

Loopback and ipc only: another interface needs keys, or anyone on the network could be
the scanner.
"""

import ipaddress
from typing import Final

import zmq

from bci_bridge.header import MAX_PAYLOAD_BYTES
from runtime.errors import BackendError, UsageError

SLACK_BYTES: Final = 1 << 16
"""Room for headers beside the largest payload."""


def check_address(address: str) -> None:
    """Refuse an address that is malformed or reaches beyond this machine.

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
    if not _is_loopback(host):
        raise UsageError(
            f"address {address!r}: expected a loopback address, found {host}. "
            "Other interfaces need keys, which this server does not have."
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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
) -> tuple["zmq.Socket[bytes]", str]:
    """Open a server socket.

    Returns:
        The socket, which the caller closes, and its endpoint with the real port.

    Raises:
        UsageError: If the address is not allowed.
        BackendError: If it cannot be bound.
    """
    check_address(address)
    socket = context.socket(kind)
    # reliability.md 3.6: a peer that stalls, floods or vanishes must cost nothing.
    socket.setsockopt(zmq.LINGER, 500)
    socket.setsockopt(zmq.RCVHWM, high_water)
    socket.setsockopt(zmq.SNDHWM, high_water)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_PAYLOAD_BYTES + SLACK_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 100)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 300)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    if address.startswith("tcp://["):
        socket.setsockopt(zmq.IPV6, 1)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise BackendError(_why_not_bound(address, error.errno or 0)) from error
    return socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)
