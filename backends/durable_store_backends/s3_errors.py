"""What an error of the S3 client means: may the request have been carried out, may another try pass, what to do."""

import re
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - not the built-in one
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

ERRORS = (ClientError, BotoCoreError, ResponseParserError, HTTPError, OSError)
"""All that a request can raise: botocore lets some of urllib3 and of the operating system through."""

_NOT_SENT = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
_ON_THE_WAY = (ConnectionError, HTTPClientError, IncompleteReadError, ResponseParserError, HTTPError, OSError)
_BUSY = {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_TRANSIENT = {*_BUSY, "InternalError", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict"}

_CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
_RIGHTS = "this identity needs s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket, and the right to use the key"
_EXPIRED = "get new ones, with `aws sso login` or from whatever issued them"
_REGION = "say which in the URL with region=NAME"
_OF_CODE = {
    "NoSuchBucket": ("there is no such bucket", "create it, or correct the URL"),
    "AccessDenied": ("access denied", _RIGHTS),
    "AllAccessDisabled": ("access denied", _RIGHTS),
    "403": ("access denied", _RIGHTS),
    "InvalidAccessKeyId": ("the service does not know the access key", _CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret key is wrong", _CREDENTIALS),
    "ExpiredToken": ("the credentials have expired", _EXPIRED),
    "ExpiredTokenException": ("the credentials have expired", _EXPIRED),
    "TokenRefreshRequired": ("the credentials have expired", _EXPIRED),
    "InvalidToken": ("the session token is not valid", _EXPIRED),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set it: requests are signed with the time"),
    "PermanentRedirect": ("the bucket is in another region", _REGION),
    "TemporaryRedirect": ("the bucket is in another region", _REGION),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", _REGION),
    "IllegalLocationConstraintException": ("the bucket is in another region", _REGION),
    "301": ("the bucket is in another region", _REGION),
    "QuotaExceeded": ("the quota is used up", "free some space or prune, then try again"),
}
_OF_KIND: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, str], ...] = (
    (NoCredentialsError, "no credentials", f"{_CREDENTIALS} (profile=NAME in the URL)"),
    (PartialCredentialsError, "only a part of the credentials is there", _CREDENTIALS),
    ((TokenRetrievalError, SSOError), "the sign-on has expired", _EXPIRED),
    (CredentialRetrievalError, "no credentials could be had", _CREDENTIALS),
    (ProfileNotFound, "there is no such profile", "see `aws configure list-profiles`"),
    (SSLError, "TLS failed", "check endpoint_url, and name the service's own authority in AWS_CA_BUNDLE"),
    (ProxyConnectionError, "the proxy cannot be reached", "check HTTPS_PROXY and HTTP_PROXY"),
    (EndpointConnectionError, "the service cannot be reached", "check endpoint_url, region and the network"),
    (ConnectTimeoutError, "the service cannot be reached", "check endpoint_url, region and the network"),
    (ReadTimeoutError, "no answer in time", "try again, or allow more with read_timeout=SECONDS in the URL"),
    (_ON_THE_WAY, "the connection broke", "try again"),
)


def answer(err: BaseException | None) -> tuple[int, str]:
    """Status and code of an answer that says no; `(0, "")` when there was no answer."""
    if not isinstance(err, ClientError):
        return 0, ""
    return err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0), _said(err).get("Code", "")


def may_be_done(err: BaseException) -> bool:
    """Whether the service may have done what was asked, or may still do it."""
    if isinstance(err, ClientError):
        status, _ = answer(err)
        return status >= 500 and status != 501
    return isinstance(err, _ON_THE_WAY) and not isinstance(err, _NOT_SENT) and not _is_untrusted(err)


def may_pass(err: BaseException) -> bool:
    """Whether the same request may pass when it is sent again."""
    if isinstance(err, ClientError):
        status, code = answer(err)
        return code in _TRANSIENT or status in (409, 429) or (status >= 500 and status != 501)
    return isinstance(err, _ON_THE_WAY) and not _is_untrusted(err)


def reason(err: BaseException) -> str:
    """What happened and what to do, in one line."""
    status, code = answer(err)
    if isinstance(err, ClientError):
        said = _said(err)
        what, advice = _OF_CODE.get(code, ("", ""))
        if code in _BUSY or status in (429, 503):
            what, advice = "the service is too busy", "try again later; S3 grows with the number of prefixes"
        region = said.get("Region") or err.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(
            "x-amz-bucket-region"
        )
        if advice == _REGION and region:
            what, advice = f"the bucket is in the region {region}", f"say so in the URL with region={region}"
        cause = f"{code or status}: {said.get('Message') or 'no reason given'}"
    else:
        what, advice = next(((what, advice) for kind, what, advice in _OF_KIND if isinstance(err, kind)), ("", ""))
        cause = str(err) or type(err).__name__
    cause = re.sub(r"\s+", " ", cause).strip().rstrip(".")
    return f"{what}: {advice} ({cause})" if what else cause


def _said(err: ClientError) -> dict[str, Any]:
    return dict(err.response.get("Error", {}))


def _is_untrusted(err: BaseException) -> bool:
    """A certificate that was refused: nothing was sent, and it will be refused again."""
    return isinstance(err, SSLError) and "certificate" in str(err).lower()
