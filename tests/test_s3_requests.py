"""What a store on S3 costs: requests, counted on their way to SeaweedFS, however much there is already."""

import gc
import http.client
import threading
import time
import tracemalloc
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from durable_store import CheckpointKey, Store, open_store
from durable_store.key import EPISODE_ID, object_name, storage_path
from tests.fault_proxy import FaultProxy
from tests.servers import BUCKET, Server, s3_client

KEY = CheckpointKey("g-42", 0, "orchestrator-0")


class Place:
    """A prefix of its own behind a proxy that counts."""

    def __init__(self, server: Server, proxy: FaultProxy, prefix: str) -> None:
        self.proxy = proxy
        self.prefix = prefix
        self._server = server
        self._opened: list[Store] = []

    def store(self) -> Store:
        """As a process opens it that was just started, except that the prefix may have been probed."""
        store = open_store(self.proxy.url(self.prefix))
        self._opened.append(store)
        return store

    def store_without_proxy(self) -> Store:
        """The proxy remembers each request, which counts where bytes are counted."""
        store = open_store(self._server.url(self.prefix))
        self._opened.append(store)
        return store

    def probed(self) -> Store:
        """A store in a process that has saved below this prefix before."""
        store = self.store()
        store.save(CheckpointKey("another goal", 0, "c"), 0, None)
        self.proxy.forget()
        return store

    def fill(self, records: Iterable[tuple[CheckpointKey, int]]) -> None:
        """Puts an object where each of these records would be, with a hundredth of what a save costs."""
        names = [f"{self.prefix}/{storage_path(key)}/{object_name(step)}" for key, step in records]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._put, [names[start::8] for start in range(8)]))

    def close(self) -> None:
        for store in self._opened:
            store.close()

    def _put(self, names: list[str]) -> None:
        client = s3_client(self._server.endpoint)
        connection = http.client.HTTPConnection(urlsplit(self._server.endpoint).netloc)
        for name in names:
            there = client.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": name})
            connection.request("PUT", there.removeprefix(self._server.endpoint), body=b"x")
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()
        connection.close()


@pytest.fixture
def place(seaweedfs_server: Server) -> Generator[Place]:
    with FaultProxy(seaweedfs_server.endpoint) as proxy:
        place = Place(seaweedfs_server, proxy, uuid4().hex)
        yield place
        place.close()


# A run


def test_a_commit_is_one_put_and_retention_one_request_for_each_keep_commits(
    place: Place, record_figure: Callable[[str], None]
) -> None:
    for keep in (1, 5, 20):
        run = place.probed().resume(f"g-{keep}", "orchestrator-0", keep=keep)
        for number in range(2 * keep):
            run.commit(number)
        place.proxy.forget()
        for number in range(3 * keep):
            run.commit(number)
        counts = place.proxy.count()
        record_figure(f"{3 * keep} commits with keep={keep}: {dict(counts)}")
        assert counts == {"PUT": 3 * keep, "DELETE" if keep == 1 else "DELETE-MANY": 3}
        assert run.step == 5 * keep - 1


def test_a_commit_of_a_run_that_keeps_everything_is_one_put(place: Place) -> None:
    run = place.probed().resume("g-42", "orchestrator-0", keep=None)
    run.commit(0)
    place.proxy.forget()
    for number in range(1, 30):
        run.commit(number)
    assert place.proxy.count() == {"PUT": 29}


def test_a_run_that_does_nothing_sends_nothing(place: Place) -> None:
    before = set(threading.enumerate())
    store = place.probed()
    with store.resume("g-42", "orchestrator-0", initial=0) as run:
        run.commit(1)
        place.proxy.forget()
        assert (run.state, run.step, run.finished, run.result, run.skipped) == (1, 0, False, None, ())
        assert repr(run)
    store.close()
    assert place.proxy.requests == []
    started = {thread.name for thread in set(threading.enumerate()) - before}
    assert all(name.endswith("(serve)") for name in started), "only the proxy has threads that could send something"


