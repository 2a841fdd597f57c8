"""Results of benchmarks for tests, of known figures."""

from runtime.bench.limits import Rate
from runtime.bench.machine import Machine, Moment
from runtime.bench.result import (
    LimitRound,
    Limits,
    PacedSeries,
    Process,
    Result,
    Series,
    Steps,
    Who,
)
from runtime.bench.work import Work
from runtime.timing import Paced

OURS = Who(peer="openvino", precision="f32", threads=2)
THEIRS = Who(peer="ort", precision="f32", threads=2)
MACHINE = Machine(
    cpu="A Processor 9000",
    cores=2,
    memory_bytes=8 * 10**9,
    cache_bytes=None,
    instruction_sets=("avx2", "fma"),
    hypervisor=True,
    governor=None,
    system="Linux 6.1 x86_64",
    versions={"numpy": "2.4.6"},
)
QUIET = Moment(clock_mhz=None, temperature_c=None, load=0.1)
ROUNDS = 6


def result(scale: float = 1.0, machine: Machine = MACHINE, **fields) -> Result:
    """Every stage takes `scale` times 10 ms; the machine could do it in 5 ms."""
    reached = LimitRound(
        flop=Rate(per_s=1e9, by="numpy"), memory=Rate(per_s=1e12, by="read")
    )

    def taken(ms):
        return round(ms * scale * 1e6)

    def steps(who, once, step):
        times = tuple(taken(once + step * n) for n in (1, 5, 10, 20))
        return Steps(who=who, evaluations=(1, 5, 10, 20), rounds_ns=(times,) * ROUNDS)

    known = {
        "created": "2026-01-02",
        "subject": "preset tiny",
        "sizes": None,
        "gallery": 100,
        "decode_evaluations": 2,
        "machine": machine,
        "before": QUIET,
        "after": QUIET,
        "steal": 0.015,
        "work": {
            "encoder": Work(flop=5_000_000, weights=1),
            "step": Work(flop=5_000_000, weights=1),
        },
        "limits": (Limits(threads=2, precision="f32", rounds=(reached,) * ROUNDS),),
        "series": (
            Series(
                stage="encoder",
                who=OURS,
                rounds_ns=((taken(9), taken(10), taken(30)),) * ROUNDS,
                cpu_ns=(taken(98),) * ROUNDS,
            ),
        ),
        "steps": (steps(OURS, 2, 10), steps(THEIRS, 2, 40)),
        "paced": (
            PacedSeries(
                stage="decode",
                who=OURS,
                period_ns=10**9,
                deadline_ns=10**9,
                paced=Paced(
                    latency_ns=(taken(10),) * 20, service_ns=(taken(9),) * 20, misses=0
                ),
            ),
        ),
        "processes": (
            Process(
                who=OURS,
                fresh_ns=3 * 10**9,
                cached_ns=(10**9,),
                resident_bytes=500 * 10**6,
                peak_bytes=600 * 10**6,
            ),
        ),
    }
    return Result(**(known | fields))
