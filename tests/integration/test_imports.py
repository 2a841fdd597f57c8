"""What stands on a rig never meets torch: seen in a fresh interpreter.

The command line is a module, so import-linter cannot hold it; this file does.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEARCH = [str(ROOT), str(ROOT / "clients" / "python")]
HEAVY = (
    *("torch", "onnx", "onnxscript", "training", "export", "diffusers"),
    *("nibabel", "h5py"),
)

WALK = """
import importlib, json, pkgutil, sys
sys.path[:0] = json.loads(sys.argv[1])
found = []
for name in json.loads(sys.argv[2]):
    module = importlib.import_module(name)
    found.append(name)
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}."):
        importlib.import_module(info.name)
        found.append(info.name)
print(json.dumps([found, sorted(sys.modules)]))
"""


def imported(*roots):
    """Import packages with all their modules; return these and all that came along."""
    command = [sys.executable, "-I", "-c", WALK, json.dumps(SEARCH), json.dumps(roots)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found, modules = json.loads(done.stdout)
    return found, {name.partition(".")[0] for name in modules}


def test_every_module_of_runtime_bridge_and_client_imports_without_torch():
    found, present = imported("runtime", "bci_bridge", "neuroflow_client")

    assert {"runtime.live", "bci_bridge.server", "neuroflow_client.client"} <= set(
        found
    )
    assert not present & {*HEAVY, "verbs", "neuroflow"}


def test_the_runtime_alone_imports_no_socket_library():
    _, present = imported("runtime")

    assert not present & {*HEAVY, "zmq", "mcap", "bci_bridge", "tyro"}


def test_a_worker_that_takes_over_waits_for_no_import_that_it_does_not_need():
    whole = "import json, sys, verbs.worker; print(json.dumps(list(sys.modules)))"
    command = f"import sys; sys.path[:0] = {SEARCH}; {whole}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", command],
        capture_output=True,
        text=True,
        check=True,
    )
    present = set(json.loads(done.stdout))

    assert "runtime.live" in present
    # scipy alone would double its start; the rest is what other processes do.
    assert not present & {"scipy", "jaxtyping", "asyncio", "unittest"}
    assert not present & {"bci_bridge.ingress", "bci_bridge.supervisor"}


def test_the_client_alone_imports_nothing_else_of_this_repository():
    _, present = imported("neuroflow_client")

    assert not present & {"runtime", "bci_bridge", "verbs", *HEAVY}


def test_the_command_line_imports_its_verbs_only_when_they_are_called():
    _, present = imported("neuroflow")

    # Of `verbs` only what parses (`verbs.rig_commands`), which imports nothing itself.
    assert not present & {*HEAVY, "bci_bridge", "runtime", "zmq", "onnxruntime"}


@pytest.mark.parametrize("package", ["bci_bridge", "export", "runtime", "training"])
def test_no_package_imports_the_command_line_or_its_verbs(package):
    for file in (ROOT / package).rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(str(node.module).partition(".")[0])
        assert not names & {"neuroflow", "verbs"}, file
