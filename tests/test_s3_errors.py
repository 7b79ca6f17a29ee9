"""Whatever stands between a store and its bucket is told in one line: what happened, where, and what to do about it.

`pytest tests/test_s3_errors.py -rP` prints the lines, to be read. Answers that no server here gives are replayed as the
services document them.
"""

import logging
import os
import random
import re
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent
from urllib.parse import parse_qsl, urlsplit
from zlib import crc32

import botocore.auth
import pytest
import trustme

from durable_store import CheckpointKey, StoreUnavailable
from durable_store_backends.s3 import S3Backend
from tests.fault_proxy import (
    Answer,
    CutRequest,
    CutResponse,
    Fault,
    FaultProxy,
    Kind,
    Line,
    LostAnswer,
    Reply,
    Rewrite,
    Stall,
)
from tests.servers import BUCKET, READ_ONLY_KEY, READ_ONLY_SECRET, Server, free_ports, s3_client, store_url

KEY = CheckpointKey("PROJ-1", 0, "orchestrator-0")
RECORD = b"a record"
HUSH = "hush-hush"  # in every secret here, and in no text that anybody is shown
LONGEST = 260  # characters that may be read at 3 a.m.

VERBS: dict[str, tuple[Kind, Callable[[S3Backend], object]]] = {
    "save": ("PUT", lambda backend: backend.save(KEY, 3, RECORD)),
    "latest": ("LIST", lambda backend: backend.latest(KEY)),
    "load": ("GET", lambda backend: backend.load(KEY, 3)),
    "steps": ("LIST", lambda backend: backend.steps(KEY)),
    "keys": ("LIST", lambda backend: list(backend.keys())),
    "keys of a goal": ("LIST", lambda backend: list(backend.keys(KEY.goal_id))),
    "prune one": ("DELETE", lambda backend: backend.prune(KEY, [0])),
    "prune many": ("DELETE-MANY", lambda backend: backend.prune(KEY, [0, 1, 2])),
}
SAVE, PRUNE = ("save",), ("prune one", "prune many")
READ = ("latest", "load", "steps", "keys", "keys of a goal")
LIST = ("latest", "steps", "keys", "keys of a goal")


@dataclass(frozen=True)
class Page(Fault):
    """The server never hears of the request; the client gets this answer."""

    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/html"})

    def befall(self, line: Line) -> None:
        head = [f"HTTP/1.1 {self.status} Whatever\r\n", *(f"{name}: {text}\r\n" for name, text in self.headers.items())]
        body = b"" if line.request.method == "HEAD" else self.body.encode()
        line.answer(Reply(self.status, [part.encode() for part in head], b"").with_body(body))


@dataclass(frozen=True)
class HeadOnly(Fault):
    """The client gets the head of the answer, then its connection is closed."""

    def befall(self, line: Line) -> None:
        line.answer(line.forward()._replace(body=b"", last=True))


