"""The signature of a recording by the owner of a server, once its processes are gone.

While they live no process has the secret: those that meet strangers are copies of the
owner, which therefore looks at the key apart, and reads it only at the end.
"""

from pathlib import Path

from bci_bridge.recording_signature import check_goes_on, sign_recording
from runtime.errors import ArtifactError, UsageError
from runtime.signing import MAX_KEY_BYTES, TrustedKey, decoded
from runtime.signing_keys import read_signing_key
from runtime.small_json import encoded
from verbs.apart import apart

FLAG = "--sign-recording"


def signer_at_start(key: Path | None, recording: Path | None) -> TrustedKey | None:
    """Look at what a signature needs before engines are loaded, which takes long.

    Args:
        key: The signer's `NAME.key`; None where nothing shall be signed.
        recording: What will be signed.

    Returns:
        By what the signature will be known.

    Raises:
        UsageError: There will be no recording.
        BackendError: The key is missing, damaged or open to others.
        RecordingError: The recording is not what was signed of it earlier.
    """
    if key is None:
        return None
    if recording is None:
        raise UsageError(f"{FLAG}: expected with --log alone")
    public = apart(FLAG, lambda: encoded(read_signing_key(key).public).decode())
    check_goes_on(recording)
    return decoded(public.encode()[:MAX_KEY_BYTES], TrustedKey, str(key))


def sign_at_end(key: Path, recording: Path, signer: TrustedKey) -> str:
    """Sign what is recorded; say what was signed.

    Args:
        key: The signer's `NAME.key`.
        recording: Both logs are closed.
        signer: As it was at the start.

    Raises:
        ArtifactError: The key is missing, damaged, open to others or not the one of
            the start, or the signature cannot be written.
        RecordingError: The recording cannot be vouched for.
    """
    secret = read_signing_key(key)
    if secret.public != signer:
        raise ArtifactError(
            f"{key}: expected the key of the start, found another. Nothing is signed."
        )
    count = sign_recording(recording, secret)
    what = f"{count} segments signed by {signer.name}" if count else "nothing to sign"
    return f"{recording}: {what}"
