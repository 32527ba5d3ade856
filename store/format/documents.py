"""Documents: the small JSON objects of a store, each sealed with a digest of itself.

Two kinds are Zarr groups with an attribute of ours (the store, a complete key), the others lie in the folder of
``features`` (the plan of some rows, their commit records, what closed them). The latter are compared to the byte. A
group belongs to Zarr's users too, who may give it attributes of their own, consolidate its metadata, and put arrays and
groups beside ours: of a group, only what is ours is sealed.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.format.digest import digest_of

Documents = Callable[[Iterable[str]], Mapping[str, bytes]]
"""A function from names of arrays of a group to their ``zarr.json``."""

ATTRIBUTE = "penultimate"
"""Name of the attribute of ours that our groups have."""


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

    def content(self, document: bytes, *, arrays: Documents | None = None) -> dict[str, Any]:
        """Return the content of ``document``; raises ValueError if what is ours in it differs from what was written.

        ``arrays`` gives the metadata of the group's own arrays; it is asked where a document that had consolidated
        metadata has none any more.
        """
        try:
            parsed = json.loads(document)
            value = _attribute(parsed) if self.in_group else parsed
            content = {name: value[name] for name in value if name not in ("kind", "checksum")}
            same = (
                self._is_sealed(parsed, value, content, arrays) if self.in_group else self.document(content) == document
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the {self.name} that was written: {type(error).__name__}: {error}") from error
        if not same:
            raise ValueError(f"not the {self.name} that was written: a byte was changed, added or lost")
        return content

    def _is_sealed(
        self,
        parsed: Mapping[str, Any],
        value: Mapping[str, Any],
        content: Mapping[str, Any],
        arrays: Documents | None,
    ) -> bool:
        consolidated = None if arrays is None else _consolidated(parsed, content["array_metadata"], arrays)
        return value == {"kind": self.name, **content, "checksum": digest_of([self.name, content, consolidated])}

    def read(self, document: bytes, where: str, *, arrays: Documents | None = None) -> dict[str, Any]:
        """Return the content of ``document``; raises CorruptFeaturesError, naming ``where``, if it was changed."""
        try:
            return self.content(document, arrays=arrays)
        except ValueError as error:
            raise CorruptFeaturesError(
                f"{where} is {error}; remove the key with `penultimate store rm` and extract it again"
            ) from error


STORE = Kind("feature store", in_group=True)
FEATURE_SET = Kind("feature set", in_group=True)
PLAN = Kind("plan", in_group=False)
COMMIT = Kind("commit record", in_group=False)
CLOSED = Kind("closing record", in_group=False)


def plain_group_document() -> bytes:
    """Return the ``zarr.json`` of the groups between the store and its keys, which have no attributes of ours."""
    return _json(_group({}))


def without_attributes(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of an array as it was written, whatever attributes somebody gave the array since."""
    return {**metadata, "attributes": {}}


def _attribute(parsed: dict[str, Any]) -> dict[str, Any]:
    """Return our attribute of a group; raises ValueError where the rest of the document is none that Zarr writes."""
    group = _group(parsed["attributes"])
    consolidated = {"kind": "inline", "must_understand": False}
    given = dict(parsed.get("consolidated_metadata") or consolidated)
    given.pop("metadata", None)
    if {**parsed, "consolidated_metadata": given} != group | {"consolidated_metadata": consolidated}:
        raise ValueError("this is no group of Zarr 3")
    value: dict[str, Any] = parsed["attributes"][ATTRIBUTE]
    return value


def _consolidated(parsed: Mapping[str, Any], names: Iterable[str], arrays: Documents) -> dict[str, Any]:
    """Return the metadata of our own arrays, from the group's document or, where that has none, from the arrays."""
    if consolidated := parsed.get("consolidated_metadata"):
        found = {name: consolidated["metadata"][name] for name in names}
    else:
        found = {name: json.loads(document) for name, document in arrays(names).items()}
    return {name: without_attributes(metadata) for name, metadata in found.items()}


def _group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False).encode()
