"""A network of its own that loses packets: ``unshare -n python -m tests.faults.lossy``.

In a network namespace an nftables rule drops a share of all packets, acknowledgements
included, between all parties. Arguments: volumes, then thousandths of packets to drop;
prints what became of the run as JSON.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict

from tests.faults.recordings import scratch

TOOLS = ("unshare", "ip", "nft")
TABLE = "inet faults"


def can_be() -> bool:
    """Say whether this machine gives such a network to this user."""
    if not all(map(shutil.which, TOOLS)):
        return False
    tried = ["unshare", "-n", "nft", "add", "table", *TABLE.split()]
    return subprocess.run(tried, capture_output=True).returncode == 0


def arrange(thousandths: int) -> None:
    """Bring the loopback up, and let it lose packets."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    rules = (
        f"add table {TABLE}\n"
        f"add chain {TABLE} input {{ type filter hook input priority 0; }}\n"
        f"add rule {TABLE} input numgen random mod 1000 < {thousandths} counter drop\n"
    )
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


def dropped() -> int:
    """Count the packets that were lost."""
    listed = subprocess.run(
        ["nft", "-j", "list", "table", *TABLE.split()], capture_output=True, check=True
    )
    rules = [
        one["rule"] for one in json.loads(listed.stdout)["nftables"] if "rule" in one
    ]
    return sum(
        part["counter"]["packets"]
        for rule in rules
        for part in rule["expr"]
        if "counter" in part
    )


def main(volumes: str, thousandths: str) -> None:
    """Play a run here, and tell."""
    # Late: that module starts this one.
    from tests.faults.network import Case, no_weather, played

    arrange(int(thousandths))
    with scratch() as folder:
        found = played(Case("lossy", int(volumes), no_weather), folder)
    found.dropped = dropped()
    sys.stdout.write(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
