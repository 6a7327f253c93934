"""Calls to an endpoint: replies and their order, the cache, totals, what runs at a time, what is never written down."""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fake_endpoint import Received, Refusal, Script, connect, echo, fake_endpoint, reply_body, say
from r1kit.config import EndpointConfig, from_dict, to_dict
from r1kit.presets import REJECT
from r1kit.report.command import command
from r1kit.sampling import http
from r1kit.sampling.http import Endpoint, HttpSampler, Reply
from r1kit.sampling.totals import Totals
from r1kit.types import Message, SamplingParams


def test_replies_come_in_order_with_their_tokens(tmp_path):
    progress = []
    received: list[Received] = []
    conversation = [Message("system", "be kind"), Message("user", "a b")]
    with fake_endpoint(echo, received) as url:
        endpoint = connect(url, tmp_path, temperature=0.5, max_new_tokens=9)
        replies = endpoint.chat([*say("x y z"), conversation], lambda *at: progress.append(at))
    assert [reply.text for reply in replies] == ["X Y Z", "A B"]
    assert replies[0] == Reply("X Y Z", "", 7, 3, False, "", "stop")
    assert progress == [(1, 2), (2, 2)]
    assert endpoint.totals == Totals(calls=2, prompt_tokens=14, completion_tokens=5)
    (body,) = [request.body for request in received if len(request.body["messages"]) == 2]
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a b"}]
    assert body == {"model": "m", "messages": messages, "temperature": 0.5, "max_tokens": 9}


def test_no_conversations(tmp_path):
    with fake_endpoint(echo) as url:
        assert connect(url, tmp_path).chat([]) == []


def test_a_resumed_stage_does_not_pay_again(tmp_path):
    with fake_endpoint(echo) as url:
        first = connect(url, tmp_path).chat(say("a b", "c"))
        again = connect(url, tmp_path)
        script = [*again.chat(say("c", "d"))]
    assert first[1] == Reply("C", "", 7, 1)
    assert [(reply.text, reply.cached, reply.completion_tokens) for reply in script] == [
        ("C", True, 1),
        ("D", False, 1),
    ]
    paid = {"calls": 1, "cached": 1, "prompt_tokens": 7, "completion_tokens": 1}
    assert again.totals == Totals(**paid, from_disk=1, earlier_prompt_tokens=7, earlier_completion_tokens=1)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("change", [{"model": "n"}, {"temperature": 0.5}, {"max_new_tokens": 5}])
def test_another_model_or_setting_is_another_call(tmp_path, change):
    with fake_endpoint(script := Script("x")) as url:
        cfg = EndpointConfig(url=url, model="m")
        for each in (cfg, replace(cfg, **change), cfg):
            Endpoint(each, tmp_path).chat(say("a"))
    assert script.calls == 2


@pytest.mark.parametrize("change", [{"body": ("effort=low",)}, {"max_tokens_field": "max_completion_tokens"}])
def test_other_fields_are_another_call(tmp_path, change):
    with fake_endpoint(script := Script("x")) as url:
        for settings in ({}, change, {}, change):
            connect(url, tmp_path, **settings).chat(say("a"))
    assert script.calls == 2


def test_models_that_take_other_fields_are_asked_with_them(tmp_path):
    """As OpenAI's o-series and GPT-5 do."""
    received: list[Received] = []

    def answer(messages):
        sent = received[-1].body
        if odd := [name for name in ("max_tokens", "temperature") if name in sent]:
            return Refusal(400, {}, f"Unsupported parameter: '{odd[0]}' is not supported with this model.")
        return "ok"

    fields = {"max_tokens_field": "max_completion_tokens", "body": ("temperature=", "reasoning_effort=low", "top_k=5")}
    with fake_endpoint(answer, received) as url:
        endpoint = connect(url, tmp_path, max_new_tokens=9, concurrency=1, **fields)
        assert [reply.text for reply in endpoint.chat(say("a", "a"))] == ["ok", "ok"]
        assert len(received) == 2, "without a temperature the server draws: equal conversations are two samples"
        params = SamplingParams(temperature=0.6, max_new_tokens=5)
        ((taught,),) = HttpSampler(endpoint).complete(say("b"), params, 1)
    assert (taught.text, taught.finish_reason) == ("ok", "stop")
    assert {name: value for name, value in received[0].body.items() if name != "messages"} == {
        "model": "m", "max_completion_tokens": 9, "reasoning_effort": "low", "top_k": 5,
    }  # fmt: skip
    assert received[-1].body["max_completion_tokens"] == 5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("reasoning_effort", "give NAME=VALUE, or NAME= to leave the field out"),
        ("=low", "give NAME=VALUE"),
        ("n=4", "n is not for the user to set"),
        ("messages=", "messages is not for the user to set"),
        ("temperature=hot", "sets temperature to 'hot'; give a number"),
    ],
)
def test_fields_that_cannot_be_sent(body, message):
    with pytest.raises(ValueError, match=message):
        EndpointConfig(url="http://localhost:1", model="m", body=(body,))


