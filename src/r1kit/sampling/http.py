"""Calls to any OpenAI-compatible /chat/completions: rewriters, judges and teachers (a vLLM server, DeepSeek, ...).

A call that fails is data: its Reply says why. Answers are kept on disk, one file per call, so a stage that goes on
does not pay for them again. The API key is read from the environment and never written or shown.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import queue
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from r1kit.config import EndpointConfig
from r1kit.run import write_text_atomic
from r1kit.sampling.base import OnProgress
from r1kit.sampling.totals import Totals
from r1kit.types import Completion, FinishReason, Message, SamplingParams

RETRIED = {408, 409, 425, 429}
"""Statuses that another try may get past, as it may past any 5xx."""
MISCONFIGURED = {301, 302, 303, 307, 308, 401, 402, 403, 404, 405}
"""Statuses that every further call would get as well, when nothing has been answered yet."""
UNKNOWN_MODEL = re.compile(r"HTTP 400 .*model.{0,100}not (exist|found)", re.IGNORECASE | re.DOTALL)
"""DeepSeek says it with a 400."""
REFUSED_ALIKE = 8
"""So many calls refused in the same words before any was answered: every other one would be, too."""
FILTERED = re.compile(r"content.{0,20}(filter|policy)", re.IGNORECASE)
"""A refusal of what this conversation says; the others may say something else."""
LONGEST_PAUSE = 60.0
"""Seconds; a Retry-After may ask for more, up to the endpoint's time-out."""
GIVE_UP_AFTER = 16
"""Calls in a row that failed in all their tries; the rest of the conversations then fail without one."""
LONGEST_REPLY = 64 * 2**20
"""Bytes."""


@dataclass(frozen=True)
class Reply:
    """What the endpoint said to one conversation."""

    text: str
    """The content, without the thought where the server tells them apart; empty with an error."""
    error: str = ""
    """Why there is no answer."""
    prompt_tokens: int = 0
    """As the server counted them, also for a cached reply; 0 when it did not."""
    completion_tokens: int = 0
    cached: bool = False
    """Read from disk, or shared with an equal greedy call: nothing was paid."""
    reasoning: str = ""
    """The thought (`reasoning_content`), where the server sends it apart."""
    finish_reason: FinishReason = "stop"


