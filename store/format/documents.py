"""Documents: the small JSON objects of a store, each sealed with a digest of itself.

Two kinds are Zarr groups whose one attribute is ours (the store, a complete key), two lie inside the folder of
``features`` (the plan of a key, the commit record of a shard).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.format.digest import digest_of

ATTRIBUTE = "penultimate"
"""Name of the one attribute that our groups have."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of document, which turns content into bytes and back; equal content makes equal bytes."""

    name: str

    in_group: bool
    """True for documents that are the ``zarr.json`` of a group."""

    def document(self, content: Mapping[str, Any], *, arrays: Mapping[str, Any] | None = None) -> bytes:
        """Return ``content`` as bytes, sealed with a digest; raises ValueError if it holds NaN.

        ``arrays``, metadata by name, become the group's inline consolidated metadata, with which xarray opens it in one
        read and without a warning.
        """
        value = {"kind": self.name, **content, "checksum": digest_of([self.name, content, arrays])}
        if not self.in_group:
            return _json(value)
        group = _group({ATTRIBUTE: value})
        if arrays is not None:
            group["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": arrays}
        return _json(group)

    def content(self, document: bytes) -> dict[str, Any]:
        """Return the content of ``document``; raises ValueError if any byte differs from what was written."""
        try:
            parsed = json.loads(document)
            value = parsed["attributes"][ATTRIBUTE] if self.in_group else parsed
            content = {name: value[name] for name in value if name not in ("kind", "checksum")}
            arrays = parsed["consolidated_metadata"]["metadata"] if "consolidated_metadata" in parsed else None
            same = self.document(content, arrays=arrays) == document
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"not the {self.name} that was written: {type(error).__name__}: {error}") from error
        if not same:
            raise ValueError(f"not the {self.name} that was written: a byte was changed, added or lost")
        return content

    def read(self, document: bytes, where: str) -> dict[str, Any]:
        """Return the content of ``document``; raises CorruptFeaturesError, naming ``where``, if it was changed."""
        try:
            return self.content(document)
        except ValueError as error:
            raise CorruptFeaturesError(
                f"{where} is {error}; remove the key with `penultimate store rm` and extract it again"
            ) from error


STORE = Kind("feature store", in_group=True)
FEATURE_SET = Kind("feature set", in_group=True)
PLAN = Kind("plan", in_group=False)
COMMIT = Kind("commit record", in_group=False)


def plain_group_document() -> bytes:
    """Return the ``zarr.json`` of the groups between the store and its keys, which have no attributes."""
    return _json(_group({}))


def _group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False).encode()
