"""Address: a location in an object store, as people type it: ``s3://``, ``gs://`` or ``az://``, a bucket and a prefix.

An S3 address may name its server, ``s3://bucket/prefix?endpoint=https://minio.lab:9000&region=eu-west-1``; otherwise
server and region come from the environment or profile, as credentials always do. An address may hold nothing secret,
because addresses are printed and stored.
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
    """A bucket and the prefix below which objects lie."""

    scheme: str
    """One of SCHEMES."""

    bucket: str
    """Name of the bucket; for ``az://`` that of the container, in the account AZURE_STORAGE_ACCOUNT_NAME."""

    prefix: str = ""
    """First part of every object's key, without slashes at its ends."""

    endpoint: str | None = None
    """URL of the S3 server; None means AWS_ENDPOINT_URL, or else Amazon's."""

    region: str | None = None
    """Region of the S3 server; None means AWS_REGION, or else the profile's."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address; raises InputError, without repeating what may be secret, if ``text`` is none."""
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
        """Return ``name`` below the prefix as people read it: scheme, bucket and key in full."""
        return "/".join(part for part in (f"{self.scheme}://{self.bucket}", self.prefix, name) if part)

    def __str__(self) -> str:
        """Return the text that ``parse`` turns into an equal address."""
        options = "&".join(f"{name}={getattr(self, name)}" for name in _OPTIONS if getattr(self, name) is not None)
        return self.below("") + (f"?{options}" if options else "")


def is_address(location: str | Path) -> bool:
    """Return whether ``location`` is an address rather than a local path."""
    return "://" in str(location)
