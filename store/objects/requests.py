"""Call an object store, repeat requests that may succeed later, and raise penultimate's own errors.

Such an error names bucket and key, the HTTP status and the server's error code, and nothing else of the response or
of the library's message, because those may repeat headers, addresses or documents that hold credentials.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from penultimate.store.errors import ForbiddenError, InputError, StoreError
from penultimate.store.objects.address import Address
from penultimate.store.objects.retry import Retry

RESPONSES = (FileNotFoundError, NotFoundError, AlreadyExistsError, PreconditionError)
"""Errors that are a valid response; they are raised to the caller at once and the request is not repeated."""

_STATUS = re.compile(r"status code: (\d{3}(?: [A-Z][A-Za-z]+)*)")
_REFUSED = re.compile(r"status code: 40[13]\b")
"""Obstore raises PermissionDeniedError for objects, and for listings an error that only its text tells apart."""

_CODE = re.compile(r"<Code>(\w{1,64})</Code>")

_Result = TypeVar("_Result")


class Requests:
    """Make requests below one address with one Retry."""

    def __init__(self, address: Address, retry: Retry) -> None:
        self.address = address
        self.retry = retry

    def make(self, name: str, request: Callable[[], _Result]) -> _Result:
        """Return the result of ``request``; raises StoreError after the last attempt, ForbiddenError if refused."""
        for pause in self.retry.pauses():
            try:
                return request()
            except (BaseError, FileNotFoundError) as error:
                self._refuse(name, error)
                time.sleep(pause)
        try:
            return request()
        except (BaseError, FileNotFoundError) as error:
            self._refuse(name, error)
            raise self.failure(name, error) from None  # its text may hold what must not be shown

    async def awaited(self, name: str, request: Callable[[], Awaitable[_Result]]) -> _Result:
        """Return the awaited result of ``request``, with the attempts and errors of ``make``."""
        for pause in self.retry.pauses():
            try:
                return await request()
            except (BaseError, FileNotFoundError) as error:
                self._refuse(name, error)
                await asyncio.sleep(pause)
        try:
            return await request()
        except (BaseError, FileNotFoundError) as error:
            self._refuse(name, error)
            raise self.failure(name, error) from None

    def failure(self, name: str, error: Exception) -> StoreError:
        """Return the error to raise when no attempt succeeded."""
        return StoreError(
            f"{self.address.below(name)} could not be read or written in {self.retry.attempts} attempts: "
            f"{self._reason(error)}; run again to resume"
        )

    def _refuse(self, name: str, error: Exception) -> None:
        """Raise an error that another attempt would not change; return for any other."""
        where = self.address.below(name)
        if (found := _CODE.search(str(error))) and found[1] in ("NoSuchBucket", "ContainerNotFound"):
            raise InputError(
                f"there is no bucket {self.address.scheme}://{self.address.bucket}; make it first"
            ) from None
        if isinstance(error, RESPONSES):
            raise error
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or _REFUSED.search(str(error)):
            raise ForbiddenError(
                f"{where} cannot be used: {self._reason(error)}; check the credentials in the environment or profile, "
                "and what they are allowed to do in this bucket"
            ) from None
        if isinstance(error, NotSupportedError):
            raise InputError(f"{where} cannot be used: its server does not support what is needed") from None

    def _reason(self, error: Exception) -> str:
        text = str(error)
        if status := _STATUS.search(text):
            code = _CODE.search(text)
            return f"the server answered {status[1]}" + (f" ({code[1]})" if code else "")
        if re.search(r"timed? ?out", text, re.IGNORECASE):
            return f"no answer within {self.retry.timeout:g} s"
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return "permission was denied"
        return "the connection failed, or was lost"
