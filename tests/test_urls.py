"""From a URL to a backend, and what every wrong one is told."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from durable_store import InvalidURL, open_store
from durable_store_backends.files import FileBackend
from durable_store_backends.memory import MemoryBackend
from durable_store_backends.sqlite import SqliteBackend


@pytest.mark.parametrize(
    ("url", "kind", "path"),
    [
        ("sqlite:///runs.db", SqliteBackend, "runs.db"),
        ("sqlite:///a/b%20c.db?timeout=5", SqliteBackend, "a/b c.db"),
        ("sqlite:////abs/runs.db", SqliteBackend, "/abs/runs.db"),
        ("file:///abs/dir", FileBackend, "/abs/dir"),
        ("file:///abs/a%23b", FileBackend, "/abs/a#b"),
        ("dir/of/runs", FileBackend, "dir/of/runs"),
        ("./50%25?#", FileBackend, "50%25?#"),
        ("/abs/dir", FileBackend, "/abs/dir"),
        ("~/runs", FileBackend, str(Path.home() / "runs")),
        ("FILE:///abs/dir", FileBackend, "/abs/dir"),
    ],
)
def test_a_url_names_a_backend_and_opens_nothing(
    url: str, kind: type[FileBackend], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open_store(url) as store:
        assert isinstance(store.backend, kind)
        assert store.backend.path == tmp_path / path
    assert list(tmp_path.iterdir()) == []


def test_a_path_object_is_a_path(tmp_path: Path) -> None:
    with open_store(tmp_path / "runs") as store:
        assert isinstance(store.backend, FileBackend)


def test_memory_is_a_backend() -> None:
    with open_store("memory://") as store:
        assert isinstance(store.backend, MemoryBackend)
        assert repr(store) == "Store(MemoryBackend('memory://'))"


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("", "non-empty string"),
        ("   ", "non-empty string"),
        ("redis://host/0", "no backend for redis://; installed are file://, memory://, s3://, sqlite:// ("),
        ("redis://host/0", "(others come in a package of their own, or with fsspec: pip install "),
        ("sqllite:///runs.db", "installed are"),
        ("runs.db", "sqlite:///runs.db"),
        ("dir/runs.sqlite", "sqlite:///dir/runs.sqlite"),
        ("sqlite://runs.db", "sqlite:///runs.db"),
        ("sqlite:///", "sqlite:///"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:/runs.db", "followed by //"),
        ("memory:", "followed by //"),
        ("file://host/dir", "file:///"),
        ("file://", "file:///"),
        ("memory://a/b", "no path"),
        ("sqlite:///runs.db?timeuot=5", "no option 'timeuot'; the options are timeout"),
        ("sqlite:///runs.db?timeout=soon", "timeout"),
        ("sqlite:///runs.db?timeout=-1", "timeout"),
        ("sqlite:///runs.db?timeout=nan", "timeout"),
        ("sqlite:///runs.db?timeout=1&timeout=2", "twice"),
        ("file:///dir?sync=off", "no option 'sync'"),
        ("memory://?a=1", "no option 'a'"),
        ("sqlite:///runs.db#x", "#fragment"),
        ("sqlite:///ru\0ns.db", "NUL"),
        ("http://[::1", "not a URL"),
        (" sqlite:///runs.db", "begins with its scheme"),
        ("./\ud800", "cannot be used"),
        ("file:///\ud800", "cannot be used"),
    ],
)
def test_a_wrong_url_is_told_what_is_right(url: str, hint: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        open_store(url)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@bucket/prefix",
        "unknown://user:hunter2@host/",
        "sqlite://user:hunter2@/runs.db",
        "s3://user:hun#hunter2@bucket",
        "s3://user:hun?hunter2@bucket",
        "s3://AKIA:hun/hunter2@bucket/x",
        "s3://AKIA:hunter2@h\u2100/",
        "file://AK:ab/hunter2@h/x",
        "sqlite://hunter2@runs.db",
        "memory://hunter2@name",
        "http://hunter2@[::1",
        "//user:hunter2@h/x.db",
        " s3://user:hunter2@bucket",
        "postgresql+psy_copg://user:hunter2@h/x.db",
        "sqlite:///x.db?timeout=1;password=hunter2",
        "s3://bucket?key=hunter2",
        "s3://bucket?access_key_id=hunter2",
        "s3://bucket?aws_secret_access_key=hunter2",
        "s3://bucket?secret=hunter2",
        "sftp://host/x?password=hunter2",
        "az://box?account_key=hunter2",
        "az://box?connection_string=hunter2",
        "gs://bucket?token=hunter2",
        "memory://?api_key=hunter2",
        "sqlite:///runs.db?PASSWORD=hunter2",
        "s3://bucket?endpoint_url=http%3A%2F%2Fuser%3Ahunter2%40host",
        "s3://bucket?endpoint_url=http%3A%2F%2Fhunter2%40host",
        "s3+fsspec://bucket?endpoint_url=%22http%3A%5C%2F%5C%2Fuser%3Ahunter2%40host%22",
        's3+fsspec://bucket?client_kwargs={"aws_secret_access_key":"hunter2"}',
        's3+fsspec://bucket?client_kwargs={"a;b":1,"password":"hunter2"}',
        "s3+fsspec://bucket?client_kwargs=%7B%22a%22%3A%5B1%2C%7B%22%5Cu0070assword%22%3A%22hunter2%22%7D%5D%7D",
        "s3+fsspec://bucket?client_kwargs=%7B%22a%22%3A%5B%22http%3A%2F%2Fuser%3Ahunter2%40host%22%5D%7D",
    ],
)
def test_credentials_are_refused_before_anything_else_and_never_shown(url: str) -> None:
    with pytest.raises(InvalidURL, match="URLs end up in logs") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


_ENTRY_POINT = "the entry point thing = thing_backend:Thing of the group durable_store.backends"


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (None, f"thing:// needs the module thing_backend, which is not installed: {_ENTRY_POINT} imports it"),
        ("import no_such_sdk", f"thing:// needs the module no_such_sdk, which is not installed: {_ENTRY_POINT}"),
        ("import", f"thing:// cannot be opened: {_ENTRY_POINT} fails with SyntaxError: invalid syntax"),
        ("class Other: ...", f"{_ENTRY_POINT} fails with AttributeError: module 'thing_backend' has no attribute"),
        ("class Thing: ...", f"{_ENTRY_POINT} fails with AttributeError: type object 'Thing' has no attribute"),
        ("class Thing: from_url = 3", f"{_ENTRY_POINT} fails with TypeError: 'int' object is not callable"),
        (
            "class Thing:\n    @classmethod\n    def from_url(cls, url):\n        raise ValueError('no\\nport')",
            f"{_ENTRY_POINT} fails with ValueError: no port",
        ),
    ],
)
def test_what_is_wrong_with_somebodys_backend_is_one_line_that_names_the_entry_point(
    module: str | None, told: str, tmp_path: Path
) -> None:
    package = tmp_path / "thing-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[durable_store.backends]\nthing = thing_backend:Thing\n")
    if module is not None:
        (tmp_path / "thing_backend.py").write_text(module)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "durable_store.cli", "conformance", "thing://x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in " ".join(done.stderr.replace("\u2502", "").split())
    assert "Traceback" not in done.stderr
    assert "durable-store[thing]" not in done.stderr


@pytest.mark.parametrize("missing", ["boto3", "fsspec"])
def test_an_extra_that_is_not_installed_is_named(missing: str) -> None:
    told = {
        "s3://bucket": {"boto3": "s3:// needs the module boto3: pip install 'durable-store[s3]'"},
        "gs://bucket": {"fsspec": "no backend for gs://; installed are file://, memory://, s3://, sqlite:// ("},
        "s3+fsspec://bucket": {"fsspec": "or with fsspec: pip install 'durable-store[fsspec]')"},
        "sqlit:///runs.db": {"fsspec": "no backend for sqlit://; installed are file://"},
    }
    for url, hints in told.items():
        code = f"import sys; sys.modules[{missing!r}] = None; import durable_store; durable_store.open_store({url!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if missing in hints:
            assert f"durable_store.errors.InvalidURL: {hints[missing]}" in done.stderr or hints[missing] in done.stderr
            assert done.returncode == 1


@pytest.mark.parametrize("url", ["memory://", "sqlite:///runs.db", "file:///dir", "s3://bucket"])
def test_fsspec_is_loaded_only_for_a_scheme_that_nobody_else_has(url: str) -> None:
    code = f"import sys, durable_store; durable_store.open_store({url!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "durable_store.backend" in done.stdout.split()
    assert not {"fsspec", "durable_store_backends.fsspec"} & set(done.stdout.split())


@pytest.mark.parametrize("url", [None, 3, b"sqlite://user:hunter2@runs.db"])
def test_what_is_no_text_is_no_url(url: Any) -> None:
    with pytest.raises(InvalidURL, match="non-empty string") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "memory://a-name",
        "file:///tmp/a:b@c",
        "./user:password@host",
        "sqlite:///a@b.db",
        's3+fsspec://b?client_kwargs=%7B"endpoint_url":"http:%2F%2Fhost:9000","owner":"a:b%40c"%7D',
    ],
)
def test_what_only_looks_like_credentials_is_a_path(url: str) -> None:
    open_store(url).close()


@pytest.mark.parametrize("url", ["relative", "file-url", "sqlite:///relative.db"])
def test_a_relative_path_in_a_directory_that_was_removed_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InvalidURL, match="cannot be used"):
        open_store(url)
