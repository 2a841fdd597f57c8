"""What a bundle says of its flow in one place fits what it says in another."""

import shutil

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runtime.bundle import (
    MANIFEST,
    TENSORS,
    decode_manifest,
    open_bundle,
    write_manifest,
)
from runtime.coherence import check_flow
from runtime.errors import BundleError
from runtime.sealed import seal
from tests.models import served_bundle
from tests.sealed_folder import specs

TABLE = "tensors.safetensors: conditioning_decode"
SUMS = (
    "manifest.json: graphs: expected each step with weights [2] and a state like z, or "
    "each with none and none"
)
ROWS = "a row for each evaluation, found"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(served_bundle(), tmp_path / "bundle")
    return tmp_path / "bundle"


def rewritten(folder, *, tensors=None, graphs=None, **flow):
    """A bundle that is sealed as it stands, and says something else."""
    manifest = decode_manifest((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).unlink()
    if tensors is not None:
        found = tensors(load_file(folder / TENSORS))
        save_file(found, folder / TENSORS)
        manifest = msgspec.structs.replace(manifest, tensors=specs(found))
    if graphs is not None:
        manifest = msgspec.structs.replace(manifest, graphs=graphs(manifest.graphs))
    manifest = msgspec.structs.replace(
        manifest,
        flow=msgspec.structs.replace(manifest.flow, **flow),
        files=seal(folder),
    )
    write_manifest(folder, manifest)
    return folder


def table(change):
    def changed(tensors):
        name = "conditioning_decode"
        found = change(tensors[name])
        kept = {key: array for key, array in tensors.items() if key != name}
        return kept if found is None else kept | {name: np.ascontiguousarray(found)}

    return changed


def ports(kind, keep):
    """The same graphs, the step with some of its inputs or outputs."""

    def changed(graph):
        kept = tuple(port for port in getattr(graph, kind) if keep(port.name))
        return msgspec.structs.replace(graph, **{kind: kept})

    return lambda graphs: tuple(
        changed(graph) if graph.name == "step" else graph for graph in graphs
    )


def test_a_bundle_that_is_only_sealed_anew_opens(folder):
    with open_bundle(rewritten(folder, tensors=lambda found: found)) as bundle:
        assert bundle.manifest.flow.decode_times == (1.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"tensors": table(lambda rows: rows[:-1])},
            f"{TABLE}: expected shape [2, 168], {ROWS} [1, 168]",
        ),
        (
            {"tensors": table(lambda rows: rows[:, :-1])},
            f"{TABLE}: expected shape [2, 168], {ROWS} [2, 167]",
        ),
        (
            {"tensors": table(lambda _rows: None)},
            f"{TABLE}: expected shape [2, 168], {ROWS} none",
        ),
        (
            {"decode_times": (1.0, 0.75, 0.5, 0.0)},
            "manifest.json: flow.decode_evaluations: expected 3, which rotation takes "
            "for 3 steps, found 2",
        ),
        (
            {"decode_times": (1.0, 0.75, 0.5, 0.0), "decode_evaluations": 3},
            f"{TABLE}: expected shape [3, 168], {ROWS} [2, 168]",
        ),
        (
            {"solver": "heun"},
            "manifest.json: flow.decode_evaluations: expected 4, which heun takes for "
            "2 steps, found 2",
        ),
        (
            {"solver": "rk4"},
            "manifest.json: flow.solver: expected one of euler, rotation, heun, found "
            "rk4",
        ),
        (
            {"path": "straight"},
            "manifest.json: flow.path: expected one of cos, cos2, linear, found "
            "straight",
        ),
        (
            {"path": "linear"},
            "manifest.json: flow.solver rotation: expected path cos, found linear. "
            "Choose euler or heun on this path.",
        ),
        (
            {"decode_times": (1.0,)},
            "manifest.json: flow.decode_times: expected times from 1 to 0 in order, "
            "found 1",
        ),
        (
            {"decode_times": ()},
            "manifest.json: flow.decode_times: expected times from 1 to 0 in order, "
            "found none",
        ),
        (
            {"encode_times": (0.0, 0.5, 0.5, 1.0)},
            "manifest.json: flow.encode_times: expected times from 0 to 1 in order, "
            "found 0, 0.5, 0.5, 1",
        ),
        (
            {"encode_times": (1.0, 0.5, 0.0)},
            "manifest.json: flow.encode_times: expected times from 0 to 1 in order, "
            "found 1, 0.5, 0",
        ),
        (
            {"decode_evaluations": 1_000_000_000},
            "manifest.json: flow.decode_evaluations: expected 2, which rotation takes "
            "for 2 steps, found 1000000000",
        ),
        (
            {"graphs": lambda graphs: (*graphs, graphs[2])},
            "manifest.json: graphs: expected decoder f32 once, found it 2 times",
        ),
        (
            {"graphs": ports("outputs", lambda name: name != "state")},
            f"{SUMS}, found f32 with [2] and none",
        ),
        (
            {"graphs": ports("inputs", lambda name: name != "weights")},
            f"{SUMS}, found f32 with none and like z",
        ),
    ],
    ids=lambda what: None if isinstance(what, str) else "-".join(what),
)
def test_statements_that_contradict_each_other_are_one_line(folder, changes, line):
    with pytest.raises(BundleError) as caught:
        open_bundle(rewritten(folder, **changes))

    assert str(caught.value) == line
    assert caught.value.exit_status == 1


def test_a_step_makes_the_sum_in_every_precision_or_in_none(folder):
    manifest = decode_manifest((folder / MANIFEST).read_bytes())
    tensors = load_file(folder / TENSORS)
    plain = ports("inputs", lambda name: name != "weights")(manifest.graphs)
    plain = ports("outputs", lambda _name: False)(plain)
    (other,) = (
        msgspec.structs.replace(graph, precision="bf16")
        for graph in plain
        if graph.name == "step"
    )

    check_flow(msgspec.structs.replace(manifest, graphs=plain), tensors)
    both = msgspec.structs.replace(manifest, graphs=(*manifest.graphs, other))
    with pytest.raises(BundleError) as caught:
        check_flow(both, tensors)

    assert str(caught.value) == (
        f"{SUMS}, found f32 with [2] and like z, bf16 with none and none"
    )
