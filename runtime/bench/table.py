"""Results as Markdown. Pure."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from runtime.bench.compare import Comparison
from runtime.bench.figures import (
    INTERCEPT,
    STEP,
    multiple,
    no_slope,
    round_medians,
    round_slopes,
    values,
)
from runtime.bench.result import Result, Series, Steps
from runtime.bench.statistics import Interval, median_interval, ratio, slope
from runtime.timing import Summary, summary

NONE = "-"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; nothing where there are no rows."""
    found = list(rows)
    if not found:
        return ""
    lines = [list(heads), ["---"] * len(heads), *found]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float | int | None) -> str:
    """Return three significant digits, without an exponent; a dash for none."""
    if value is None:
        return NONE
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    digits = 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"


def milliseconds(ns: float | int | None) -> str:
    """Return nanoseconds as milliseconds."""
    return NONE if ns is None else number(ns / 1e6)


def within(interval: Interval | None, scale: float = 1.0) -> str:
    """Return a median with its interval in brackets."""
    if interval is None:
        return NONE
    middle = number(interval.median * scale)
    if interval.low is None or interval.high is None:
        return f"{middle} (too few rounds)"
    return f"{middle} [{number(interval.low * scale)}, {number(interval.high * scale)}]"


def _percentiles(found: Summary) -> list[str]:
    ns = (found.p50, found.p90, found.p99, found.p999, found.max)
    return [*map(milliseconds, ns), f"{found.samples:,}"]


def stages(result: Result) -> str:
    """Return every stage back to back, in milliseconds."""
    heads = ["stage", "engine", "p50", "p90", "p99", "p99.9", "max", "calls"]
    heads += ["median [95 %]", "x limit [95 %]", "CPU / wall"]
    return markdown(heads, (_stage(result, series) for series in result.series))


def _stage(result: Result, series: Series) -> list[str]:
    samples = [ns for one in series.rounds_ns for ns in one]
    medians = round_medians(series)
    cpu_ns = sum(series.cpu_ns)
    share = cpu_ns / max(sum(samples), 1) if cpu_ns else None
    return [
        series.stage,
        str(series.who),
        *_percentiles(summary(samples)),
        within(median_interval(medians), 1e-6),
        within(multiple(result, series.stage, series.who, medians)),
        number(share),
    ]


def steps(result: Result) -> str:
    """Return the flow step: slope and intercept of T(N) in milliseconds.

    Where a slope is no figure there is a dash, and the reason below.
    """
    heads = ["engine", "step [95 %]", "once [95 %]", "x limit [95 %]", "N"]
    table = markdown(heads, (_steps(result, one) for one in result.steps))
    reasons = {one.who: no_slope(round_slopes(one)[0]) for one in result.steps}
    return table + _reasons({f"{who}: no step": why for who, why in reasons.items()})


def _reasons(found: Mapping[str, str | None]) -> str:
    """Return below a table why there are dashes in it; nothing without a reason."""
    lines = [f"{what}, because {why}.\n" for what, why in found.items() if why]
    return "".join(["\n", *lines]) if lines else ""


def _steps(result: Result, one: Steps) -> list[str]:
    lengths = " ".join(map(str, one.evaluations))
    if no_slope(round_slopes(one)[0]) is not None:
        return [str(one.who), NONE, NONE, NONE, lengths]
    rounds = [[float(ns) for ns in times] for times in one.rounds_ns]
    fitted = slope(one.evaluations, rounds)
    return [
        str(one.who),
        within(fitted.slope, 1e-6),
        within(fitted.intercept, 1e-6),
        within(multiple(result, STEP, one.who, round_slopes(one)[0])),
        lengths,
    ]


def paced(result: Result) -> str:
    """Return latencies at the scanner's pace, in milliseconds from the due instant."""
    heads = ["stage", "engine", "TR", "p50", "p90", "p99", "p99.9", "max", "volumes"]
    rows = (
        [
            one.stage,
            str(one.who),
            f"{number(one.period_ns / 1e9)} s",
            *_percentiles(summary(one.paced.latency_ns)),
            f"{one.paced.misses:,}",
        ]
        for one in result.paced
    )
    return markdown([*heads, "beyond the deadline"], rows)


def processes(result: Result) -> str:
    """Return memory and cold start of processes that serve.

    Where no start was from cache there is a dash, and the reason below.
    """
    heads = ["engine", "resident MB", "peak MB", "first start s", "from cache s"]
    rows = (
        [
            str(one.who),
            number(one.resident_bytes / 1e6),
            number(one.peak_bytes / 1e6),
            number(one.fresh_ns / 1e9),
            number(
                statistics.median(one.cached_ns) / 1e9
                if one.cached_ns and not one.uncached
                else None
            ),
        ]
        for one in result.processes
    )
    reasons = {f"{x.who}: no start from cache": x.uncached for x in result.processes}
    return markdown(heads, rows) + _reasons(reasons)


