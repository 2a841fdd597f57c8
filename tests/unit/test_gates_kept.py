"""What a manifest says of its gates is believed only where they are kept."""

import msgspec
import pytest

from runtime.bundle import MANIFEST, decode_manifest, open_bundle, write_manifest
from runtime.errors import BundleError
from runtime.manifest import EIGHT_BITS, GateSpec
from tests import in_process
from tests.sealed_folder import write_folder


def gate(metric, limit, reached, precision="f32"):
    return GateSpec(
        name="trained.step", metric=metric, limit=limit, reached=reached,
        precision=precision,
    )  # fmt: skip


def stressed(gate):
    """The same, of a field with other weights."""
    name = gate.name.replace("trained", "stressed")
    return msgspec.structs.replace(gate, name=name)


def written(folder, *gates, precision="f32"):
    """A bundle that offers its encoder in a precision, and has these gates."""
    manifest = write_folder(folder)
    (encoder,) = manifest.graphs
    other = msgspec.structs.replace(encoder, precision=precision)
    graphs = (encoder,) if precision == "f32" else (encoder, other)
    (folder / MANIFEST).unlink()
    write_manifest(
        folder, msgspec.structs.replace(manifest, graphs=graphs, gates=gates)
    )
    return folder


@pytest.mark.parametrize(
    ("metric", "limit", "reached", "found"),
    [
        ("lost", 3.0, 31.0, "lost at most 3, found 31"),
        ("rel_l2", 1e-5, 5.0, "rel_l2 at most 1e-05, found 5"),
        ("nonfinite", 0.0, 1.0, "nonfinite at most 0, found 1"),
        ("cosine", 0.997, 0.99, "cosine at least 0.997, found 0.99"),
    ],
)
def test_a_gate_that_is_not_kept_refuses_the_bundle(
    tmp_path, metric, limit, reached, found
):
    folder = written(tmp_path / "bundle", gate(metric, limit, reached))

    start = f"{folder}/manifest.json: gates: trained.step: expected {found}"
    line = f"{start}. Export the bundle again."
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    assert str(caught.value) == line
    for verb in ("inspect", "verify", "compile"):
        assert in_process.said(verb, folder) == (1, "", f"neuroflow: {line}\n")


@pytest.mark.parametrize("metric", ["rel_l2", "cosine", "nonfinite", "lost"])
def test_what_is_at_its_limit_is_kept_and_what_is_no_number_never(metric):
    assert gate(metric, 0.5, 0.5).is_kept
    for odd in (float("nan"), float("inf"), -float("inf")):
        assert not gate(metric, 0.5, odd).is_kept
        assert not gate(metric, odd, 0.5).is_kept


@pytest.mark.parametrize("precision", EIGHT_BITS)
def test_eight_bits_are_offered_only_with_their_gates_of_both_kinds(
    tmp_path, precision
):
    cosine = gate("cosine", 0.997, 0.999, precision)
    lost = gate("lost", 3.0, 0.0, precision)
    for name, gates, found in (
        ("none", (), "no cosine and no lost"),
        (
            "another's",
            (gate("cosine", 0.9, 1.0), gate("lost", 3.0, 0.0)),
            "no cosine and no lost",
        ),
        ("no retrieval", (cosine,), "no lost"),
        ("stressed", (stressed(cosine), stressed(lost)), "no cosine and no lost"),
        ("half", (cosine, stressed(lost)), "no lost"),
    ):
        with pytest.raises(BundleError) as caught:
            open_bundle(written(tmp_path / name, *gates, precision=precision))
        assert str(caught.value) == (
            f"{tmp_path / name}/manifest.json: gates: expected cosine and lost of the "
            f"trained graphs in {precision}, found {found}. Export the bundle again."
        )

    open_bundle(written(tmp_path / "whole", cosine, lost, precision=precision)).close()
    drawn = written(tmp_path / "drawn", precision=precision)
    open_bundle(drawn, is_drawn=True).close()


def test_half_precision_needs_no_retrieval(tmp_path):
    gates = (gate("rel_l2", 1e-2, 1e-3, "f16"), gate("cosine", 0.9995, 1.0, "f16"))

    open_bundle(written(tmp_path / "whole", *gates, precision="f16")).close()
    with pytest.raises(BundleError, match=r"found no rel_l2\. Export"):
        open_bundle(written(tmp_path / "half", gates[1], precision="f16"))


def test_inspect_says_where_no_gate_is_recorded(tmp_path):
    status, output, _ = in_process.said("inspect", written(tmp_path / "bundle"))

    assert status == 0
    assert "parity    no gates recorded" in output.splitlines()


def test_inspect_shows_what_a_terminal_would_obey(tmp_path):
    folder = tmp_path / "bundle"
    manifest = write_folder(folder)
    (folder / MANIFEST).unlink()
    named = msgspec.structs.replace(manifest, subject="\x1b[2Jone\nsigned by you")
    write_manifest(folder, named)

    status, output, _ = in_process.said("inspect", folder)

    assert status == 0
    assert r"subject   \x1b[2Jone\nsigned by you" in output.splitlines()


def test_a_manifest_keeps_its_gates_over_a_round_trip(tmp_path):
    folder = written(tmp_path / "bundle", gate("lost", 3.0, 3.0))

    manifest = decode_manifest((folder / MANIFEST).read_bytes())

    assert manifest.gates == (gate("lost", 3.0, 3.0),)