class Endpoint:
    """A model behind an URL. `chat` may be called from several threads; they share concurrency and rate limit."""

    def __init__(self, cfg: EndpointConfig, cache: Path, *, first_pause: float = 1.0) -> None:
        """`cache` is the folder of answered calls unless `cfg.cache` names another; `first_pause`: seconds, doubled
        with every try. Raises ValueError for a URL or a key that cannot be sent."""
        if urllib.parse.urlsplit(cfg.url).scheme not in ("http", "https"):
            raise ValueError(f"endpoint url is {cfg.url!r}; give a base URL such as https://api.deepseek.com/v1")
        self.cfg = cfg
        self.totals = Totals()
        self.first_error = ""
        """Of the calls that failed."""
        self._cache = cfg.cache or cache
        base = cfg.url.rstrip("/")
        self._url = base if base.endswith("/chat/completions") else f"{base}/chat/completions"
        self._key = os.environ.get(cfg.api_key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ValueError(f"the key in ${cfg.api_key_env} holds characters that no key has; set it again")
        local = urllib.parse.urlsplit(cfg.url).hostname in ("localhost", "127.0.0.1", "::1")
        proxies = [urllib.request.ProxyHandler({})] if local else []
        self._opener = urllib.request.build_opener(_NoRedirect(), *proxies)
        self._first_pause = first_pause
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(cfg.concurrency)
        self._next_start = 0.0
        self._answered = False
        self._refusals: Counter[str] = Counter()
        self._failed_in_a_row = 0

    def chat(
        self,
        conversations: Sequence[Sequence[Message]],
        on_progress: OnProgress | None = None,
        *,
        params: SamplingParams | None = None,
    ) -> list[Reply]:
        """One reply for each conversation, in their order; `params` stand in for the config's sampling settings.

        Equal conversations in one call are several samples (and cached as such: ask for all of them in one call);
        at temperature 0 they are asked once. Raises ValueError when the server refuses the key, the model, the URL or
        REFUSED_ALIKE calls in the same words before it has answered anything; any other failure is the reply's `error`.
        """
        bodies = [self._body(conversation, params) for conversation in conversations]
        seen: Counter[str] = Counter()
        places: dict[str, list[int]] = {}
        for place, body in enumerate(bodies):
            key = _digest({"url": self._url, **body})
            if body.get("temperature", 1.0) > 0:  # left out, it is the server's own
                seen[key] += 1
                key = _digest([key, seen[key] - 1])
            places.setdefault(key, []).append(place)
        replies: list[Reply | None] = [None] * len(bodies)
        finished = 0
        with self._lock:
            self._failed_in_a_row = 0
        calls = [(key, bodies[where[0]]) for key, where in places.items()]
        with contextlib.closing(self._each(calls)) as outcomes:
            for key, reply in outcomes:
                first, *others = places[key]
                replies[first] = reply
                for place in others:
                    replies[place] = shared = replace(reply, cached=not reply.error)
                    self._count(shared, shared=True)
                finished += len(places[key])
                if on_progress is not None:
                    on_progress(finished, len(bodies))
        return [reply for reply in replies if reply is not None]

    def _body(self, conversation: Sequence[Message], params: SamplingParams | None) -> dict[str, Any]:
        params = params or SamplingParams(temperature=self.cfg.temperature, max_new_tokens=self.cfg.max_new_tokens)
        body: dict[str, Any] = {"model": self.cfg.model, "messages": [asdict(message) for message in conversation]}
        body |= {"temperature": params.temperature, self.cfg.max_tokens_field: params.max_new_tokens}
        return self.cfg.sent(body if params.top_p == 1 else {**body, "top_p": params.top_p})

    def _each(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> Generator[tuple[str, Reply], None, None]:
        """(key, reply) as calls finish. Daemon threads: an interrupt need not wait for the slowest answer."""
        todo: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[str, Reply | BaseException]] = queue.SimpleQueue()
        stop = threading.Event()
        for call in calls:
            todo.put(call)

        def work() -> None:
            while not stop.is_set():
                try:
                    key, body = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((key, self._call(key, body, stop)))
                except BaseException as error:  # raised again in the caller's thread
                    stop.set()
                    done.put((key, error))

        for _ in range(min(self.cfg.concurrency, len(calls))):
            threading.Thread(target=work, daemon=True, name="r1kit-endpoint").start()
        try:
            for _ in calls:
                key, outcome = done.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                yield key, outcome
        finally:
            stop.set()

    def _call(self, key: str, body: dict[str, Any], stop: threading.Event) -> Reply:
        path = self._cache / key[:2] / f"{key}.json"
        reply = _read_cached(path) or self._ask(body, stop)
        if not reply.error and not reply.cached:
            with self._lock:  # two threads may have asked the same
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text_atomic(path, json.dumps({"request": body, "reply": asdict(reply)}) + "\n")
        self._count(reply)
        return reply

    def _count(self, reply: Reply, *, shared: bool = False) -> None:
        with self._lock:
            old = self.totals
            self.first_error = self.first_error or reply.error
            paid = not reply.cached and not reply.error
            earlier = reply.cached and not shared
            self.totals = Totals(
                calls=old.calls + paid,
                cached=old.cached + reply.cached,
                failed=old.failed + bool(reply.error),
                prompt_tokens=old.prompt_tokens + paid * reply.prompt_tokens,
                completion_tokens=old.completion_tokens + paid * reply.completion_tokens,
                from_disk=old.from_disk + earlier,
                earlier_prompt_tokens=old.earlier_prompt_tokens + earlier * reply.prompt_tokens,
                earlier_completion_tokens=old.earlier_completion_tokens + earlier * reply.completion_tokens,
            )

    def _ask(self, body: dict[str, Any], stop: threading.Event) -> Reply:
        """Try until there is an answer, or no hope of one."""
        problem = ""
        for tried in range(self.cfg.retries + 1):
            if self._failed_in_a_row >= GIVE_UP_AFTER:
                return _failed(f"not asked: the last {GIVE_UP_AFTER} calls to {self.cfg.url} failed in all their tries")
            try:
                reply = self._post(body)
                with self._lock:
                    self._answered, self._failed_in_a_row = True, 0
                return reply
            except _Refused as error:
                if not self._answered and self._hopeless(error):
                    raise ValueError(self._advice(error)) from None
                if error.status < 500 and error.status not in RETRIED:
                    return _failed(str(error))
                problem, pause = str(error), error.retry_after
            except (OSError, http.client.HTTPException, _Unreadable) as error:
                # Time-outs, refused and dropped connections are OSErrors.
                problem, pause = self._hide_key(f"{type(error).__name__}: {error}"), 0.0
            backoff = min(LONGEST_PAUSE, self._first_pause * 2**tried) * random.uniform(0.5, 1.5)
            if tried < self.cfg.retries and stop.wait(max(backoff, min(pause, self.cfg.timeout))):
                return _failed("stopped")
        with self._lock:
            self._failed_in_a_row += 1
        return _failed(f"{problem} (after {self.cfg.retries + 1} tries)")

    def _post(self, body: dict[str, Any]) -> Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "r1kit"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers, method="POST")
        with self._slots:
            self._wait_for_start()
            try:
                with self._opener.open(request, timeout=self.cfg.timeout) as response:
                    raw = _read(response, time.monotonic() + self.cfg.timeout)
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read(2000).decode(errors="replace")
                message = self._hide_key(f"HTTP {error.code} {error.reason}: {_error_text(text)}")
                raise _Refused(message, error.code, _retry_after(error.headers.get("Retry-After"))) from None
        return _reply(raw)

    def _wait_for_start(self) -> None:
        """Spread the starts evenly over the minute."""
        if self.cfg.requests_per_minute <= 0:
            return
        with self._lock:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + 60.0 / self.cfg.requests_per_minute
        time.sleep(max(0.0, start - time.monotonic()))

    def _hopeless(self, error: _Refused) -> bool:
        """Every further call would be refused, too."""
        if error.status in MISCONFIGURED or UNKNOWN_MODEL.search(str(error)):
            return True
        if error.status >= 500 or error.status in RETRIED or FILTERED.search(str(error)):
            return False
        with self._lock:
            self._refusals[str(error)] += 1
            return self._refusals[str(error)] >= REFUSED_ALIKE

    def _advice(self, error: _Refused) -> str:
        if self._refusals[str(error)]:
            return (
                f"endpoint {self.cfg.url} (model {self.cfg.model!r}) has answered nothing and refused {REFUSED_ALIKE} "
                f"calls alike: {error}; change what is sent: max_tokens_field=max_completion_tokens, and body, such as "
                f"temperature= (leaves it out) or reasoning_effort=low"
            )
        env = f"${self.cfg.api_key_env} ({'set' if self._key else 'not set'})"
        return (
            f"endpoint {self.cfg.url} refused model {self.cfg.model!r} with the key of {env}: {error}; "
            "check the url, the model's name, and that api_key_env names the variable that holds your key"
        )

    def _hide_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class HttpSampler:
    """Samples a teacher behind an endpoint. Endpoints take messages and give text, so there are no tokens and no
    log-probs; a `Sampler`'s `generate` and `load_weights` do not apply."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def complete(
        self,
        conversations: Sequence[Sequence[Message]],
        params: SamplingParams,
        n: int,
        on_progress: OnProgress | None = None,
    ) -> list[list[Completion]]:
        """`n` completions for every conversation, in their order; a failed one has `finish_reason="error"`.

        A thought that the server sends apart is put before the text: <think>thought</think>, then the text.
        """
        if params.top_k or params.stop_tokens:
            raise ValueError(
                f"top_k {params.top_k} and stop_tokens {params.stop_tokens} cannot be sent to an endpoint; leave them"
            )
        asked = [conversation for conversation in conversations for _ in range(n)]
        replies = iter(self._endpoint.chat(asked, on_progress, params=params))
        return [[_completion(next(replies)) for _ in range(n)] for _ in conversations]


class _Refused(Exception):
    """The server answered with an error status."""

    def __init__(self, message: str, status: int, retry_after: float) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class _Unreadable(Exception):
    """The server answered 200 with something that is not a chat completion."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would follow a redirect with the key, and as a GET."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> None:
        return None


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _failed(error: str) -> Reply:
    return Reply("", error, finish_reason="error")