def limits(result: Result) -> str:
    """Return what the machine reached itself."""
    heads = ["threads", "products GFLOP/s [95 %]", "by", "memory GB/s [95 %]", "by"]
    rows = (
        [
            str(one.threads),
            within(median_interval([r.flop.per_s for r in one.rounds]), 1e-9),
            f"{_most(r.flop.by for r in one.rounds)} {one.precision}",
            within(median_interval([r.memory.per_s for r in one.rounds]), 1e-9),
            _most(r.memory.by for r in one.rounds),
        ]
        for one in result.limits
    )
    return markdown(heads, rows)


def _most(names: Iterable[str]) -> str:
    return statistics.mode(names)


def ratios(result: Result) -> str:
    """Return the first engine over each other one, inside the same rounds."""
    heads = ["stage", "threads", "engine", "over", "ratio [95 %]"]
    return markdown(heads, _ratios(result))


def _ratios(result: Result) -> Iterator[list[str]]:
    found = values(result)
    ours = {one.who.threads: one.who for one in reversed(result.steps)}
    for (stage, who), theirs in found.items():
        first = ours.get(who.threads)
        if first is None or who == first or stage == INTERCEPT:
            continue
        mine = found.get((stage, first), [])
        is_flat = stage == STEP and (no_slope(mine) or no_slope(theirs))
        if len(mine) == len(theirs) and not is_flat:
            names = (f"{one.peer} {one.precision}" for one in (first, who))
            yield [stage, str(who.threads), *names, within(ratio(mine, theirs))]


def report(result: Result) -> str:
    """Return the whole result, with the machine that it belongs to."""
    machine, moment = result.machine, result.after
    clock = NONE if moment.clock_mhz is None else f"{number(moment.clock_mhz)} MHz"
    heat = NONE if moment.temperature_c is None else f"{number(moment.temperature_c)} C"
    steal = NONE if result.steal is None else f"{100 * result.steal:.1f} %"
    versions = ", ".join(f"{k} {v}" for k, v in sorted(machine.versions.items()))
    said = [
        f"Measured: {result.subject}, {result.created}. Times in milliseconds.",
        f"Machine: {machine.cpu}, {machine.cores} cores, "
        f"{number(machine.memory_bytes / 1e9)} GB, {machine.system}"
        f"{', in a virtual machine' if machine.hypervisor else ''}.",
        f"Instruction sets: {' '.join(machine.instruction_sets)}.",
        f"Governor {machine.governor or NONE}, clock {clock}, temperature {heat}, "
        f"load {number(result.before.load)} before, taken by others {steal}.",
        f"Versions: {versions}.",
    ]
    said += _without_limits(result)
    parts = {
        "The machine's own limits": limits(result),
        f"Stages back to back (decode: {result.decode_evaluations} evaluations; "
        f"heads: {result.gallery} items)": stages(result),
        "Flow step, called step by step: T(N) = once + N x step": steps(result),
        "At the scanner's pace, from the instant at which a volume was due": paced(
            result
        ),
        "Processes of their own": processes(result),
        "Against others": ratios(result),
    }
    tables = [f"### {name}\n\n{table}" for name, table in parts.items() if table]
    return "\n".join(["\n".join(said) + "\n", *tables])


def _without_limits(result: Result) -> list[str]:
    """Say why there is no multiple of a limit, or one of another precision's."""
    whos = dict.fromkeys(
        [*(one.who for one in result.series), *(one.who for one in result.steps)]
    )
    lines = [
        f"{who}: no multiple of a limit, because none of a GPU is measured."
        for who in whos
        if who.is_on_gpu
    ]
    reached = {one.precision for one in result.limits}
    if reached == {"f32"} and any(
        who.precision == "bf16" and not who.is_on_gpu for who in whos
    ):
        lines.append("Multiples of what computes in bf16 are of float32's limits.")
    return lines


def comparison(found: Comparison) -> str:
    """Return what changed between two runs."""
    heads = ["what", "unit", "before [95 %]", "after [95 %]", "ratio", "verdict"]
    rows = (
        [
            one.name,
            one.unit,
            within(one.before),
            within(one.after),
            number(one.ratio),
            one.verdict,
        ]
        for one in found.changes
    )
    lines = [markdown(heads, rows)]
    if not found.same_machine:
        lines.append("Another machine: times are not compared, multiples of it are.\n")
    lines += [f"{note}\n" for note in found.notes]
    lines += [f"Measured once only: {name}.\n" for name in found.missing]
    return "\n".join(lines)
