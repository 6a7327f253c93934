"""The local sampler: continuous batching on a KV cache, with the learner's own module.

A prompt is prefilled once for its whole group. A row whose completion ends leaves at once and a waiting one takes its
place. Each completion draws its random numbers from (prompt seed, index, position): in fp32 the same tokens come out
whatever else is in the batch, up to matrix kernels that round differently for other row counts; in bf16 such rounding
can flip a near-tie. The same call with the same thread count repeats bit for bit on CPU.

Shapes: B active rows, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from r1kit.model.generic import GenericModel
from r1kit.model.transformer import Decoder, Stack, Transformer
from r1kit.sampling.base import OnProgress, shorter
from r1kit.sampling.cuda_graphs import GraphedStep, Step
from r1kit.sampling.draw import draw
from r1kit.sampling.kv_cache import KVCache, RecordingAttention
from r1kit.sampling.padded import generate_padded
from r1kit.sampling.random import seed_from, uniforms
from r1kit.types import Completion, Metrics, Prompt, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFILL_TOKENS = 8192  # prompt tokens prefilled in one pass


@dataclass
class _Prefilled:
    """A prompt's keys and values, waiting for rows."""

    index: int
    prompt: Prompt
    keys: Tensor | None
    values: Tensor | None


@dataclass
class _Rows:
    """State of the decoding rows; the first B are active."""

    owner: list[tuple[int, int]]
    """(prompt, sample) of each active row."""
    next_token: Tensor
    length: Tensor
    """Tokens in the cache."""
    seed: Tensor
    count: Tensor
    """Tokens generated."""
    tokens: Tensor
    logprobs: Tensor
    longest: int = 0
    """The greatest `length` of the active rows."""


