"""What an error of fsspec means, or of a library below it, and what helps: by names, for few of them are installed."""

import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches

_MOST_SAID = 250  # characters

_TLS = {"SSLError", "ClientConnectorSSLError", "ClientConnectorCertificateError"}
_NOBODY = {
    "ClientConnectorError",
    "ConnectionRefusedError",
    "ConnectTimeoutError",
    "EndpointConnectionError",
    "NoValidConnectionsError",
    "gaierror",
}
_NOT_SENT = _NOBODY | _TLS
_NO_ANSWER = {"TimeoutError", "Timeout", "ConnectionError", "EOFError", "SSHException", "HTTPClientError"}

_OTHER_REGION = {
    *("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
    *("PermanentRedirect", "TemporaryRedirect", "301", "307"),
}
_CREDENTIALS = "these credentials may not do that, or have expired"
_LATER = "the service is busy or has failed: try again later"
_OF_CODE = {
    **dict.fromkeys(_OTHER_REGION, 'see endpoint_url, and name the region: client_kwargs={{"region_name":"{region}"}}'),
    **dict.fromkeys(("InvalidToken", "TokenRefreshRequired"), _CREDENTIALS),
    **dict.fromkeys(("InternalError", "OperationAborted", "ServiceUnavailable", "SlowDown", "503"), _LATER),
    **dict.fromkeys(("500", "502", "504"), "the service has failed, or it is no S3: see endpoint_url, try again later"),
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch"), "the service does not know these credentials"),
    "RequestTimeTooSkewed": "set the clock of this machine, for requests are signed with the time",
    "NoSuchBucket": "make the bucket that is missing",
    "NotImplemented": "the service cannot do that",
}
_OPTIONS = "see the options in the store URL"
_OF_KIND = {  # the first that fits
    **dict.fromkeys(_TLS, "its certificate is refused, or it speaks no TLS: see its host, and AWS_CA_BUNDLE for S3"),
    "RecursionError": _OF_CODE["301"],
    "ProfileNotFound": "take one of `aws configure list-profiles`",
    **dict.fromkeys(_NOBODY, "nothing answers there: see its host and port"),
    **dict.fromkeys(("PermissionError", "ClientAuthenticationError"), _CREDENTIALS),
    "NoCredentialsError": "no credentials were found: give them as the service's own tools take them, not in the URL",
    "AuthenticationException": "it takes a key that ssh-agent or ~/.ssh has, or that the option key_filename names",
    **dict.fromkeys(("FileExistsError", "NotADirectoryError"), "a file is in the way: move it, or take another place"),
    **dict.fromkeys(("NoBucket", "FileNotFoundError"), "make the bucket or directory that is missing"),
    "NotImplementedError": "this file system cannot hold a store",
    "NotS3": "see endpoint_url, and the proxies on the way",
    **dict.fromkeys(("TypeError", "AttributeError", "ValueError", "KeyError"), _OPTIONS),
    **dict.fromkeys(_NO_ANSWER, "see whether the service is up, then try again"),
    "Exception": "see what the service's log has to say, then try again",
}


class NoBucket(Exception):
    """The bucket is missing: that is not the same as nothing in it."""


class NotS3(Exception):
    """An answer of success that lacks what S3 always gives."""


def kinds(err: BaseException) -> set[str]:
    """The names of its classes and its causes'."""
    return {kind.__name__ for each in _chain(err) for kind in type(each).__mro__}


def codes(err: BaseException) -> set[str]:
    """What S3 calls the error; a mere status is what an answer gets that is not in S3's form."""
    found: set[str] = set()
    for each in _chain(err):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            found.add(str(response.get("Error", {}).get("Code")))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return found


def is_taken(err: BaseException) -> bool:
    """Whether it says that the name is taken. Some services do not name the condition, and s3fs takes it for EINVAL."""
    return "FileExistsError" in kinds(err) or not {"PreconditionFailed", "412"}.isdisjoint(codes(err))


def is_undecided(err: BaseException) -> bool:
    """Whether it says that others are creating the same object at this moment."""
    return not {"ConditionalRequestConflict", "OperationAborted", "409"}.isdisjoint(codes(err))


def is_nothing(err: FileNotFoundError) -> bool:
    """Whether it says that there is no such object, and not that there is no bucket, or no S3."""
    return codes(err) <= {"NoSuchKey"}


def is_forbidden(err: BaseException) -> bool:
    """Whether it says that this may not be asked; gcsfs has nothing but a text for that."""
    if codes(err):
        return not {"AccessDenied", "AllAccessDisabled"}.isdisjoint(codes(err))
    said = (getattr(each, "status_code", None) == 403 or str(each).startswith("Forbidden") for each in _chain(err))
    return "PermissionError" in kinds(err) or any(said)


def not_sent(err: BaseException) -> bool:
    """Whether the request could not even be sent."""
    return not _NOT_SENT.isdisjoint(kinds(err))


def is_hopeless(err: BaseException) -> bool:
    """Whether another request would fail alike, perhaps after another timeout."""
    return not (_NOT_SENT | _NO_ANSWER | {"PermissionError"}).isdisjoint(kinds(err))


def told(err: BaseException, options: Collection[str] = ()) -> str:
    """What it says, and in brackets what helps; `options` are those that there are, as far as is known."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(err))
    if unknown and isinstance(err, TypeError):
        return f"there is no option {unknown[1]!r} ({nearest(unknown[1], options) or _OPTIONS})"
    said = "it redirects without end" if isinstance(err, RecursionError) else in_one_line(err)
    region = re.search(r"expecting '([\w-]+)'", str(err))
    return f"{said} ({_advice(err).format(region=region[1] if region else 'NAME')})"


def nearest(option: str, options: Collection[str]) -> str:
    """Asks whether the option with the most similar name was meant, if there is one."""
    close = get_close_matches(option, sorted(options), 1, 0.85)
    return f"did you mean {close[0]}?" if close else ""


def in_one_line(err: BaseException) -> str:
    """What it says, without the queries of URLs, or what it is called. Azure would have all of an answer shown."""
    text = re.sub(r"(https?://[^\s?\"']+)\?[^\s\"']*", r"\1", " ".join(str(err).split()))
    return f"{text[:_MOST_SAID]}…" if len(text) > _MOST_SAID else text or type(err).__name__


def _advice(err: BaseException) -> str:
    names, code = kinds(err), next(iter(codes(err)), None)
    if code in _OF_CODE:
        return _OF_CODE[code]
    if code is not None and not code.strip("0123456789"):
        return _OF_KIND["NotS3"]
    if is_forbidden(err):
        return _CREDENTIALS
    if code is not None and names.isdisjoint(_OF_KIND.keys() - {"Exception"}):
        return f"the service calls it {code}"
    return next(what for name, what in _OF_KIND.items() if name in names)


def _chain(err: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = err
    while cause is not None:
        yield cause
        cause = cause.__cause__
