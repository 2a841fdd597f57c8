"""Signatures of sealed folders: who made this bundle or gallery?

One Ed25519 signature (RFC 8032) over the exact bytes of the manifest, which lists
every file with its hash. Pure: bytes in, values out; no file, no clock.
`runtime.signing_keys` reads and writes the key files.

Source: RFC 8032, Edwards-Curve Digital Signature Algorithm, section 5.1.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from msgspec import Meta, Struct

from runtime import small_json
from runtime.errors import ArtifactError, BundleError
from runtime.sealed import SIGNATURE
from runtime.small_json import encoded

T = TypeVar("T", bound=Struct)

MAX_KEY_BYTES: Final = 4096
"""Of a key file, which takes 200."""

# \Z and not $, which would let a newline at the end pass.
SignerName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
"""One safe component of a file name."""

Key = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""32 bytes as lower-case hexadecimal digits."""

SignatureText = Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")]
"""64 bytes as lower-case hexadecimal digits."""


class TrustedKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `NAME.pub` holds: by what a signature of this signer is known."""

    algorithm: Literal["ed25519"] = "ed25519"
    name: SignerName
    public_key: Key


Trust = tuple[TrustedKey, ...] | None
"""Whose signature is demanded; None demands none, and an empty one refuses all."""


class SigningKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `NAME.key` holds."""

    algorithm: Literal["ed25519"] = "ed25519"
    name: SignerName
    public_key: Key
    secret_key: Key

    def __repr__(self) -> str:
        """Say whose it is, never the secret: errors and logs print this."""
        return f"SigningKey({self.name})"

    def __rich_repr__(self) -> Any:
        """Say to rich what `repr` says."""
        yield self.name

    @property
    def public(self) -> TrustedKey:
        """What others need to know of it."""
        return TrustedKey(name=self.name, public_key=self.public_key)


class Signature(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `manifest.sig` holds. No name: nothing would vouch for it."""

    algorithm: Literal["ed25519"] = "ed25519"
    public_key: Key
    signature: SignatureText


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose signature a sealed folder carries.

    Attributes:
        public_key: The key that the signature fits.
        name: As the trusted key is called; None where no key given is this one, so that
            nothing is known of who signed.
    """

    public_key: str
    name: str | None

    def __str__(self) -> str:
        key = self.public_key[:16]
        if self.name is None:
            return f"signed by unknown key {key}, not verified"
        return f"signed by {self.name} (key {key}), verified"


def signing_key(name: str, secret: bytes) -> SigningKey:
    """Make the key of a signer from 32 random bytes.

    Raises:
        ArtifactError: The name is none that a file can have.
    """
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key()
    key = SigningKey(
        name=name,
        public_key=public.public_bytes_raw().hex(),
        secret_key=secret.hex(),
    )
    return decoded(encoded(key), SigningKey, f"name {name!r}")


def checked_pair(key: SigningKey, source: str) -> SigningKey:
    """Give a key back if its halves belong together.

    Raises:
        ArtifactError: They do not.
    """
    if signing_key(key.name, bytes.fromhex(key.secret_key)) != key:
        raise ArtifactError(
            f"{source}: expected a public key that belongs to the secret, found another"
        )
    return key


def sign(manifest: bytes, key: SigningKey) -> bytes:
    """Return the content of `manifest.sig` for these bytes of a manifest."""
    signature = signature_of(manifest, key)
    return encoded(Signature(public_key=key.public_key, signature=signature))


def signature_of(data: bytes, key: SigningKey) -> str:
    """Return the signature of some bytes as hexadecimal digits."""
    secret = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key.secret_key))
    return secret.sign(data).hex()


def fits(data: bytes, public_key: str, signature: str) -> bool:
    """Say whether a signature is that of these bytes by this key."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def named(public_key: str, trust: Trust) -> Signer:
    """Give whose key this is a name, where a trusted one is the same."""
    names = [one.name for one in trust or () if one.public_key == public_key]
    return Signer(public_key, names[0] if names else None)


def signer_of(
    manifest: bytes, signature: bytes | None, *, what: str, trust: Trust
) -> Signer | None:
    """Judge a manifest's signature, before anything in the manifest is believed.

    A signature that is there must fit, whether or not one is demanded.

    Args:
        manifest: The manifest's bytes, the same that will be parsed.
        signature: Content of `manifest.sig`; None where there is none.
        what: The folder, for the message.
        trust: Whose signature is demanded, if any.

    Returns:
        Who signed; None for a folder without a signature where none is demanded.

    Raises:
        BundleError: The signature is damaged, does not fit, or is not by a key that is
            demanded.
    """
    signer = None
    if signature is not None:
        signer = _fitting(manifest, signature, what, trust or ())
    if trust is not None and (signer is None or signer.name is None):
        names = ", ".join(key.name for key in trust) or "nobody"
        found = "none" if signer is None else f"one by key {signer.public_key[:16]}"
        raise BundleError(
            f"{what}: expected a signature by {names}, found {found}. "
            "Get a signed copy, or trust that signer's key."
        )
    return signer


def _fitting(
    manifest: bytes, data: bytes, what: str, trust: tuple[TrustedKey, ...]
) -> Signer:
    source = f"{what}: {SIGNATURE}"
    try:
        found = decoded(data, Signature, source)
    except ArtifactError as error:
        raise BundleError(f"{error}. Copy the folder again.") from error
    # One spelling only, so that no two files are one signature.
    is_plain = encoded(found) == data
    if not (is_plain and fits(manifest, found.public_key, found.signature)):
        raise BundleError(
            f"{source}: expected a signature that fits the manifest, found another. "
            "Copy the folder again."
        )
    return named(found.public_key, trust)


def decoded(data: bytes, kind: type[T], source: str) -> T:
    """Read a key file or a signature.

    Raises:
        ArtifactError: Never with a value of the file in it.
    """
    return small_json.decoded(
        data, kind, source, most_bytes=MAX_KEY_BYTES, error=ArtifactError
    )
