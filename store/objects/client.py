"""Make the obstore client of an address, with credentials from the provider's usual chain.

S3 looks in the environment (AWS_ACCESS_KEY_ID ...), then in boto3's chain: profile, SSO, web identity, container,
instance. Google: GOOGLE_APPLICATION_CREDENTIALS, gcloud's application default, the metadata server. Azure: the
AZURE_STORAGE_ variables, az's login, managed identity. AWS_ENDPOINT_URL, AWS_REGION and all else that obstore reads
apply too.
"""

import os
from datetime import timedelta
from typing import Any

from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from penultimate.store.errors import InputError
from penultimate.store.objects.address import Address
from penultimate.store.objects.retry import Retry

Client = S3Store | GCSStore | AzureStore

_CONNECT_SECONDS = 10.0


def make_client(address: Address, retry: Retry) -> Client:
    """Return a client whose names are below the address's prefix and which makes each request once.

    It opens no connection yet. Raises InputError if settings in the environment are wrong or absent.
    """
    options: dict[str, Any] = {
        "prefix": address.prefix or None,
        # Requests repeats them, for all errors alike: obstore would not repeat a conditional put that timed out.
        "retry_config": {"max_retries": 0},
        "client_options": {
            "timeout": timedelta(seconds=retry.timeout),
            "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, retry.timeout)),
        },
    }
    try:
        match address.scheme:
            case "s3":
                return _s3(address, options)
            case "gs":
                return GCSStore(address.bucket, **options)
            case _:
                return AzureStore(address.bucket, **options)
    except InputError:
        raise
    except (BaseError, ValueError) as error:
        raise InputError(
            f"{address.below('')} cannot be used: its settings in the environment are wrong or not there "
            f"({type(error).__name__}); see docs/how-to/object-stores.md for those that are read"
        ) from None  # the message may repeat a setting


def _s3(address: Address, options: dict[str, Any]) -> S3Store:
    endpoint = address.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint is not None:
        options["endpoint"] = endpoint
        options["client_options"]["allow_http"] = endpoint.startswith("http://")  # only for a URL that says so
    if region := address.region or os.environ.get("AWS_REGION"):
        options["region"] = region
    unsigned = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")
    if "AWS_ACCESS_KEY_ID" not in os.environ and not unsigned:
        options["credential_provider"] = _boto3_credentials(address)
    return S3Store(address.bucket, **options)


def _boto3_credentials(address: Address) -> Boto3CredentialProvider:
    try:
        return Boto3CredentialProvider()
    except ValueError:
        raise InputError(
            f"there are no credentials for {address.below('')}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE; for a public bucket, AWS_SKIP_SIGNATURE=true"
        ) from None
