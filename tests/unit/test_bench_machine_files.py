"""A machine is read from its files, and what is not there is not made up."""

from verbs.bench_machine import read_machine, read_moment, read_times

FILES = {
    "proc/cpuinfo": "model name : A Processor\ncpu MHz : 1500\nflags : avx2 hypervisor",
    "proc/meminfo": "MemTotal:  1000 kB\n",
    "proc/loadavg": "0.25 0.1 0.1 1/99 1234\n",
    "proc/stat": "cpu  1 2 3 4 5 6 7 8 0 0\n",
    "sys/devices/system/cpu/cpu0/cache/index0/size": "32K\n",
    "sys/devices/system/cpu/cpu0/cache/index3/size": "8M\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/class/hwmon/hwmon0/temp1_input": "41000\n",
    "sys/class/hwmon/hwmon1/temp1_input": "55500\n",
}


def test_a_machine_that_tells(tmp_path):
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    machine, moment = read_machine(tmp_path), read_moment(tmp_path)

    assert (machine.cpu, machine.instruction_sets) == ("A Processor", ("avx2",))
    assert (machine.memory_bytes, machine.cache_bytes) == (1_024_000, 8 * 1024**2)
    assert (machine.governor, machine.hypervisor) == ("powersave", True)
    assert (moment.clock_mhz, moment.temperature_c, moment.load) == (1500, 55.5, 0.25)
    assert read_times(tmp_path).steal == 8


def test_a_machine_that_does_not(tmp_path):
    machine, moment = read_machine(tmp_path), read_moment(tmp_path)

    assert (machine.cpu, machine.cache_bytes, machine.governor) == (
        "unknown", None, None,
    )  # fmt: skip
    assert (moment.clock_mhz, moment.temperature_c, moment.load) == (None, None, None)
    assert read_times(tmp_path) is None
    assert machine.cores >= 1