class LocalSampler:
    """`Sampler` in this process, on one device, at most `rows` completions at a time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, rows: int = 256) -> None:
        if rows < 1:
            raise ValueError(f"--rows is {rows}; give at least 1")
        self.tokenizer = tokenizer
        self.max_rows = rows
        self.model: Decoder | None = None
        self.version = 0

    def load_weights(self, source: Decoder, version: int) -> Metrics:
        self.model, self.version = source, version
        return {}

    @torch.no_grad()  # not inference_mode: the RoPE table made here serves training too
    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams, n: int, on_progress: OnProgress | None = None
    ) -> list[list[Completion]]:
        assert self.model is not None, "load_weights comes first"
        if not prompts:
            return []
        self._check(prompts, params)
        if isinstance(self.model, GenericModel):
            return self._generate_padded(self.model, prompts, params, n, on_progress)
        assert isinstance(self.model, Stack)
        config, device = self.model.config, self.model.embed.weight.device
        max_rows = min(self.max_rows, len(prompts) * n)
        longest_prompt = max(len(prompt.tokens) for prompt in prompts)
        cache = KVCache(config, max_rows, longest_prompt + params.max_new_tokens, self.model.embed.weight)
        rows = _Rows(
            owner=[],
            next_token=torch.zeros(max_rows, dtype=torch.long, device=device),
            length=torch.zeros(max_rows, dtype=torch.long, device=device),
            seed=torch.zeros(max_rows, dtype=torch.long, device=device),
            count=torch.zeros(max_rows, dtype=torch.long, device=device),
            tokens=torch.zeros(max_rows, params.max_new_tokens, dtype=torch.long, device=device),
            logprobs=torch.zeros(max_rows, params.max_new_tokens, device=device),
        )
        step = self._stepper(rows, cache, params)
        waiting = self._waiting(prompts, n)
        done: list[list[Completion | None]] = [[None] * n for _ in prompts]
        finished, total, exhausted = 0, len(prompts) * n, False
        while True:
            # New rows come in batches, so that the prefill of a few prompts is not a pass of its own each time.
            free = max_rows - len(rows.owner)
            if not exhausted and free >= max(1, max_rows // 8) or not rows.owner:
                exhausted = self._admit(rows, cache, waiting, free)
            if not rows.owner:
                break
            active = len(rows.owner)
            ended = step(cache.rows(active), cache.window(rows.longest))[:active].nonzero().squeeze(-1)
            rows.longest += 1
            if len(ended):
                for row in ended.tolist():
                    prompt, sample = rows.owner[row]
                    count = int(rows.count[row])
                    done[prompt][sample] = self._completion(
                        rows.tokens[row, :count].tolist(), rows.logprobs[row, :count].tolist(), params
                    )
                self._leave(rows, cache, ended)
                finished += len(ended)
                if on_progress is not None:
                    on_progress(finished, total)
        return done  # type: ignore[return-value]

    def _generate_padded(
        self,
        model: GenericModel,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        n: int,
        on_progress: OnProgress | None,
    ) -> list[list[Completion]]:
        """Batches of at most `rows` completions, one after the other."""
        todo = [(prompt, sample) for prompt in prompts for sample in range(n)]
        done: list[Completion] = []
        while len(done) < len(todo):
            batch = todo[len(done) : len(done) + self.max_rows]
            done += [
                self._completion(tokens, logprobs, params)
                for tokens, logprobs in generate_padded(model, [p for p, _ in batch], [s for _, s in batch], params)
            ]
            if on_progress is not None:
                on_progress(len(done), len(todo))
        return [done[row : row + n] for row in range(0, len(done), n)]

    def _check(self, prompts: Sequence[Prompt], params: SamplingParams) -> None:
        assert self.model is not None
        longest = max(len(prompt.tokens) for prompt in prompts)
        if min(len(prompt.tokens) for prompt in prompts) == 0:
            raise ValueError("a prompt has no tokens; give at least one (a template or a BOS token)")
        context = self.model.config.context
        if longest + params.max_new_tokens > context:
            raise ValueError(
                f"longest prompt {longest} + --max-new-tokens {params.max_new_tokens} tokens exceed the model's "
                f"context {context}; {shorter(longest, params.max_new_tokens, context)}"
            )

    def _waiting(self, prompts: Sequence[Prompt], n: int) -> Iterator[tuple[_Prefilled, int]]:
        """Every (prefilled prompt, sample) in order; prompts are prefilled a batch at a time, when first needed."""
        queue = deque(enumerate(prompts))
        while queue:
            batch, tokens = [], 0
            while (
                queue
                and (not batch or tokens + len(queue[0][1].tokens) <= PREFILL_TOKENS)
                and len(batch) * n < self.max_rows
            ):
                batch.append(queue.popleft())
                tokens += len(batch[-1][1].tokens)
            for prefilled in self._prefill(batch):
                for sample in range(n):
                    yield prefilled, sample

    def _prefill(self, batch: list[tuple[int, Prompt]]) -> list[_Prefilled]:
        """Keys and values of all prompt tokens but the last, which is each row's first decoding step."""
        assert self.model is not None
        device = self.model.embed.weight.device
        lengths = [len(prompt.tokens) - 1 for _, prompt in batch]
        if sum(lengths) == 0:
            return [_Prefilled(index, prompt, None, None) for index, prompt in batch]
        tokens = torch.tensor([token for _, prompt in batch for token in prompt.tokens[:-1]], device=device)
        attention = RecordingAttention([length for length in lengths if length], device)
        self.model(tokens, attention.positions_T, attention)
        keys = torch.stack(attention.keys).split(lengths, dim=1)
        values = torch.stack(attention.values).split(lengths, dim=1)
        return [_Prefilled(index, prompt, k, v) for (index, prompt), k, v in zip(batch, keys, values, strict=True)]

    def _admit(self, rows: _Rows, cache: KVCache, waiting: Iterator[tuple[_Prefilled, int]], free: int) -> bool:
        """Fill up to `free` rows. True when nobody waits any more."""
        groups: dict[int, tuple[_Prefilled, list[int]]] = {}
        first = len(rows.owner)
        exhausted = False
        for _ in range(free):
            item = next(waiting, None)
            if item is None:
                exhausted = True
                break
            prefilled, sample = item
            groups.setdefault(prefilled.index, (prefilled, []))[1].append(len(rows.owner))
            rows.owner.append((prefilled.index, sample))
        for prefilled, members in groups.values():
            start, end = members[0], members[-1] + 1
            cache.write_prompt(start, end, prefilled.keys, prefilled.values)
            rows.next_token[start:end] = prefilled.prompt.tokens[-1]
            rows.length[start:end] = len(prefilled.prompt.tokens) - 1
            seeds = [seed_from(prefilled.prompt.seed, rows.owner[row][1]) for row in members]
            rows.seed[start:end] = torch.tensor(seeds, device=rows.seed.device)
        rows.count[first : len(rows.owner)] = 0
        if groups:
            rows.longest = max(rows.longest, *(len(prefilled.prompt.tokens) - 1 for prefilled, _ in groups.values()))
        return exhausted

    def _stepper(self, rows: _Rows, cache: KVCache, params: SamplingParams) -> Step:
        """What decodes a token in each of the first B rows, given B and a window; it returns which of them ended, [B].

        Rows that are not active may be among the B: what they draw is nobody's, and they stay within their memory.
        """
        model = self.model
        assert isinstance(model, Stack)
        stops = torch.tensor(params.stop_tokens or (-1,), device=rows.length.device)

        def step(count: int, window: int) -> Tensor:
            lengths = rows.length[:count]
            cache.start_step(lengths, window)
            hidden_BD = model(rows.next_token[:count], lengths, cache)
            logits_BV = model.unembed(hidden_BD)
            counts = rows.count[:count]
            tokens, logprobs = draw(logits_BV, params, uniforms(rows.seed[:count], counts))
            index = torch.arange(count, device=tokens.device)
            place = counts.clamp(max=params.max_new_tokens - 1)
            rows.tokens[index, place] = tokens
            rows.logprobs[index, place] = logprobs
            rows.next_token[:count] = tokens
            rows.length[:count].add_(1).clamp_(max=cache.capacity - 1)
            rows.count[:count] += 1
            return (tokens[:, None] == stops).any(-1) | (rows.count[:count] >= params.max_new_tokens)

        # Routing experts asks the device for values; only the plain decoder never does.
        return GraphedStep(step) if cache.device.type == "cuda" and isinstance(model, Transformer) else step

    def _leave(self, rows: _Rows, cache: KVCache, ended: Tensor) -> None:
        """The last active rows move into the places of the ended ones."""
        active = len(rows.owner)
        remaining = active - len(ended)
        gone = set(ended.tolist())
        holes = [row for row in gone if row < remaining]
        movers = [row for row in range(remaining, active) if row not in gone]
        holes.sort()
        if holes:
            source = torch.tensor(movers, device=ended.device)
            target = torch.tensor(holes, device=ended.device)
            cache.move(source, target, rows.longest)
            for state in (rows.next_token, rows.length, rows.seed, rows.count, rows.tokens, rows.logprobs):
                state[target] = state[source]
            for hole, mover in zip(holes, movers, strict=True):
                rows.owner[hole] = rows.owner[mover]
        del rows.owner[remaining:]
        rows.longest = int(rows.length[:remaining].max()) if remaining else 0

    def _completion(self, tokens: list[int], logprobs: list[float], params: SamplingParams) -> Completion:
        stopped = tokens[-1] in params.stop_tokens
        return Completion(
            tokens=tuple(tokens),
            sampler_logprobs=tuple(logprobs),
            text=self.tokenizer.decode(tokens[:-1] if stopped else tokens),  # type: ignore[arg-type]
            finish_reason="stop" if stopped else "length",
            policy_version=self.version,
        )
