"""What goes wrong with an endpoint: what is tried again and when, what is data, and what stops the calls."""

import socket
import threading
import time
from types import SimpleNamespace

import pytest

from fake_endpoint import Received, Refusal, Script, connect, echo, fake_endpoint, reply_body, say
from r1kit.config import EndpointConfig
from r1kit.sampling import http
from r1kit.sampling.http import Endpoint, Reply
from r1kit.sampling.totals import Totals


def test_a_broken_cache_file_is_named(tmp_path):
    with fake_endpoint(echo) as url:
        connect(url, tmp_path).chat(say("a"))
        (path,) = (tmp_path / "cache").rglob("*.json")
        path.write_text("{")
        with pytest.raises(ValueError, match=f"{path.name} is not a cached reply .*delete it"):
            connect(url, tmp_path).chat(say("a"))


@pytest.mark.parametrize(
    "trouble",
    [
        *(408, 429, 500, 503),
        OSError("drop"),
        *(b"", b"\n\n", b"not json", b"{}", b"[]", b'{"choices": []}'),
        {"error": {"message": "overloaded"}},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": ["x"]}}]},
        reply_body("half", finish_reason="insufficient_system_resource"),
    ],
)
def test_passing_trouble_is_tried_again(tmp_path, trouble):
    script = Script(trouble, trouble, "fine")
    with fake_endpoint(script) as url:
        endpoint = connect(url, tmp_path, retries=2)
        assert endpoint.chat(say("a")) == [Reply("fine", "", 7, 1)]
    assert script.calls == 3


@pytest.mark.parametrize(
    ("trouble", "shown"), [(500, "HTTP 500"), (OSError("drop"), "RemoteDisconnected"), (b"<p>", "<p>")]
)
def test_lasting_trouble_is_data_and_is_not_cached(tmp_path, trouble, shown):
    script = Script(trouble, trouble, trouble, "fine")
    with fake_endpoint(script) as url:
        endpoint = connect(url, tmp_path, retries=2)
        (reply,) = endpoint.chat(say("a"))
        assert script.calls == 3
        assert shown in reply.error and "after 3 tries" in reply.error
        assert (reply.text, reply.finish_reason, reply.cached) == ("", "error", False)
        assert endpoint.totals == Totals(failed=1)
        assert endpoint.chat(say("a"))[0].text == "fine"


def test_a_bad_request_is_not_tried_again(tmp_path):
    def answer(messages):
        return Refusal(400, {}, "too long a context") if messages[-1]["content"] == "long" else "ok"

    received: list[Received] = []
    with fake_endpoint(answer, received) as url:
        replies = connect(url, tmp_path, concurrency=1).chat(say("long", "short"))
    assert "HTTP 400" in replies[0].error and "too long a context" in replies[0].error
    assert replies[1].text == "ok"
    assert len(received) == 2


@pytest.mark.parametrize(
    "refusal",
    [401, 402, 403, 404, Refusal(400, {}, "Model Not Exist"), Refusal(302, {"Location": "http://localhost:9/"})],
)
def test_a_wrong_key_or_model_stops_at_once(tmp_path, monkeypatch, refusal):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    script = Script(refusal)
    with fake_endpoint(script) as url:
        endpoint = connect(url, tmp_path, api_key_env="NO_SUCH_KEY", concurrency=2)
        with pytest.raises(ValueError) as caught:
            endpoint.chat(say(*map(str, range(100))))
    for part in (url, "'m'", "$NO_SUCH_KEY (not set)", "HTTP"):
        assert part in str(caught.value)
    assert script.calls <= 2


