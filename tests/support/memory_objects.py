"""MemoryObjects: RemoteObjects whose server is obstore's MemoryStore, which understands conditional puts."""

from obstore.store import MemoryStore
from zarr.storage import ObjectStore

from penultimate.store.objects.address import Address
from penultimate.store.objects.remote import RemoteObjects
from penultimate.store.objects.requests import Requests
from penultimate.store.objects.retry import Retry

ADDRESS = Address(scheme="s3", bucket="bucket")


class MemoryObjects(RemoteObjects):
    def __init__(self, client: MemoryStore) -> None:
        self._address, self._client = ADDRESS, client  # type: ignore[assignment]  # the interface is the same
        self._requests = Requests(ADDRESS, Retry(attempts=1))
        self.store = ObjectStore(client, read_only=True)
