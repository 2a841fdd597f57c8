"""`neuroflow sign`, and the flags that ask who signed: real processes."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from runtime.bundle import open_bundle
from runtime.gallery import write_gallery
from runtime.signing_keys import make_signing_key, read_signing_key, read_trust
from tests.integration.replaying import RIG
from tests.integration.test_replay_command import ENVIRONMENT, ROOT, command, said
from tests.models import served_bundle
from tests.sealed_folder import write_folder
from verbs.served_model import Model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle and a gallery that can be served, signed by the command line."""
    out = tmp_path_factory.mktemp("signed")
    shutil.copytree(served_bundle(), out / "bundle")
    with open_bundle(out / "bundle") as bundle:
        latent = bundle.manifest.latent
    items = np.random.default_rng(4).standard_normal((2, latent.tokens, latent.width))
    write_gallery(
        out / "gallery", latents=items.astype("f4"), ids=["a", "b"], labels=["x", "y"]
    )
    make_signing_key(out / "stranger.key")
    key, folders = out / "author.key", (out / "bundle", out / "gallery")
    assert said("sign", "--make-key", key) == (
        0,
        "",
        f"{key}: signing key made; "
        f"give {out / 'author.pub'} to those who shall trust it\n",
    )
    status, output, error = said("sign", *folders, "--key", key)
    assert (status, output) == (0, "")
    assert [line.split()[0] for line in error.splitlines()] == [
        f"{folder}:" for folder in folders
    ]
    assert all(line.endswith("signed by author") for line in error.splitlines())
    return out


def served(out: Path, folder: Path, *flags: object) -> tuple[int, str]:
    """Serve until it is ready or has failed; return the status and what it said."""
    ready = folder / "ready.json"
    line = command(
        "serve", "--bundle", out / "bundle", "--gallery", out / "gallery",
        "--address", "tcp://127.0.0.1:*", "--ready-file", ready, "--threads", "1",
        *flags,
    )  # fmt: skip
    process = subprocess.Popen(
        line, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + 60
        while not ready.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        process.terminate()
        _, error = process.communicate(timeout=60)
    return process.returncode, error


def test_a_server_with_trusted_keys_serves_what_they_signed(made, tmp_path):
    status, error = served(made, tmp_path, "--trust", made / "author.pub")

    short = read_signing_key(made / "author.key").public_key[:16]
    assert status == 0, error
    for name in ("bundle", "gallery"):
        line = f"neuroflow: {made / name}: signed by author (key {short}), verified\n"
        assert line in error
    assert "neuroflow: serving at " in error


def test_a_server_without_trusted_keys_says_that_nothing_is_verified(made, tmp_path):
    status, error = served(made, tmp_path)

    assert status == 0, error
    assert error.count("signed by unknown key ") == error.count(", not verified\n") == 2


def test_a_server_refuses_what_others_signed_in_one_line(made, tmp_path):
    flags = ["--trust", made / "stranger.pub"]
    status, error = served(made, tmp_path, *flags)
    both = served(made, tmp_path, *flags, "--trust", made / "author.pub")

    assert (status, error.count("\n")) == (1, 1)
    assert error.startswith(
        "neuroflow: bundle: expected a signature by stranger, found one by key "
    )
    assert both[0] == 0, both[1]


# A worker without its sockets: it loads what it is told to, and ends.
LOADING = """
import contextlib, sys
from verbs import worker

def run_worker(_setup, _name, opened, _rig, _engines):
    with contextlib.ExitStack() as stack:
        print(opened(stack).bundle.signer)

worker.Setup, worker.run_worker = dict, run_worker
sys.exit(worker.main(sys.argv[1:]))
"""


def test_a_worker_asks_again_on_the_bytes_that_it_loads(made, tmp_path):
    (tmp_path / "setup.json").write_text("{}")

    def loaded(trust):
        model = Model(
            bundle=str(made / "bundle"),
            gallery=str(made / "gallery"),
            backend="ort",
            threads=1,
            abstain_below=0.0,
            trust=trust,
            rig=RIG,
        )
        text = msgspec.json.encode(model).decode()
        done = subprocess.run(
            [sys.executable, "-c", LOADING, text, str(tmp_path / "setup.json"), "w"],
            cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    status, said_of = loaded(read_trust([made / "author.pub"]))
    assert (status, said_of.endswith(", verified\n")) == (0, True)
    assert loaded(read_trust([made / "stranger.pub"])) == (1, "")
    assert loaded(()) == (1, "")


def test_who_signed_is_what_inspect_says(made, tmp_path):
    write_folder(tmp_path / "plain")
    plain = said("inspect", tmp_path / "plain")
    unknown = said("inspect", made / "bundle")
    known = said("inspect", made / "bundle", "--trust", made / "author.pub")
    as_json = said("inspect", made / "bundle", "--json", "--trust", made / "author.pub")
    refused = said("inspect", tmp_path / "plain", "--trust", made / "author.pub")

    short = read_signing_key(made / "author.key").public_key[:16]
    assert plain[1].splitlines()[1] == "signature none"
    assert unknown[1].splitlines()[1] == (
        f"signature signed by unknown key {short}, not verified"
    )
    line = f"signature signed by author (key {short}), verified"
    assert known[1].splitlines()[1] == line
    assert as_json[2] == line + "\n"
    assert json.loads(as_json[1])["schema_version"] == 1
    assert refused == (
        1,
        "",
        "neuroflow: plain: expected a signature by author, found none. "
        "Get a signed copy, or trust that signer's key.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["x"],
            "sign: expected folders and --key, found one of them or neither. "
            "Make a key with --make-key",
        ),
        (
            ["x", "--make-key", "a.key"],
            "--make-key: expected alone, found something to sign",
        ),
        (
            ["--make-key", "a.pem"],
            "a.pem: expected a name that ends in .key, found none",
        ),
    ],
)
def test_wrong_usage_is_one_clear_line(arguments, line):
    assert said("sign", *arguments) == (2, "", f"neuroflow: {line}\n")


def test_a_flag_without_a_key_never_means_trust_in_everybody(made):
    flags = ["--bundle", made / "bundle", "--gallery", made / "gallery"]

    assert said("serve", *flags, "--trust")[0] == 2
    assert said("serve", *flags, "--trust", made / "none.pub") == (
        1,
        "",
        f"neuroflow: {made / 'none.pub'}: expected a key file, "
        "found: No such file or directory\n",
    )
