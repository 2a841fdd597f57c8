"""A server without fault, as its processes tell it, and with what a test changes."""

from bci_bridge.settings import IngressReport, PublisherReport, ServeConfig
from bci_bridge.setup import Ready
from bci_bridge.vitals import Log, Process, Vitals

NOW = 100_000_000_000
CONFIG = ServeConfig(recording="somewhere", free_mb=100, hang_s=5.0)


def vitals(**changes):
    processes = {
        "ingress": Process("ingress", Ready(), NOW, resident_bytes=1000),
        "publisher": Process("publisher", Ready(), NOW, restarts=2),
        "worker-a": Process("worker-a", Ready(is_active=True), NOW),
        "worker-b": Process("worker-b", Ready(), NOW),
    }
    fields = {
        "now_ns": NOW,
        "supervisor": Process("supervisor", None, NOW - 500_000_000),
        "came": IngressReport(recording="ON"),
        "went": PublisherReport(),
        "log": Log(True, 200 << 20),
    }
    named = {name.replace("_", "-"): one for name, one in changes.items()}
    for name in processes:
        if name in named:
            processes[name] = named.pop(name)
    return Vitals(processes=tuple(processes.values()), **{**fields, **named})