def test_calls_that_are_all_refused_alike_stop_with_the_servers_words(tmp_path):
    script = Script(Refusal(400, {}, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."))
    with fake_endpoint(script) as url:
        endpoint = connect(url, tmp_path, concurrency=2)
        with pytest.raises(ValueError) as caught:
            endpoint.chat(say(*map(str, range(300))))
    assert script.calls <= http.REFUSED_ALIKE + 1
    for part in (
        url,
        "'m'",
        "refused 8 calls alike",
        "Use 'max_completion_tokens' instead",
        "max_tokens_field",
        "body",
    ):
        assert part in str(caught.value)


def test_refusals_that_differ_or_follow_an_answer_or_judge_the_content_are_data(tmp_path):
    long = [Refusal(400, {}, f"{9000 + i} tokens are too many") for i in range(30)]
    blocked = [Refusal(400, {}, "The prompt triggered the content management policy")] * 30
    for number, refusals in enumerate((long, blocked, ["fine", *[422] * 30])):
        with fake_endpoint(script := Script(*refusals, "ok")) as url:
            endpoint = connect(url, tmp_path / str(number), concurrency=1)
            replies = endpoint.chat(say(*map(str, range(len(refusals) + 1))))
        assert script.calls == len(refusals) + 1 and replies[-1].text == "ok"
        assert sum(bool(reply.error) for reply in replies) == 30


def test_a_refusal_after_an_answer_is_data(tmp_path):
    with fake_endpoint(Script("fine", 403, "fine")) as url:
        replies = connect(url, tmp_path, concurrency=1).chat(say("a", "b", "c"))
    assert [reply.text for reply in replies] == ["fine", "", "fine"]
    assert "HTTP 403" in replies[1].error


@pytest.mark.parametrize("url", ["api.deepseek.com/v1", "ftp://x", ""])
def test_a_url_that_cannot_be_called(tmp_path, url):
    with pytest.raises(ValueError, match="give a base URL"):
        Endpoint(EndpointConfig(url=url, model="m" if url else ""), tmp_path)


def test_retry_after_is_waited_for(tmp_path, monkeypatch):
    waits = waited(monkeypatch)
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 40))
    answers = [
        Refusal(429, {"Retry-After": "7"}),
        Refusal(503, {"Retry-After": date}),
        Refusal(429, {"Retry-After": "x"}),
    ]
    with fake_endpoint(Script(*answers, "fine")) as url:
        assert connect(url, tmp_path, timeout=300).chat(say("a"))[0].text == "fine"
        assert connect(url, tmp_path).chat(say("b"))[0].text == "fine"
    assert waits[0] == 7
    assert 35 < waits[1] <= 40
    assert waits[2] < 1


def test_retry_after_is_capped_by_the_time_out(tmp_path, monkeypatch):
    waits = waited(monkeypatch)
    with fake_endpoint(Script(Refusal(429, {"Retry-After": "86400"}), "fine")) as url:
        connect(url, tmp_path, timeout=20).chat(say("a"))
    assert waits == [20]


def test_pauses_grow_and_are_spread(tmp_path, monkeypatch):
    waits = waited(monkeypatch)
    with fake_endpoint(Script(500)) as url:
        Endpoint(EndpointConfig(url=url, model="m", retries=8), tmp_path).chat(say("a"))
    assert len(waits) == 8
    for tried, wait in enumerate(waits):
        assert 0.5 * min(60, 2**tried) <= wait <= 1.5 * min(60, 2**tried)
    assert len({wait / 2**tried for tried, wait in enumerate(waits)}) == 8


def waited(monkeypatch) -> list[float]:
    """The pauses between tries, which then take no time."""
    waits: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    monkeypatch.setattr(http, "threading", SimpleNamespace(**{**vars(threading), "Event": Event}))
    return waits


def test_an_endpoint_that_is_down_is_not_asked_for_every_conversation(tmp_path):
    with fake_endpoint(script := Script(500)) as url:
        endpoint = connect(url, tmp_path, retries=1, concurrency=1)
        replies = endpoint.chat(say(*map(str, range(100))))
        assert script.calls == 2 * http.GIVE_UP_AFTER
        assert "not asked" in replies[-1].error and url in replies[-1].error
        script.answers[:] = ["back"]
        assert {reply.text for reply in endpoint.chat(say(*map(str, range(100))))} == {"back"}


def test_a_port_where_nobody_listens_is_data(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        (reply,) = connect(f"http://127.0.0.1:{unused.getsockname()[1]}/v1", tmp_path, retries=1).chat(say("a"))
    assert "refused" in reply.error


def test_a_time_out_is_tried_again(tmp_path):
    release = threading.Event()
    calls = []

    def answer(messages):
        calls.append(1)
        if len(calls) == 1:
            release.wait(20)
        return "fine"

    with fake_endpoint(answer) as url:
        assert connect(url, tmp_path, timeout=0.2, retries=3).chat(say("a"))[0].text == "fine"
        release.set()
    assert len(calls) == 2


def test_blank_lines_do_not_keep_a_call_alive_for_ever():
    dribble = SimpleNamespace(read1=lambda size: b"\n")
    with pytest.raises(TimeoutError):
        http._read(dribble, time.monotonic() - 1)  # type: ignore[arg-type]


def test_a_filtered_answer_is_an_error_at_once(tmp_path):
    script = Script(reply_body("I", finish_reason="content_filter"))
    with fake_endpoint(script) as url:
        assert "content filter" in connect(url, tmp_path).chat(say("a"))[0].error
    assert script.calls == 1


def test_an_error_of_the_caller_stops_the_calls(tmp_path):
    def fail(finished, total):
        raise KeyboardInterrupt

    release, calls = threading.Event(), []

    def answer(messages):
        calls.append(1)
        if len(calls) > 1:
            release.wait(20)
        return "x"

    with fake_endpoint(answer) as url:
        with pytest.raises(KeyboardInterrupt) as caught:
            connect(url, tmp_path, concurrency=1).chat(say(*map(str, range(50))), fail)
        release.set()
        for thread in threading.enumerate():
            if thread.name == "r1kit-endpoint":
                thread.join(20)
    assert len(calls) <= 2, caught
