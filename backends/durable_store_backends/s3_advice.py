"""What a person is told about an error of the S3 client: what happened and what to do, in one line without secrets."""

import json
import re
from collections import defaultdict
from http import HTTPStatus
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    InvalidRegionError,
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
from urllib3.exceptions import LocationValueError

from durable_store_backends.s3_errors import (
    BROKEN,
    BUSY,
    DAMAGED,
    FILES,
    PARSING,
    answer,
    headers_of,
    is_bad_header,
    of_tls,
    root_of,
    said_by,
)

_Told = tuple[str, str, str]  # what happened, what to do, what was said about it

_MOST_SAID = 100  # characters of the service's own words, which may be a page
_CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
_EXPIRED = ("the credentials have expired", "get new ones, with `aws sso login` or from whatever issued them")
_UNKNOWN = ("the service does not know the access key", _CREDENTIALS)
_CLOCK = ("the clock of this machine is wrong", "set it, for requests are signed with the time")
_FULL = ("there is no space left for this bucket", "free some, or prune, then try again")
_REACH = "check endpoint_url, region and the network"
_OF_CODE = {
    "NoSuchBucket": ("there is no such bucket", "create it, or correct the URL"),
    "InvalidBucketName": ("no bucket can have this name", "correct the URL"),
    "InvalidAccessKeyId": _UNKNOWN,
    "InvalidClientTokenId": _UNKNOWN,
    "UnrecognizedClientException": _UNKNOWN,
    "SignatureDoesNotMatch": ("the secret key is wrong", _CREDENTIALS),
    "AuthorizationHeaderMalformed": ("the credentials are malformed", _CREDENTIALS),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": ("the session token is not valid", _EXPIRED[1]),
    "RequestTimeTooSkewed": _CLOCK,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "InvalidObjectState": ("a lifecycle rule has archived the record", "restore it, and exempt these objects"),
    "NotImplemented": ("the service does not have this request of S3", "use another service"),
    "InternalError": ("the service failed", "try again later"),
}
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException"}
_RIGHTS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}

# In braces: what the SDK says in its own texts of these errors, and what `_of_failure` adds.
_OF_KIND: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], _Told], ...] = (
    (
        NoCredentialsError,
        ("no credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or profile=NAME in the URL", ""),
    ),
    (
        PartialCredentialsError,
        ("a part of the credentials is missing", "set {cred_var} too", "the rest comes from {provider}"),
    ),
    (
        (TokenRetrievalError, SSOError),
        ("the sign-on is missing or has expired", "sign on with `aws sso login`", "{text}"),
    ),
    (
        CredentialRetrievalError,
        ("the credentials could not be fetched", "check the profile or the role", "{provider}: {error_msg}"),
    ),
    (json.JSONDecodeError, ("the credentials could not be fetched", "check credential_process", "it prints no JSON")),
    (ProfileNotFound, ("there is no profile {profile!r}", "take one of `aws configure list-profiles`", "")),
    (InvalidRegionError, ("there is no region {region_name!r}", "correct region=NAME, or AWS_DEFAULT_REGION", "")),
    (FILES, ("a file of the AWS settings cannot be read", "correct its path, or mend it", "{root}: {filename}")),
    (ProxyConnectionError, ("no way through the proxy", "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY", "{root}")),
    (EndpointConnectionError, ("the service cannot be reached", _REACH, "{host}: {root}")),
    (ConnectTimeoutError, ("the service cannot be reached", _REACH, "{host}: no connection in time")),
    (ReadTimeoutError, ("no answer in time", "try again, or allow more with read_timeout=SECONDS in the URL", "")),
    (
        ResponseParserError,
        ("this is no whole answer of S3", "try again, and check endpoint_url and the proxies on the way", "{text}"),
    ),
    (RecursionError, ("the service redirects without end", "check endpoint_url and region", "")),
    (DAMAGED, ("the answer was damaged on its way", "try again", "{text}")),
    (BROKEN, ("the connection broke", "try again", "{root}")),
    (
        (BotoCoreError, *PARSING),
        ("the SDK cannot go on", "check endpoint_url and the AWS settings", "{kind}: {text}"),
    ),
)
_OF_TLS = {
    "untrusted": ("the service's certificate is not trusted", "name the authority behind it with AWS_CA_BUNDLE=FILE"),
    "outdated": ("the service's certificate is not valid today", "renew it, or set the clock of this machine"),
    "no bundle": ("the trusted certificates cannot be read", "check AWS_CA_BUNDLE"),
    "no TLS": ("the service speaks no TLS", "use http:// in endpoint_url"),
    "of another host": ("the service's certificate is for another host", "correct endpoint_url"),
    "broken": ("TLS failed", "check endpoint_url, and what stands between"),
}

_USER_INFO = r"(?<=[\s/'\"])[^\s/@'\":]+:[^\s/@'\"]*@"  # in front of a host: a user's name and password
_ORNAMENTS = r"\[[A-Z0-9]+: \w+\] | \(_ssl\.c:\d+\)|IncompleteRead"


def reason(err: BaseException) -> str:
    """What happened, what to do, and in brackets what was said about it: one line, without secrets."""
    what, advice, said = _of_answer(err) if isinstance(err, ClientError) else _of_failure(err)
    said = _one_line(said)
    said = said if len(said) <= _MOST_SAID else f"{said[:_MOST_SAID]}…"
    if not what:
        return said
    return _one_line(f"{what}: {advice}") + (f" ({said})" if said else "")


