"""What an error of the S3 client means: may the request have been carried out, and may another try pass.

No document lists what the SDK may raise, and its parsers raise whatever comes when an answer is not what they expect:
`ERRORS` is what was found by trying. An answer of success that lacks what S3 always gives is made an error here.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - not the built-in one
    ConnectTimeoutError,
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ProxyConnectionError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError, LocationValueError

_Answer = TypeVar("_Answer", bound=Mapping[str, Any])

PARSING = (ResponseParserError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
ERRORS = (ClientError, BotoCoreError, HTTPError, OSError, *PARSING)
"""All that a request can raise: some of urllib3, some of the operating system, and what becomes of a strange answer."""

FILES = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)  # named in the SDK's settings
_NOT_SENT = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, *FILES)
DAMAGED = (IncompleteReadError, FlexibleChecksumError)
BROKEN = (ConnectionError, HTTPClientError, HTTPError, OSError)
_ON_THE_WAY = (*BROKEN, *DAMAGED, *PARSING)

BUSY = {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_TRANSIENT = {
    *BUSY,
    *("InternalError", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict"),
    *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),  # the request was damaged on its way
}
_OF_TLS = {  # the first that is found in what OpenSSL says
    "certificate has expired": "outdated",
    "certificate is not yet valid": "outdated",
    "mismatch": "of another host",
    "doesn't match": "of another host",
    "certificate verify failed": "untrusted",
    "no such file": "no bundle",
    "no certificate or crl": "no bundle",
    "wrong version number": "no TLS",
    "record layer failure": "no TLS",
    "": "broken",
}


class NotS3(ResponseParserError):
    """An answer of success that lacks what S3 always gives: of some other server, or cut off behind its head."""


def from_s3(found: _Answer, *members: str) -> _Answer:
    """The answer, if it has one of these members: without them it would seem to say that nothing is there.

    Raises:
        NotS3: it has none of them, or is a page of the web.
    """
    if not any(member in found for member in members):
        raise NotS3(f"it lacks {' and '.join(members)}")
    if str(found.get("ContentType")).startswith("text/html"):  # consoles give their start page for every address
        raise NotS3("it is a page of HTML")
    return found


def no_content(found: Mapping[str, Any]) -> None:
    """Raises NotS3 unless the answer is of the only status by which S3 says that an object was removed."""
    status = found["ResponseMetadata"]["HTTPStatusCode"]
    if status != HTTPStatus.NO_CONTENT:
        raise NotS3(f"its status is {status} and not 204")


def end_of_redirects(response: tuple[Any, Any] | None, operation: Any, **_: object) -> None:
    """A handler of `needs-retry.s3.HeadBucket`, registered first: answers a redirect that names no region by its error.

    To follow a redirect that names no region, the SDK asks for the head of the bucket; when that is redirected too, it
    asks again, until the stack is full.
    """
    if response is not None:
        err = ClientError(response[1], operation.name)
        if answer(err)[0] in (301, 302, 307) and "x-amz-bucket-region" not in headers_of(err):
            raise err


def answer(err: BaseException | None) -> tuple[int, str]:
    """Status and code of an answer that says no; `(0, "")` when there was no answer."""
    if not isinstance(err, ClientError):
        return 0, ""
    return err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0), str(said_by(err).get("Code") or "")


def may_be_done(err: BaseException) -> bool:
    """Whether the service may have done what was asked, or may still do it."""
    if isinstance(err, ClientError):
        status, _ = answer(err)
        return status >= 500 and status != 501
    return isinstance(err, _ON_THE_WAY) and not isinstance(err, _NOT_SENT) and not _is_hopeless(err)


def may_pass(err: BaseException) -> bool:
    """Whether the same request may pass when it is sent again."""
    if isinstance(err, ClientError):
        status, code = answer(err)
        return code in _TRANSIENT or status in (409, 429) or (status >= 500 and status != 501)
    if isinstance(err, (*FILES, RecursionError)) or (isinstance(err, SSLError) and of_tls(err) == "no TLS"):
        return False
    return isinstance(err, _ON_THE_WAY) and not _is_hopeless(err)


def of_tls(err: SSLError) -> str:
    """What is wrong: a value of `_OF_TLS`."""
    said = str(root_of(err)).lower()
    return next(trouble for token, trouble in _OF_TLS.items() if token in said)


def root_of(err: BaseException) -> BaseException:
    """What the operating system or the HTTP library said, under all that is wrapped around it."""
    while True:
        wrapped = (getattr(err, "kwargs", {}).get("error"), *err.args, err.__cause__)
        inner = next((each for each in wrapped if isinstance(each, BaseException)), None)
        if inner is None:
            return err
        err = inner


def _is_hopeless(err: BaseException) -> bool:
    """Whether nothing was sent, and nothing ever will be: a certificate, a setting or a header is wrong."""
    root = root_of(err)
    if isinstance(err, SSLError):
        return of_tls(err) not in ("no TLS", "broken")
    return isinstance(root, LocationValueError) or is_bad_header(root)


def is_bad_header(root: BaseException) -> bool:
    """The text of such an error is the header: a session token, a signature."""
    return isinstance(root, ValueError) and "Invalid header value" in str(root)


def said_by(err: ClientError) -> dict[str, Any]:
    """The error that the answer tells: `Code`, `Message` and what else there is."""
    return dict(err.response.get("Error", {}))


def headers_of(err: ClientError) -> dict[str, str]:
    """The headers of the answer, by their names in lower case."""
    return dict(err.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}))