def test_the_first_commit_of_a_run_costs_a_few_requests_once(
    place: Place, record_figure: Callable[[str], None]
) -> None:
    run = place.store().resume("g-42", "orchestrator-0")
    place.proxy.forget()
    run.commit("first")
    first_here = place.proxy.count()
    assert first_here == {"PUT": 2 + 2, "GET": 1 + 1, "DELETE": 1, "LIST": 1}, "a probe, the episode, the step, a look"
    run = place.store().resume("g-43", "orchestrator-0")
    place.proxy.forget()
    run.commit("first")
    first_of_goal = place.proxy.count()
    assert first_of_goal == {"PUT": 2, "LIST": 1, "GET": 1}, "the episode, the step, a look"
    run = place.store().resume("g-43", "orchestrator-0")
    place.proxy.forget()
    run.commit("second")
    first_of_run = place.proxy.count()
    assert first_of_run == {"PUT": 1, "LIST": 1, "GET": 1}, "the step, a look"
    record_figure(
        f"first commit of a run: {first_of_run.total()} requests, with its episode {first_of_goal.total()},"
        f" in a process that saves there for the first time {first_here.total()}"
    )


def test_a_finish_is_one_put_and_one_for_the_end_of_the_episode(place: Place) -> None:
    run = place.probed().resume("g-42", "orchestrator-0")
    run.commit("first")
    place.proxy.forget()
    run.finish("done")
    assert place.proxy.count() == {"PUT": 2}


def test_a_resume_is_at_most_six_requests(place: Place, record_figure: Callable[[str], None]) -> None:
    store = place.probed()
    costs: dict[str, int] = {}

    def resume(what: str, goal: str, name: str, episode: int | None = None) -> None:
        place.proxy.forget()
        run = place.store().resume(goal, name, episode_id=episode)
        costs[what] = len(place.proxy.requests)
        assert "PUT" not in place.proxy.count()
        run.commit(what)

    resume("a new goal", "g-42", "orchestrator-0")
    resume("an existing one", "g-42", "orchestrator-0")
    resume("a join", "g-42", "critic-0", 0)
    resume("a join that goes on", "g-42", "critic-0", 0)
    resume("the root by its number", "g-42", "orchestrator-0", 0)
    store.resume("g-42", "orchestrator-0").finish()
    resume("a goal whose episode has ended", "g-42", "orchestrator-0")
    record_figure(", ".join(f"{what}: {cost}" for what, cost in costs.items()))
    assert max(costs.values()) <= 6, costs


def test_a_resume_after_a_hundred_episodes_is_two_more_for_each_doubling_of_their_number(
    place: Place, record_figure: Callable[[str], None]
) -> None:
    """Numbers leave no gap: the newest is found by doubling and halving, with a GET for each look."""
    place.fill((CheckpointKey("g-42", number, EPISODE_ID), 0) for number in range(99))
    assert place.probed().start_episode("g-42") == 99
    place.proxy.forget()
    run = place.store().resume("g-42", "orchestrator-0")
    assert run.key.episode_id == 99
    counts = place.proxy.count()
    record_figure(f"resume after 100 episodes: {dict(counts)}")
    assert counts.total() <= 4 + 2 * 7


# The latest


def cost_of_latest(place: Place, steps: int) -> float:
    """The seconds of a latest that goes by the budget, with so many steps under the key."""
    store = place.store()
    assert store.backend.latest(CheckpointKey("nothing", 0, "here")) is None
    place.proxy.forget()
    started = time.monotonic()
    assert store.backend.latest(KEY) == (steps - 1, b"x")
    seconds = time.monotonic() - started
    assert place.proxy.count() == {"LIST": 1, "GET": 1}
    [listing] = (request for request in place.proxy.requests if request.kind == "LIST")
    assert int(listing.query["max-keys"]) <= 2
    return seconds


def test_latest_is_one_list_and_one_get_however_long_the_history(
    place: Place, record_figure: Callable[[str], None]
) -> None:
    there = 0
    for steps in (1, 100, 1100):
        place.fill((KEY, step) for step in range(there, steps))
        there = steps
        record_figure(f"{steps} steps: {cost_of_latest(place, steps) * 1000:.1f} ms")


