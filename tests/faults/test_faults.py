"""Every fault's short form holds, and fails once the thing under test is broken."""

import json
import pkgutil
import sys
from unittest import mock

import pytest

from tests.faults import __main__ as command
from tests.faults import registry
from tests.faults.result import NONE, Bound, Fault, Finding, Settings, carry_out
from tests.faults.supervised import SABOTAGES
from tests.faults.table import table

QUICK = {"recording-cut", "recording-flip"}
"""Below a second; all others are slow, whoever adds them."""

PROCESSES = {"kill", "soak", "deadline", "hostile", "memory", "network", "replays"}
"""Those start whole servers: the suite runs their short forms, and `make faults-short`
their sabotages too, for which its ten minutes have no room."""

CHECKED = {"recording-cut", "recording-flip", "fuzz", "bundles", "sessions"}
"""Those that call the code themselves, every call held against its annotations."""

COUNTS = {
    "recording-cut": 60,
    "recording-flip": 60,
    "fuzz": 20_000,
    "fuzz-socket": 5_000,
    "sessions": 2,
    "hostile": 300,
    "deadline": 200,
}
"""Fewer tries than the command's short form: under pytest every call of the code may be
held against its annotations, which takes ten times as long."""

FOUND_BROKEN = {
    "recording-cut": ("intact_not_returned",),
    "recording-flip": ("wrong_frames",),
    "fuzz": ("other_exceptions",),
    "fuzz-socket": ("legitimate_lost", "growth_mib_ingress"),
    "bundles": ("parsed_before_refusal", "graphs_parsed"),
    "sessions": ("violations",),
    "kill": ("duplicated",),
    "soak": ("worker_a_kib_per_1000",),
    "deadline": ("beyond_empty_percent",),
    "hostile": ("let_in_at_inputs", "let_in_at_publish", "let_in_at_replay"),
    "memory": ("peak_mib_publisher",),
    "network": ("lost",),
    "replays": ("differences",),
}
"""Figures by which each sabotage is found."""

EVERY = [
    pytest.param(
        name,
        marks=[
            *([] if name in QUICK else [pytest.mark.slow]),
            *([pytest.mark.checked] if name in CHECKED else []),
        ],
    )
    for name in registry.MODULES
]


SABOTAGED = [one for one in EVERY if one.values[0] not in PROCESSES]


@pytest.mark.parametrize("name", EVERY)
def test_the_short_form_passes(name):
    settings = Settings(seed=1, count=COUNTS.get(name))

    record = carry_out(registry.load(name), settings)

    assert record["passed"], (record["failed"], record["figures"])
    assert record["failed"] == []


@pytest.mark.parametrize("name", SABOTAGED)
def test_the_sabotaged_short_form_fails_by_the_figure_that_is_sabotaged(name):
    settings = Settings(seed=1, sabotage=True, count=COUNTS.get(name))

    record = carry_out(registry.load(name), settings)

    assert not record["passed"]
    assert {*FOUND_BROKEN[name]} <= {*record["failed"]}


@pytest.mark.parametrize("name", SABOTAGES)
def test_what_a_sabotaged_server_lacks_is_there_in_a_sound_one(name):
    # Those of whole systems are tried by hand: here, that there is what they break.
    target, instead = SABOTAGES[name]
    sound = pkgutil.resolve_name(target)

    with mock.patch(target, instead):
        assert pkgutil.resolve_name(target) is instead is not sound


def test_sabotage_is_over_when_the_fault_is():
    fault = registry.load("recording-flip")
    carry_out(fault, Settings(sabotage=True, count=8))

    assert carry_out(fault, Settings(count=80))["passed"]


@pytest.mark.parametrize(
    ("figures", "bounds", "passed"),
    [
        ({"lost": 0}, {"lost": NONE}, True),
        ({"lost": 1}, {"lost": NONE}, False),
        ({"lost": float("nan")}, {"lost": NONE}, False),
        ({}, {"lost": NONE}, False),
        ({"lost": 0}, {}, False),
        ({"n": 5}, {"n": Bound(at_least=5)}, True),
        ({"n": 4}, {"n": Bound(at_least=5)}, False),
        ({"n": 9}, {"n": Bound(at_most=8)}, False),
        ({"n": "many"}, {"n": Bound(at_least=0)}, False),
    ],
)
def test_a_finding_passes_only_if_every_bound_has_a_figure_within(
    figures, bounds, passed
):
    assert Finding(figures, bounds).passed is passed


def example(settings):
    return Finding({"lost": int(settings.sabotage)}, {"lost": NONE}, ["frame 3"])


def blind(settings):
    return Finding({"lost": 0}, {"lost": NONE}, [])


@pytest.mark.parametrize(
    ("flags", "run", "status"),
    [
        ([], example, 0),
        # All controls at once: right if each sabotage is found.
        (["--sabotage"], example, 0),
        (["--sabotage"], blind, 1),
    ],
)
def test_the_command_says_it_by_its_exit_status_and_in_json(
    monkeypatch, capsys, tmp_path, flags, run, status
):
    out = tmp_path / "faults.json"
    monkeypatch.setattr(registry, "load", lambda name: Fault(name, "", run))
    monkeypatch.setattr(
        sys,
        "argv",
        ["faults", "all", "--json", "--seed", "5", "--out", str(out), *flags],
    )

    assert command.main() == status

    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["name"] for record in said] == list(registry.MODULES)
    assert {record["seed"] for record in said} == {5}
    assert json.loads(out.read_text()) == said


def test_the_table_shows_every_bound_with_what_was_found(tmp_path):
    record = carry_out(Fault("example", "", example), Settings(sabotage=True))
    (tmp_path / "faults.json").write_text(json.dumps([record]))

    lines = table(tmp_path / "faults.json").splitlines()

    assert lines[0].startswith("| fault | figure | bound | found | passed |")
    assert lines[2:] == [
        f"| example (short), sabotaged | lost | 0 | 1 | no | {record['date']} "
        f"| {record['machine']} |"
    ]
