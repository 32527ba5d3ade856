"""Open the Objects at a folder or an address."""

from pathlib import Path

from penultimate.store.errors import UnavailableError
from penultimate.store.objects.address import Address, is_address
from penultimate.store.objects.local import LocalObjects
from penultimate.store.objects.objects import Objects


def open_objects(location: str | Path) -> Objects:
    """Return the objects in a local folder, or at an ``s3://``, ``gs://`` or ``az://`` address.

    Raises UnavailableError where the extra ``cloud`` is not installed, InputError for another kind of address.
    """
    if not is_address(location):
        return LocalObjects(Path(location))
    address = Address.parse(str(location))
    try:
        from penultimate.store.objects.remote import RemoteObjects
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{address.below('')} needs the package {error.name}, which is not installed: "
            "pip install 'penultimate[cloud]'"
        ) from error
    return RemoteObjects(address)