def test_folders_begun_before_there_were_such_fields_go_on():
    """At their defaults they are not written down, so that config.json and a pipeline's keys stay as they were."""
    plain, own = EndpointConfig(url="http://localhost:1", model="m"), ("temperature=",)
    assert {"body", "max_tokens_field"}.isdisjoint(to_dict(plain))
    changed = replace(plain, body=own)
    assert to_dict(changed)["body"] == ["temperature="] and "max_tokens_field" not in to_dict(changed)
    for cfg in (plain, changed):
        assert from_dict(EndpointConfig, json.loads(json.dumps(to_dict(cfg)))) == cfg
    run = to_dict(replace(REJECT["demo"][1], rewriter=changed)) | {"stage": "reject"}
    assert "--rewriter.body temperature=" in command(run)


def test_another_server_is_another_call(tmp_path):
    with fake_endpoint(lambda _: "one") as one, fake_endpoint(lambda _: "two") as two:
        assert connect(one, tmp_path).chat(say("a"))[0].text == "one"
        assert connect(two, tmp_path).chat(say("a"))[0].text == "two"


def test_the_config_may_name_the_cache(tmp_path):
    with fake_endpoint(echo) as url:
        connect(url, tmp_path, cache=tmp_path / "other").chat(say("a"))
    assert len(list((tmp_path / "other").rglob("*.json"))) == 1
    assert not (tmp_path / "cache").exists()


def test_the_key_is_sent_and_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-secret\n")
    received: list[Received] = []
    script = Script("fine", Refusal(400, {}, "sk-secret is bad"), Refusal(401, {}, "wrong key sk-secret"))
    with fake_endpoint(script, received) as url:
        endpoint = connect(url, tmp_path, api_key_env="TEST_KEY", concurrency=1)
        replies = endpoint.chat(say("a", "b"))
        with pytest.raises(ValueError) as caught:
            connect(url, tmp_path, api_key_env="TEST_KEY").chat(say("c"))
    assert all(request.headers["authorization"] == "Bearer sk-secret" for request in received)
    assert "*** is bad" in replies[1].error
    assert "$TEST_KEY (set)" in str(caught.value) and "secret" not in str(caught.value)
    assert all("secret" not in path.read_text() for path in tmp_path.rglob("*.json"))


def test_no_key_is_fine_where_none_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    received: list[Received] = []
    with fake_endpoint(echo, received) as url:
        assert connect(url, tmp_path, api_key_env="NO_SUCH_KEY").chat(say("a"))[0].text == "A"
    assert "authorization" not in received[0].headers


def test_keep_alive_lines_and_the_thought_are_taken_apart(tmp_path):
    body = b"\n\n\r\n" + json.dumps(reply_body("4", reasoning_content="2+2 is 4")).encode()
    with fake_endpoint(Script(body, reply_body("5", reasoning="vLLM"))) as url:
        endpoint = connect(url, tmp_path)
        assert endpoint.chat(say("a")) == [Reply("4", "", 7, 1, reasoning="2+2 is 4")]
        assert endpoint.chat(say("a")) == [Reply("4", "", 7, 1, cached=True, reasoning="2+2 is 4")]
        assert endpoint.chat(say("b"))[0].reasoning == "vLLM"


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        (reply_body("cut", finish_reason="length"), Reply("cut", "", 7, 1, finish_reason="length")),
        (reply_body(None, finish_reason="length"), Reply("", "", 7, 0, finish_reason="length")),
        ({"choices": [{"message": {"content": "x"}}]}, Reply("x")),
        (reply_body("half \ud800"), Reply("half ?", "", 7, 2)),
    ],
)
def test_kinds_of_answers(tmp_path, body, reply):
    with fake_endpoint(Script(body)) as url:
        assert connect(url, tmp_path).chat(say("a")) == [reply]
        assert connect(url, tmp_path).chat(say("a"))[0].cached


