"""A limit on the memory of a process that reads what others wrote."""

import resource


def cap_memory(limit_bytes: int) -> None:
    """Let a peer that bursts this process not burst the machine.

    Args:
        limit_bytes: Of address space; a limit that is lower already stays.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