@pytest.fixture
def proxy(moto_server: Server) -> Generator[FaultProxy]:
    with FaultProxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"runs-{crc32(request.node.nodeid.encode()):08x}"


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without a word about AWS, on a machine that is none of Amazon's."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return monkeypatch


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets requests be tried again at once: these tests are about what is said in the end."""

    def none(shortest: float, longest: float) -> float:
        del longest
        return shortest

    monkeypatch.setattr(random, "uniform", none)


@contextmanager
def opened(url: str) -> Generator[S3Backend]:
    parts = urlsplit(url)
    backend = S3Backend.from_url(parts, **dict(parse_qsl(parts.query)))
    try:
        yield backend
    finally:
        backend.close()


def in_another_bucket(url: str, bucket: str = "nobody-has-this-bucket") -> str:
    return url.replace(f"s3://{BUCKET}/", f"s3://{bucket}/")


def is_plain(line: str) -> None:
    """Checks what holds for every message."""
    assert line.isprintable()
    assert len(line) <= LONGEST
    assert "((" not in line
    assert "))" not in line
    assert not re.search(r"\b(\w+) \1\b", line)
    assert HUSH not in line


def refusals(
    backend: S3Backend,
    *words: str,
    verbs: tuple[str, ...] = tuple(VERBS),
    proxy: FaultProxy | None = None,
    tries: int = 1,
) -> dict[str, StoreUnavailable]:
    """Lets each verb fail, looks at what is raised, and prints it.

    With a proxy it also counts: so many requests of the verb's kind, and no more than one of another.
    """
    errors: dict[str, StoreUnavailable] = {}
    for name in verbs:
        kind, verb = VERBS[name]
        if proxy:
            proxy.forget()
        with pytest.raises(StoreUnavailable) as caught:
            verb(backend)
        error = errors[name] = caught.value
        said = str(error)
        is_plain(said)
        assert HUSH not in "".join(traceback.format_exception(error))
        assert re.match(r"cannot (save to|list|read|prune|remove from) s3://", said)
        for word in words:
            assert word in said
        assert error.__cause__
        assert name == "save" or not error.maybe_saved
        if proxy:
            assert proxy.count()[kind] == tries
            assert len(proxy.requests) <= (2 * tries if name == "save" else tries + 1)
    for line in {said.partition(": ")[2]: said for said in map(str, reversed(errors.values()))}.values():
        print(line)
    return errors


def amazon(action: str, because: str) -> str:
    """How AWS words a denial."""
    who = "arn:aws:sts::123456789012:assumed-role/agent/i-0abcd1234"
    return f'User: {who} is not authorized to perform: {action} on resource: "arn:aws:s3:::{BUCKET}/x" {because}'


def malformed(region: str) -> Page:
    """How AWS answers a request that is signed for another region."""
    text = f"The authorization header is malformed; the region 'us-east-1' is wrong; expecting '{region}'"
    error = f"<Code>AuthorizationHeaderMalformed</Code><Message>{text}</Message><Region>{region}</Region>"
    return Page(400, f"<Error>{error}</Error>", {"Content-Type": "application/xml"})


NOT_AGAIN = {
    "access denied": (Answer(403, "AccessDenied", "Access Denied"), "access denied: correct the bucket, or allow"),
    "access denied by AWS": (
        Answer(403, "AccessDenied", amazon("s3:PutObject", "with an explicit deny in a service control policy")),
        "allow arn:aws:sts::123456789012:assumed-role/agent/i-0abcd1234 s3:PutObject (AccessDenied with an explicit",
    ),
    "no right to list": (
        Answer(403, "AccessDenied", amazon("s3:ListBucket", "because no identity-based policy allows it")),
        "s3:ListBucket (AccessDenied because no identity-based policy allows it)",
    ),
    "expired token": (
        Answer(400, "ExpiredToken", "The provided token has expired."),
        "the credentials have expired: get new ones, with `aws sso login` or",
    ),
    "invalid token": (
        Answer(400, "InvalidToken", "The provided token is malformed or otherwise invalid."),
        "the session token is not valid: get new ones",
    ),
    "clock skew": (
        Answer(
            403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."
        ),
        "the clock of this machine is wrong: set it",
    ),
    "archived": (
        Answer(403, "InvalidObjectState", "The operation is not valid for the object's storage class"),
        "a lifecycle rule has archived the record: restore it",
    ),
    "KMS key": (
        Answer(400, "KMS.DisabledException", "arn:aws:kms:us-east-1:123456789012:key/1 is disabled."),
        "the KMS key cannot be used: check sse_kms_key_id and the state of the key (KMS.DisabledException: arn:aws:kms",
    ),
    "signed for another region": (
        malformed("eu-central-1"),
        "the bucket is in the region eu-central-1: say so in the URL with region=eu-central-1",
    ),
    "in a region that is not told": (
        Answer(301, "PermanentRedirect", "The bucket must be addressed using the specified endpoint."),
        "the bucket is in another region: ask `aws s3api get-bucket-location`, and say so with region=NAME",
    ),
    "just made in another region": (
        Answer(307, "TemporaryRedirect", "Please re-send this request to the specified temporary endpoint."),
        "the bucket is in another region",
    ),
    "unknown to us": (
        Answer(400, "InvalidArgument", "No <b>such</b>\n thing."),
        "InvalidArgument: No <b>such</b> thing",
    ),
    "a web server": (Page(404, "<!DOCTYPE html><p>Not found<br>"), "this is no answer of S3: check endpoint_url"),
    "a web server that refuses": (Page(403, "<html><body>No</body></html>"), "this is no answer of S3"),
    "a login page": (
        Page(302, headers={"Location": f"https://login.example:8443/?next={HUSH}"}),
        "this address redirects to https://login.example:8443: correct endpoint_url",
    ),
    "a redirect to itself": (Page(301, headers={"Location": "/"}), "this is no answer of S3"),
}


@pytest.mark.parametrize(("fault", "words"), NOT_AGAIN.values(), ids=NOT_AGAIN)
def test_an_answer_that_will_not_change_comes_at_once(fault: Fault, words: str, proxy: FaultProxy, prefix: str) -> None:
    with opened(proxy.url(prefix)) as backend:
        proxy.plan = lambda _: fault
        refused = refusals(
            backend, words, proxy=proxy, tries=2 if isinstance(fault, Page) and fault.status == 400 else 1
        )
        assert not refused["save"].maybe_saved
        proxy.plan = lambda _: None
        assert backend.save(KEY, 3, RECORD) == RECORD
        proxy.plan = lambda _: fault
        assert not refusals(backend, words, verbs=SAVE)["save"].maybe_saved  # the record itself, not the probe


PASSING = {
    "slow-down": (
        Answer(503, "SlowDown", "Please reduce your request rate."),
        "the service is too busy: try again later, or allow more tries with max_attempts=N in the URL (SlowDown)",
    ),
    "too many requests": (Answer(429, "TooManyRequests"), "the service is too busy"),
    "internal error": (
        Answer(500, "InternalError", "We encountered an internal error. Please try again."),
        "the service failed: try again later (InternalError)",
    ),
    "a load balancer": (
        Page(502, "<html><body>Bad gateway</body></html>"),
        "the service failed, its answer was cut off, or it is no S3: try again later, and check endpoint_url (502 Bad",
    ),
    "a web server that fails": (Page(500, "<!DOCTYPE html><p>Oops<br>"), "or it is no S3: try again later, and check"),
    "lost answers": (LostAnswer(), "the connection broke: try again (Connection reset by peer)"),
    "cut requests": (CutRequest(), "the connection broke: try again (Remote end closed connection without response)"),
}


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(("fault", "words"), PASSING.values(), ids=PASSING)
def test_what_may_pass_is_tried_again_as_often_as_the_url_says(
    fault: Fault, words: str, proxy: FaultProxy, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durable_store")
    with opened(proxy.url(prefix, max_attempts="2")) as backend:
        proxy.plan = lambda _: fault
        assert not refusals(backend, words, proxy=proxy, tries=2)["save"].maybe_saved  # it was only the probe
        again = [line for line in caplog.messages if line.startswith("tried again: cannot ")]
        assert len(again) == len(VERBS)
        assert all(words in line and "\n" not in line for line in again)
        proxy.plan = lambda _: None
        assert backend.save(KEY, 3, RECORD) == RECORD
        proxy.plan = lambda _: fault
        maybe = refusals(backend, words, verbs=SAVE)["save"].maybe_saved
        assert maybe == (not isinstance(fault, Answer) or fault.status >= 500)


def test_no_answer_in_time_says_how_to_allow_more(proxy: FaultProxy, prefix: str) -> None:
    proxy.plan = lambda _: Stall()
    with opened(proxy.url(prefix, max_attempts="1", read_timeout="0.1")) as backend:
        refusals(backend, "no answer in time: try again, or allow more with read_timeout=SECONDS in the URL")


@pytest.mark.parametrize("text", ["<html><body>It works!</body></html>", ""])
def test_a_web_server_that_says_yes_to_everything_is_no_empty_store(proxy: FaultProxy, prefix: str, text: str) -> None:
    proxy.plan = lambda _: Page(200, text)
    with opened(proxy.url(prefix, max_attempts="1")) as backend:
        refusals(backend, "this is no whole answer of S3: try again, and check endpoint_url", proxy=proxy)


def test_a_console_that_gives_its_start_page_for_every_address_holds_no_records(proxy: FaultProxy, prefix: str) -> None:
    proxy.plan = lambda _: Page(200, "<!DOCTYPE html><p>Hello<br>", {"Content-Type": "text/html", "ETag": '"1"'})
    with opened(proxy.url(prefix, max_attempts="1")) as backend:
        refusals(backend, "(it is a page of HTML)", verbs=("load",), proxy=proxy)
        refusals(backend, "or it is no S3", verbs=(*LIST, *PRUNE), proxy=proxy)
        with pytest.raises(StoreUnavailable):
            backend.save(KEY, 3, RECORD)


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    ("fault", "words"),
    [(HeadOnly(), "this is no whole answer of S3: try again"), (CutResponse(), "its answer was cut off, or")],
    ids=["behind its head", "in its body"],
)
def test_an_answer_that_was_cut_off_is_no_empty_list(fault: Fault, words: str, proxy: FaultProxy, prefix: str) -> None:
    with opened(proxy.url(prefix, max_attempts="2")) as backend:
        backend.save(KEY, 3, RECORD)
        proxy.plan = lambda _: fault
        refusals(backend, words, verbs=(*LIST, "prune many"), proxy=proxy, tries=2)
        refusals(backend, "the connection broke: try again (", verbs=("load",), proxy=proxy, tries=2)
        proxy.next("LIST", fault)
        proxy.plan = lambda _: None
        assert backend.steps(KEY) == [3]


def test_no_answer_however_mangled_leaks_another_error(proxy: FaultProxy, prefix: str) -> None:
    chance = random.Random(3)

    def mangled(body: bytes) -> bytes:
        tags = re.findall(rb"<(\w+)>", body)
        if not tags or chance.random() < 0.3:
            return body[: chance.randrange(len(body) + 1)]
        if chance.random() < 0.3:
            return body.replace(chance.choice(tags), chance.choice(tags))
        filling = chance.choice([b"", b"abc", b"<a>1</a>", b"-1", b"9" * 30, b"2026-99-99T00:00:00Z"])
        tag = chance.choice(tags)
        return re.sub(b"<%s>[^<]*</" % tag, b"<%s>%s</" % (tag, filling), body)

    with opened(proxy.url(prefix, max_attempts="1")) as backend:
        backend.save(KEY, 3, RECORD)
        proxy.plan = lambda _: Rewrite(mangled)
        refused: set[str] = set()
        for _ in range(120):
            _, verb = VERBS[chance.choice([*READ, "prune many"])]
            try:
                verb(backend)
            except StoreUnavailable as error:
                is_plain(str(error))
                refused.add(type(error.__cause__).__name__)
    assert refused >= {"ClientError", "NotS3", "ValueError", "TypeError", "KeyError"}


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_that_names_no_region_costs_one_more_request_not_a_full_stack(
    status: int, proxy: FaultProxy, prefix: str
) -> None:
    proxy.plan = lambda _: Answer(status, "PermanentRedirect")
    client = s3_client(proxy.endpoint)
    refusals(S3Backend(client=client, bucket=BUCKET, prefix=prefix), "the bucket is in another region")
    proxy.forget()
    refusals(S3Backend(client=client, bucket=BUCKET, prefix=prefix), verbs=("latest",))
    assert proxy.count() == {"LIST": 1, "HEAD": 1}
    client.close()


def test_a_redirect_that_names_a_region_is_followed_once(proxy: FaultProxy, prefix: str) -> None:
    proxy.plan = lambda _: Answer(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-central-1"})
    with opened(proxy.url(prefix)) as backend:
        refusals(backend, "say so in the URL with region=eu-central-1 (PermanentRedirect)", proxy=proxy, tries=2)
    proxy.plan = lambda _: None
    with opened(proxy.url(prefix)) as backend:
        proxy.next("PUT", Answer(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-central-1"}))
        assert backend.save(KEY, 3, RECORD) == RECORD


@pytest.mark.parametrize("server", ["moto_server", "seaweedfs_server"])
def test_a_bucket_that_is_not_there_is_named(server: str, prefix: str, request: pytest.FixtureRequest) -> None:
    with (
        FaultProxy(request.getfixturevalue(server).endpoint) as proxy,
        opened(in_another_bucket(proxy.url(prefix))) as backend,
    ):
        refusals(backend, f"s3://nobody-has-this-bucket/{prefix} at {proxy.endpoint}: there is no such", proxy=proxy)


def test_a_store_that_may_only_be_read_is_read(
    seaweedfs_server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(seaweedfs_server.url(prefix)) as backend:
        backend.save(KEY, 3, RECORD)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READ_ONLY_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READ_ONLY_SECRET)
    with FaultProxy(seaweedfs_server.endpoint) as proxy, opened(proxy.url(prefix)) as backend:
        assert backend.latest(KEY) == (3, RECORD)
        assert backend.steps(KEY) == [3]
        assert list(backend.keys()) == [KEY]
        assert backend.load(KEY, 4) is None
        refusals(backend, "access denied", "s3:PutObject", verbs=SAVE, proxy=proxy)
        refusals(backend, "access denied", "s3:DeleteObject", verbs=PRUNE, proxy=proxy)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIANOBODY", "the service does not know the access key: check AWS_ACCESS_KEY_ID and"),
        ("AWS_SECRET_ACCESS_KEY", HUSH, "the secret key is wrong: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("AWS_SESSION_TOKEN", HUSH, "the service does not know the access key"),
    ],
)
def test_credentials_that_the_service_refuses_are_told_apart(
    name: str, value: str, words: str, seaweedfs_server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with FaultProxy(seaweedfs_server.endpoint) as proxy, opened(proxy.url(prefix)) as backend:
        refusals(backend, words, proxy=proxy)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wrong_clock_is_named(
    hours: int, seaweedfs_server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*, remove_tzinfo: bool = True) -> datetime:
        now = datetime.now(UTC) + timedelta(hours=hours)
        return now.replace(tzinfo=None) if remove_tzinfo else now

    monkeypatch.setattr(botocore.auth, "get_current_datetime", wrong)
    with FaultProxy(seaweedfs_server.endpoint) as proxy, opened(proxy.url(prefix)) as backend:
        refusals(backend, "the clock of this machine is wrong: set it", proxy=proxy)


PROFILES = """
    [profile half]
    aws_access_key_id = AKIAHALF
    [profile missing-program]
    credential_process = /no/such/program
    [profile chatty-program]
    credential_process = /bin/echo hello
    [profile failing-program]
    credential_process = /bin/sh -c 'echo no luck today >&2; exit 1'
    [profile no-source]
    role_arn = arn:aws:iam::123456789012:role/agent
    source_profile = gone
    [profile role]
    role_arn = arn:aws:iam::123456789012:role/agent
    source_profile = base
    [profile base]
    aws_access_key_id = AKIABASE
    aws_secret_access_key = hush-hush
    [profile sign-on]
    sso_session = our-company
    sso_account_id = 123456789012
    sso_role_name = agent
    [sso-session our-company]
    sso_region = us-east-1
    sso_start_url = https://example.awsapps.com/start