def test_equal_conversations_are_samples_above_temperature_0_and_one_call_at_0(tmp_path):
    count = iter(range(100))
    with fake_endpoint(lambda messages: str(next(count))) as url:
        warm = connect(url, tmp_path, temperature=1.0)
        first = [reply.text for reply in warm.chat(say("a", "a", "b", "a"))]
        assert sorted(first) == ["0", "1", "2", "3"]
        again = connect(url, tmp_path, temperature=1.0).chat(say("a", "a", "b", "a", "a"))
        assert [reply.text for reply in again] == [*first, "4"]
        greedy = connect(url, tmp_path)
        replies = greedy.chat(say("a", "a", "b", "a"))
    assert replies[0] == Reply(replies[0].text, "", 7, 1) and replies[1] == replies[3]
    assert replies[1].cached and replies[1].text == replies[0].text != replies[2].text
    assert greedy.totals == Totals(calls=2, cached=2, prompt_tokens=14, completion_tokens=2)


def test_concurrency_is_shared_by_threads_that_call(tmp_path):
    now, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(3, timeout=20)  # three calls at a time must happen, or the barrier breaks

    def answer(messages):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        both.wait()
        with lock:
            now -= 1
        return "x"

    with fake_endpoint(answer) as url:
        endpoint = connect(url, tmp_path, concurrency=3, retries=0)
        results: list[Sequence[Reply]] = []
        threads = [
            threading.Thread(target=lambda i=i: results.append(endpoint.chat(say(*(f"{i}{j}" for j in range(6))))))
            for i in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [reply.text for replies in results for reply in replies] == ["x"] * 12
    assert most == 3


def test_the_rate_limit_spreads_the_starts(tmp_path, monkeypatch):
    slept: list[float] = []

    clock = SimpleNamespace(monotonic=lambda: 100.0, sleep=slept.append)
    monkeypatch.setattr(http, "time", clock)
    with fake_endpoint(echo) as url:
        connect(url, tmp_path, requests_per_minute=30, concurrency=1).chat(say("a", "b", "c"))
        assert slept == [0, 2, 4]
        connect(url, tmp_path, concurrency=1).chat(say("d"))
    assert slept == [0, 2, 4]


def test_a_teacher_is_sampled(tmp_path):
    received: list[Received] = []
    with fake_endpoint(
        lambda m: 400 if m[-1]["content"] == "bad" else reply_body("4", reasoning_content="2+2\n"), received
    ) as url:
        sampler = HttpSampler(connect(url, tmp_path))
        params = SamplingParams(temperature=0.6, top_p=0.95, max_new_tokens=50)
        good, bad = sampler.complete(say("good", "bad"), params, 2)
    assert len(received) == 4
    assert {"temperature": 0.6, "top_p": 0.95, "max_tokens": 50}.items() <= received[0].body.items()
    assert [(c.text, c.tokens, c.sampler_logprobs, c.finish_reason) for c in good] == [
        ("<think>\n2+2\n</think>\n\n4", (), (), "stop")
    ] * 2
    assert all(c.finish_reason == "error" and "HTTP 400" in c.error and c.text == "" for c in bad)
    assert len(bad) == 2


@pytest.mark.parametrize("params", [SamplingParams(top_k=5), SamplingParams(stop_tokens=(1,))])
def test_settings_that_an_endpoint_cannot_take(tmp_path, params):
    with fake_endpoint(echo) as url, pytest.raises(ValueError, match="cannot be sent"):
        HttpSampler(connect(url, tmp_path)).complete(say("a"), params, 1)


def test_usage_is_the_same_however_often_a_stage_was_cut_off(tmp_path):
    cfg = EndpointConfig(url="http://a", model="m", prompt_price=2.0, completion_price=10.0)
    with fake_endpoint(lambda messages: 500 if messages[0]["content"] == "bad" else echo(messages)) as url:
        for done in (0, 1, 3):
            cache = tmp_path / str(done)
            connect(url, cache, retries=0).chat(say("a b", "c", "c", "d")[:done])
            straight = connect(url, cache, retries=0)
            straight.chat(say("bad"))
            before = straight.totals
            straight.chat(say("a b", "c", "c", "d"))
            assert straight.totals.failed == 1
            usage = straight.totals.since(before).usage(cfg)
            tokens = {"prompt_tokens": 21, "completion_tokens": 4}
            assert usage == {"calls": 3, "failed": 0, **tokens, "cost": pytest.approx(82e-6)}
    assert "cost" not in straight.totals.usage(replace(cfg, prompt_price=0.0, completion_price=0.0))
    with pytest.raises(ValueError, match="prompt_price is -1"):
        replace(cfg, prompt_price=-1.0)