@pytest.mark.prove
def test_latest_is_one_list_and_one_get_with_10_000_steps(place: Place, record_figure: Callable[[str], None]) -> None:
    place.fill((KEY, step) for step in range(10_000))
    seconds = min(cost_of_latest(place, 10_000) for _ in range(3))
    record_figure(f"10 000 steps: {seconds * 1000:.1f} ms")


# The keys


def test_the_keys_of_a_goal_are_looked_for_nowhere_else(place: Place) -> None:
    there = [CheckpointKey(goal, 0, "c") for goal in ("a", "a-b", "a.b", "ab", "b")]
    place.fill((key, 0) for key in there)
    for key in there:
        place.proxy.forget()
        assert list(place.store().keys(key.goal_id)) == [key]
        [listing] = place.proxy.requests
        assert listing.query["prefix"] == f"{place.prefix}/{key.goal_id}/"


@pytest.mark.prove
def test_histories_of_1500_steps_are_not_listed_to_find_keys(
    place: Place, record_figure: Callable[[str], None]
) -> None:
    there = [CheckpointKey("g", 0, name) for name in ("a", "a-b", "a.b")]
    place.fill((key, step) for key in there for step in range(1500))
    store = place.store()
    assert sorted(store.keys("g")) == there
    counts = place.proxy.count()
    record_figure(f"3 keys of 1500 steps: {dict(counts)}")
    assert counts == {"LIST": 4}
    assert sorted(store.keys()) == there


def listing(place: Place, goals: int, keys_of_each: int) -> str:
    """Lists all keys of a place with so many, in the number of requests that the budget has; the figures."""
    there = [
        CheckpointKey(f"g-{goal}", number % 3, f"c-{number}") for goal in range(goals) for number in range(keys_of_each)
    ]
    place.fill((key, 0) for key in there)
    store = place.store()
    place.proxy.forget()
    started = time.monotonic()
    assert sorted(store.keys()) == sorted(there)
    seconds = time.monotonic() - started
    counts = place.proxy.count()
    assert counts == {"LIST": 1 + goals}
    place.proxy.forget()
    assert store.backend.latest(there[0]) == (0, b"x")
    assert place.proxy.count() == {"LIST": 1, "GET": 1}
    place.proxy.forget()
    assert len(list(store.keys("g-1"))) == keys_of_each
    assert place.proxy.count() == {"LIST": 1}
    return f"{len(there)} keys under {goals} goals: {dict(counts)} in {seconds:.2f} s"


def test_a_full_listing_is_one_list_for_each_goal(place: Place, record_figure: Callable[[str], None]) -> None:
    record_figure(listing(place, 20, 20))


def test_a_listing_streams(place: Place) -> None:
    """Eight goals are looked through ahead, however many there are."""
    there = [CheckpointKey(f"g-{goal:02}", 0, "c") for goal in range(40)]
    place.fill((key, 0) for key in there)
    keys = place.store().keys()
    for number in range(1, 20):
        assert next(keys) in there
        place.proxy.settle()
        assert len(place.proxy.requests) <= 1 + number + 8


@pytest.mark.prove
def test_a_full_listing_of_10_000_keys_is_one_list_for_each_goal(
    place: Place, record_figure: Callable[[str], None]
) -> None:
    record_figure(listing(place, 100, 100))


def peak_of_listing(store: Store) -> int:
    """The most bytes that are in use while all keys go by."""
    list(store.keys())
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in store.keys():
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - before


@pytest.mark.prove
def test_a_listing_of_10_000_keys_takes_no_more_memory_than_one_of_2000(
    place: Place, record_figure: Callable[[str], None]
) -> None:
    store = place.store_without_proxy()
    peaks: list[int] = []
    for goals in (range(20), range(20, 100)):
        place.fill((CheckpointKey(f"g-{goal}", 0, f"c-{each}"), 0) for goal in goals for each in range(100))
        peaks.append(peak_of_listing(store))
    record_figure(f"{peaks[0] // 1024} KiB for 2000 keys, {peaks[1] // 1024} KiB for 10 000")
    assert peaks[1] <= 1.5 * peaks[0]