def cause(err: BaseException) -> BaseException:
    """The error as it may be chained, and so be logged: another one in its place if its text holds a secret."""
    root = root_of(err)
    if is_bad_header(root) or isinstance(root, LocationValueError) or re.search(_USER_INFO, f" {err}"):
        return HTTPClientError(error="not shown, because its text holds a password or a token")
    return err


def _of_answer(err: ClientError) -> _Told:
    status, code = answer(err)
    said, message = said_by(err), str(said_by(err).get("Message") or "")
    known = _OF_CODE.get(code)
    if code in BUSY or status in (429, 503):
        what, advice = "the service is too busy", "try again later, or allow more tries with max_attempts=N in the URL"
        return what, advice, code or str(status)
    if status and code in ("", str(status)):
        return _of_stranger(err, status)
    region = said.get("Region") or headers_of(err).get("x-amz-bucket-region")
    if code in _ELSEWHERE or (code == "AuthorizationHeaderMalformed" and (region or "region" in message)):
        return _of_region(region or _found(r"expecting '([^']+)'", message), code, str(said.get("Endpoint") or ""))
    if code in ("AccessDenied", "AllAccessDisabled", "AccessDeniedException"):
        return _of_denial(err, code, message)
    if "Signature expired" in message or "Signature not yet current" in message:
        known = _CLOCK
    if code.startswith("KMS."):
        known = "the KMS key cannot be used", "check sse_kms_key_id and the state of the key"
    in_full = f"{code}: {message}" if message else code
    if not known:
        return "", "", in_full
    return known[0], known[1], code if status and not code.startswith("KMS.") else in_full


def _of_stranger(err: ClientError, status: int) -> _Told:
    """Of an answer that is not in S3's form: a web server, a proxy, a page to log in at."""
    phrase = next((f"{status} {known.phrase}" for known in HTTPStatus if known == status), str(status))
    target = urlsplit(headers_of(err).get("location", ""))
    if 300 <= status < 400 and target.hostname:
        return f"this address redirects to {target.scheme}://{_host(target.geturl())}", "correct endpoint_url", phrase
    if status >= 500:
        return (
            "the service failed, its answer was cut off, or it is no S3",
            "try again later, and check endpoint_url",
            phrase,
        )
    return "this is no answer of S3", "check endpoint_url, and the proxies on the way", phrase


def _of_region(region: str, code: str, endpoint: str) -> _Told:
    said = f"{code} to {endpoint}" if endpoint else code
    if region:
        return f"the bucket is in the region {region}", f"say so in the URL with region={region}", said
    return "the bucket is in another region", "ask `aws s3api get-bucket-location`, and say so with region=NAME", said


def _of_denial(err: ClientError, code: str, message: str) -> _Told:
    """AWS says who lacks what, and by which policy; other services only that it is so."""
    lacking = re.search(r"User: (\S+) is not authorized to perform: (\S+)(?: on resource: \S+)?(.*)", message)
    if lacking:
        who, right, because = lacking.groups()
        return "access denied", f"allow {who} {right}", f"{code}{because}"
    if err.operation_name not in _RIGHTS:
        return "the credentials could not be fetched", "check the profile or the role", f"{err.operation_name}: {code}"
    advice = f"allow this identity {_RIGHTS[err.operation_name]}"
    if not answer(err)[0]:  # of one object, in an answer that says yes
        return "access denied", advice, f"{code}: {message}"
    needs = "a store needs s3:GetObject, PutObject, DeleteObject and ListBucket"
    return "access denied", f"correct the bucket, or {advice}; {needs}", code


def _of_failure(err: BaseException) -> _Told:
    root = root_of(err)
    text = str(root.strerror or root) if isinstance(root, OSError) else str(root)
    if isinstance(err, SSLError):
        return (*_OF_TLS[of_tls(err)], text)
    if isinstance(root, LocationValueError):  # its text may hold the password of a proxy
        return "the address of a proxy is not valid", "check HTTPS_PROXY and HTTP_PROXY", ""
    if is_bad_header(root):
        return "a credential holds a line end", "look at AWS_ACCESS_KEY_ID, AWS_SESSION_TOKEN and the profile", ""
    parts: defaultdict[str, object] = defaultdict(str, getattr(err, "kwargs", {}))
    parts.update(
        host=_host(str(parts["endpoint_url"])),
        root=text or type(root).__name__,
        text=str(err),
        kind=type(err).__name__,
        filename=getattr(root, "filename", ""),
    )
    what, advice, said = next((told for kind, told in _OF_KIND if isinstance(err, kind)), ("", "", "{kind}: {text}"))
    return what.format_map(parts), advice.format_map(parts), said.format_map(parts)


def _host(url: str) -> str:
    """Host and port, without the user and password that a URL from the environment may hold."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _one_line(text: str) -> str:
    """What a terminal just shows, without the libraries' ornaments and what may be a password."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = re.sub(rf"{_USER_INFO}|{_ORNAMENTS}", "", f" {text}").strip()
    if text.startswith("(") and text.endswith(")"):  # the brackets are put around it anyway
        text = text[1:-1]
    return " ".join(text.split()).rstrip(".: ")