"""
PAIR = {"AWS_ACCESS_KEY_ID": "AKIAPAIR", "AWS_SECRET_ACCESS_KEY": HUSH}
SETTINGS: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "nothing": ({}, {}, "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or profile=NAME in the URL"),
    "an id alone": (
        {"AWS_ACCESS_KEY_ID": "AKIAHALF"},
        {},
        "a part of the credentials is missing: set AWS_SECRET_ACCESS_KEY too (the rest comes from env)",
    ),
    "a secret alone": ({"AWS_SECRET_ACCESS_KEY": HUSH}, {}, "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET"),
    "half a profile": ({}, {"profile": "half"}, "set aws_secret_access_key too (the rest comes from config-file)"),
    "no such profile": ({}, {"profile": "nobody"}, "there is no profile 'nobody': take one of `aws config"),
    "no such profile in AWS_PROFILE": ({"AWS_PROFILE": "nobody"}, {}, "there is no profile 'nobody'"),
    "a profile without its source": ({}, {"profile": "no-source"}, 'source_profile "gone" referenced in the profile'),
    "a program that is missing": (
        {},
        {"profile": "missing-program"},
        "a file of the AWS settings cannot be read: correct its path, or mend it (No such file or directory: /no/such/",
    ),
    "a program that prints no JSON": (
        {},
        {"profile": "chatty-program"},
        "the credentials could not be fetched: check credential_process (it prints no JSON)",
    ),
    "a program that fails": (
        {},
        {"profile": "failing-program"},
        "the credentials could not be fetched: check the profile or the role (custom-process: no luck today)",
    ),
    "nobody signed on": (
        {},
        {"profile": "sign-on"},
        "the sign-on is missing or has expired: sign on with `aws sso login`",
    ),
    "a role's token that is missing": (
        {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/agent", "AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/token"},
        {},
        "a file of the AWS settings cannot be read: correct its path, or mend it (No such file or directory: /no/such/",
    ),
    "a line end in the token": (
        {**PAIR, "AWS_SESSION_TOKEN": f"{HUSH}\n"},
        {},
        "a credential holds a line end: look at AWS_ACCESS_KEY_ID, AWS_SESSION_TOKEN and the profile",
    ),
    "a proxy without an address": (
        {**PAIR, "HTTP_PROXY": f"http://me:{HUSH}@proxy:port"},
        {},
        "the address of a proxy is not valid: check HTTPS_PROXY and HTTP_PROXY",
    ),
    "a region that cannot be": (
        PAIR,
        {"region": "Frankfurt am Main"},
        "there is no region 'Frankfurt am Main': correct",
    ),
    "a port that cannot be": (
        PAIR,
        {"endpoint_url": "http://127.0.0.1:99999"},
        "the SDK cannot go on: check endpoint_url and the AWS settings (EndpointResolutionError: Custom endpoint",
    ),
}


@pytest.mark.parametrize(("environment", "options", "words"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_cannot_work_are_told_at_once(
    environment: dict[str, str],
    options: dict[str, str],
    words: str,
    proxy: FaultProxy,
    prefix: str,
    tmp_path: Path,
    no_settings: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "config").write_text(dedent(PROFILES))
    no_settings.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    no_settings.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        no_settings.setenv(name, value)
    with opened(store_url(proxy.endpoint, prefix, **options)) as backend:
        assert not refusals(backend, words, verbs=("save", "latest", "prune many"))["save"].maybe_saved
    assert not proxy.requests


def test_credentials_that_come_later_are_found(proxy: FaultProxy, prefix: str, no_settings: pytest.MonkeyPatch) -> None:
    with opened(proxy.url(prefix)) as backend:
        refusals(backend, "no credentials", verbs=("latest",))
        for name, value in PAIR.items():
            no_settings.setenv(name, value)
        assert backend.latest(KEY) is None


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "Access Denied",
            "the credentials could not be fetched: check the profile or the role (AssumeRole: AccessDenied)",
        ),
        (amazon("sts:AssumeRole", ""), "i-0abcd1234 sts:AssumeRole (AccessDenied)"),
    ],
)
def test_a_role_that_may_not_be_assumed_is_not_mistaken_for_a_bucket_s_rights(
    message: str, words: str, proxy: FaultProxy, prefix: str, tmp_path: Path, no_settings: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(dedent(PROFILES))
    no_settings.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    no_settings.setenv("AWS_ENDPOINT_URL_STS", proxy.endpoint)
    error = f"<ErrorResponse><Error><Code>AccessDenied</Code><Message>{message}</Message></Error></ErrorResponse>"
    proxy.plan = lambda _: Page(403, error, {"Content-Type": "text/xml"})
    with opened(proxy.url(prefix, profile="role")) as backend:
        refusals(backend, words)


def test_a_port_where_nobody_listens_is_named(prefix: str) -> None:
    [port] = free_ports(1)
    with opened(store_url(f"http://127.0.0.1:{port}", prefix, max_attempts="1")) as backend:
        words = "the service cannot be reached: check endpoint_url, region and the network"
        assert not refusals(backend, f"{words} (127.0.0.1:{port}: Connection refused)")["save"].maybe_saved


def test_a_host_that_has_no_address_is_named_also_where_the_sdk_chose_it(
    prefix: str, no_settings: pytest.MonkeyPatch
) -> None:
    for name, value in PAIR.items():
        no_settings.setenv(name, value)
    no_settings.setenv("AWS_ENDPOINT_URL", f"http://me:{HUSH}@s3.nowhere.invalid")
    with opened(f"s3://{BUCKET}/{prefix}?max_attempts=1&addressing_style=path") as backend:
        refusals(backend, "the service cannot be reached", "(s3.nowhere.invalid: ")


@contextmanager
def tls_server(certificate: trustme.LeafCert) -> Generator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@pytest.mark.parametrize(
    ("host", "until", "trusted", "words"),
    [
        ("127.0.0.1", None, False, "is not trusted: name the authority behind it with AWS_CA_BUNDLE=FILE (certificate"),
        ("elsewhere.example", None, True, "is for another host: correct endpoint_url (hostname"),
        ("127.0.0.1", YESTERDAY, True, "is not valid today: renew it, or set the clock of this machine"),
    ],
    ids=["its own authority", "another host", "expired"],
)
def test_a_certificate_that_is_refused_is_told_at_once(
    host: str,
    until: datetime | None,
    trusted: bool,  # noqa: FBT001 - a parameter of the test
    words: str,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    if trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    with (
        tls_server(authority.issue_cert(host, not_after=until)) as endpoint,
        opened(store_url(endpoint, prefix)) as backend,
    ):
        assert not refusals(backend, f"the service's certificate {words}")["save"].maybe_saved


@pytest.mark.parametrize("exists", [False, True])
def test_trusted_certificates_that_cannot_be_read_are_told_at_once(
    exists: bool,  # noqa: FBT001 - a parameter of the test
    proxy: FaultProxy,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = tmp_path / "bundle.pem"
    if exists:
        bundle.write_text("no certificate")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with opened(store_url(proxy.endpoint.replace("http:", "https:"), prefix)) as backend:
        assert not refusals(backend, "the trusted certificates cannot be read: check AWS_CA_BUNDLE")["save"].maybe_saved


def test_https_spoken_to_a_server_without_tls_is_told_at_once(moto_server: Server, prefix: str) -> None:
    endpoint = moto_server.endpoint.replace("http:", "https:")
    with opened(store_url(endpoint, prefix)) as backend:
        assert not refusals(backend, "the service speaks no TLS: use http:// in endpoint_url")["save"].maybe_saved


def ls(url: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "durable_store.cli", "ls", url]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_line_says_it_in_one_line(seaweedfs_server: Server, tmp_path: Path) -> None:
    url = seaweedfs_server.url("runs")
    [port] = free_ports(1)
    closed = store_url(f"http://127.0.0.1:{port}", "runs", max_attempts="1")
    full = dict(os.environ)
    empty = {name: value for name, value in full.items() if name in {"PATH", "PYTHONPATH"}}
    empty |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}  # where nobody keeps credentials
    told = {
        "s3://nobody-has-this-bucket/runs at": ls(in_another_bucket(url), full),
        "the secret key is wrong": ls(url, full | {"AWS_SECRET_ACCESS_KEY": HUSH}),
        "Connection refused": ls(closed, full),
        "no credentials": ls(url, empty),
    }
    for words, process in told.items():
        out, err = process.communicate(timeout=60)
        print(err, end="")
        assert (process.returncode, out) == (1, "")
        assert err.startswith("durable-store: cannot list s3://")
        assert err.count("\n") == 1
        assert words in err
        is_plain(err.removeprefix("durable-store: ").rstrip("\n"))
