"""Address: a place in an object store, as people type it: ``s3://``, ``gs://`` or ``az://``, a bucket and a prefix.

An S3 address may say where its server is, ``s3://bucket/prefix?endpoint=https://minio.lab:9000&region=eu-west-1``;
otherwise that, and credentials always, come from the usual chain. Nothing secret is taken from an address, because
addresses are printed and kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from penultimate.store.errors import InputError

SCHEMES = ("s3", "gs", "az")

_OPTIONS = ("endpoint", "region")


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where objects lie: everything below ``prefix`` in ``bucket``."""

    scheme: str
    """One of SCHEMES."""

    bucket: str
    """Of ``az://`` the container; the account is AZURE_STORAGE_ACCOUNT_NAME."""

    prefix: str = ""
    """Without slashes at its ends."""

    endpoint: str | None = None
    """URL of an S3 server; None for AWS_ENDPOINT_URL or Amazon."""

    region: str | None = None
    """None for AWS_REGION, or the profile's."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that ``text`` is; InputError, which does not repeat what may be secret, if it is none."""
        parts = urlsplit(text)
        if parts.username is not None or parts.password is not None:
            raise InputError(
                f"an address must not hold credentials, as the one below {parts.scheme}:// does; set them in the "
                "environment (AWS_ACCESS_KEY_ID ...) or in a profile"
            )
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise InputError(
                f"expected a folder or an address such as s3://bucket/prefix, gs:// or az://, got {parts.scheme}://"
                f"{parts.netloc}{parts.path}"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := [name for name in options if name not in _OPTIONS or parts.scheme != "s3"]:
            raise InputError(
                f"{parts.scheme}://{parts.netloc}{parts.path} has the option {unknown[0]!r}; an s3:// address may say "
                f"{' and '.join(_OPTIONS)}, all else comes from the environment"
            )
        return cls(scheme=parts.scheme, bucket=parts.netloc, prefix=parts.path.strip("/"), **options)

    def below(self, name: str) -> str:
        """``name`` below the prefix, for people: bucket and key in full."""
        return "/".join(part for part in (f"{self.scheme}://{self.bucket}", self.prefix, name) if part)

    def __str__(self) -> str:
        """What ``parse`` makes the same address of."""
        options = "&".join(f"{name}={getattr(self, name)}" for name in _OPTIONS if getattr(self, name) is not None)
        return self.below("") + (f"?{options}" if options else "")


def is_address(place: str | Path) -> bool:
    """Whether ``place`` is an address rather than a local path."""
    return "://" in str(place)