def _completion(reply: Reply) -> Completion:
    text = f"<think>\n{reply.reasoning.strip()}\n</think>\n\n{reply.text}" if reply.reasoning else reply.text
    return Completion((), (), text, reply.finish_reason, error=reply.error)


def _read_cached(path: Path) -> Reply | None:
    try:
        return replace(Reply(**json.loads(path.read_text(encoding="utf-8"))["reply"]), cached=True)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a cached reply ({error}); delete it") from error


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body. Blank lines that keep the connection alive reset the socket's time-out, so the whole has one too."""
    parts, size = [], 0
    while part := response.read1(65536):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError("no whole answer within the time-out")
        if size > LONGEST_REPLY:
            raise _Unreadable(f"the answer is longer than {LONGEST_REPLY} bytes")
    return b"".join(parts)


def _reply(raw: bytes) -> Reply:
    try:
        data = json.loads(raw)  # blank lines before it are white space
        choice = data["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        # vLLM calls it `reasoning`, DeepSeek `reasoning_content`.
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        usage = data.get("usage") or {}
        text, tokens = message.get("content") or "", (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = raw[:500].decode(errors="replace").strip()
        raise _Unreadable(f"not a chat completion: {shown!r}") from error
    if finish == "insufficient_system_resource":
        raise _Unreadable("the server broke off for lack of resources")
    if finish == "content_filter":
        return _failed("the server's content filter withheld the answer")
    if not isinstance(text, str) or not isinstance(reasoning, str):
        raise _Unreadable(f"content is {type(text).__name__}, reasoning {type(reasoning).__name__}; not text")
    # JSON may hold half a surrogate pair, which no file can.
    text, reasoning = (part.encode(errors="replace").decode() for part in (text, reasoning))
    return Reply(text, "", tokens[0] or 0, tokens[1] or 0, False, reasoning, "length" if finish == "length" else "stop")


def _error_text(text: str) -> str:
    """The message within {"error": {"message": ...}}, else the text as it is."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return re.sub(r"\s+", " ", text).strip()[:500]


def _retry_after(value: str | None) -> float:
    """Seconds: the header gives a number of them or a date."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
