"""GRPO on the real GSM8K, from a random Qwen2.5 and from the demo's base: the run resumes to the same bits, the rewards
are those of the file, and the saved folder answers the same in r1kit and transformers (test_hf_vllm.py: and in vLLM).

`pytest -s` prints a spot-check of the rewards. Where the file comes from: shared/data/README.md beside the repository.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import chdir
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Qwen2Tokenizer

from chat_templates import QWEN2_5
from r1kit.cli import main
from r1kit.config import RewardConfig
from r1kit.model.chat import render_prompt, stop_tokens
from r1kit.model.generic import load_generic
from r1kit.model.hf import model_folder
from r1kit.model.tokenizer import load_tokenizer
from r1kit.model.transformer import Decoder
from r1kit.rewards.pool import shared_pool
from r1kit.sampling.local import LocalSampler
from r1kit.tasks import load_problems
from r1kit.training.checkpoint import find_model
from r1kit.training.models import open_model
from r1kit.types import Completion, Message, Prompt, SamplingParams
from scripted import ANSWERS, save_scripted_model
from tiny import hf_from_config

GSM8K = Path(__file__).parents[2] / "shared/data/math_bench"
needs_gsm8k = pytest.mark.skipif(
    not (GSM8K / "gsm8k_train.jsonl").is_file(), reason="no ../shared/data/math_bench/gsm8k_train.jsonl"
)
pytestmark = needs_gsm8k

TINY = (
    "--steps 4 --max-new-tokens 32 --optim.lr 1e-3 --save-every 2 --eval.num-problems 4 --eval.num-samples 2 "
    "--eval.max-new-tokens 32 --device cpu"
)
# A random model never answers, and rewards that are all equal move nothing: here long completions earn more.
LONGER = "--reward.length cosine --reward.length-max 32 --reward.length-wrong 0 1"
RUNS = {
    "qwen2.5": f"--template chat --dtype fp32 --problems-per-step 3 --group-size 6 {LONGER} {TINY}",
    "demo-base": f"--template short --dtype bf16 --problems-per-step 4 --group-size 16 {TINY}",
}
"""How each model is trained."""
GREEDY = 24
"""Tokens of a greedy completion at most."""


def rows_of(split: str) -> Iterator[dict[str, str]]:
    with (GSM8K / f"gsm8k_{split}.jsonl").open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def shortest(split: str, number: int) -> list[dict[str, str]]:
    """The rows with the shortest questions: tests are to be quick."""
    return sorted(rows_of(split), key=lambda row: len(row["question"]))[:number]


def gold_of(row: dict[str, str]) -> Decimal:
    """The number after ####, read here and not by r1kit."""
    return Decimal(re.findall(r"#### *(-?[\d.,]+)", row["answer"])[-1].replace(",", ""))


def save_slice(folder: Path, **splits: list[dict[str, str]]) -> Path:
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def save_qwen(folder: Path) -> None:
    """Random weights in Qwen2.5's shape and real format: seven heads to one of the keys, biases, tied embeddings, rows
    that no token has, bf16 in shards; the end of a text and of a turn are two tokens, as in its base models."""
    core = json.loads((model_folder("demo-base") / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokenizer = Qwen2Tokenizer(vocab=core["vocab"], merges=[tuple(merge) for merge in core["merges"]])  # type: ignore[arg-type]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = QWEN2_5
    config = AutoConfig.for_model(
        "qwen2", vocab_size=1088, hidden_size=224, intermediate_size=320, num_hidden_layers=2, num_attention_heads=7,
        num_key_value_heads=1, max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = hf_from_config(config)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():  # a long row is the likeliest token after some of the texts: completions end now and then
        model.get_input_embeddings().weight[end] += 1.5  # type: ignore[index]
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="500KB")  # type: ignore[call-arg]
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"bos_token_id": 0, "eos_token_id": 0, "max_new_tokens": 2048}')


def train(name: str, folder: Path) -> Path:
    """A finished run in folder/stopped that was stopped once, and one in folder/straight that was not."""
    save_slice(folder / "gsm8k", train=shortest("train", 40), test=shortest("test", 8))
    model = name
    if name == "qwen2.5":
        model = str(folder / "qwen2.5")
        save_qwen(Path(model))
    # The order of problems depends on the set's name: a path that is the same each time.
    command = ["rl", "tiny", "--model", model, "--tasks", "./gsm8k", *shlex.split(RUNS[name])]
    with chdir(folder):
        assert main([*command, "--run", "straight"]) == 0
        assert main([*command, "--run", "stopped", "--stop-after", "2"]) == 0
        assert not Path("stopped/checkpoints/step-000004").exists()
        assert main([*command, "--run", "stopped"]) == 0
    return folder


@pytest.fixture(scope="module", params=RUNS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, train(request.param, tmp_path_factory.mktemp(request.param))


def metrics(run: Path) -> list[dict[str, float]]:
    timings = ("time", "seconds/", "tokens_per_second")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(timings)} for row in rows]


def test_a_stopped_run_goes_on_to_the_same_bits(trained: tuple[str, Path]):
    _, folder = trained
    straight, stopped = folder / "straight", folder / "stopped"
    assert metrics(straight) == metrics(stopped)
    assert sum(row.get("grad_norm", 0) > 0 for row in metrics(straight)) >= 2, "no update moved the weights"
    files = {str(path.relative_to(straight)) for path in straight.rglob("*") if path.is_file()}
    assert {"checkpoints/step-000004/model.safetensors", "evals/step-000004.jsonl", "samples.jsonl"} <= files
    differing = {name for name in files if (straight / name).read_bytes() != (stopped / name).read_bytes()}
    assert differing == {"config.json", "metrics.jsonl"}, "which have the run's name and the seconds"


def test_without_a_network_gsm8k_says_how_to_bring_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    datasets = pytest.importorskip("datasets", reason="pip install 'r1kit[data]'")

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    command = ["rl", "tiny", "--tasks", "gsm8k", "--run", str(tmp_path / "run")]
    assert main(command) == 2
    assert re.search(r"error: openai/gsm8k: .*Couldn't reach.*R1KIT_DATA", capsys.readouterr().err)
    copied = save_slice(tmp_path / "copies/openai/gsm8k", train=shortest("train", 20), test=shortest("test", 8))
    monkeypatch.setenv("R1KIT_DATA", str(copied.parents[1]))
    assert [len(load_problems("gsm8k", split, 0).first(8)) for split in ("train", "heldout")] == [8, 8]


def completions_of(run: Path) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(prompt, gold, completion) of all that the run's evaluations sampled."""
    for path in sorted((run / "evals").glob("*.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            yield from ((row["prompt"], row["gold"], completion) for completion in row["completions"])


def stated(text: str) -> Decimal | None:
    """The number in the last <answer> after the thought."""
    answers = re.findall(r"<answer>(.*?)</answer>", text.rpartition("</think>")[2], re.DOTALL)
    try:
        return Decimal(answers[-1].strip().removeprefix("$").replace(",", "")) if answers else None
    except InvalidOperation:
        return None


def in_form(text: str) -> bool:
    """As R1's Table 1 has it, for texts in which the tags are plain."""
    return re.fullmatch(
        r"\s*<think>(.*\S.*)</think>\s*<answer>(.*\S.*)</answer>\s*", text, re.DOTALL
    ) is not None and all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))


def test_the_rewards_of_a_run_are_those_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The model says 23 seven times in ten and else 24, to problems whose answer is one of them or 25."""
    asked = {split: [row for row in rows_of(split) if gold_of(row) in (23, 24, 25)] for split in ("train", "test")}
    save_slice(tmp_path / "gsm8k", train=asked["train"][:30], test=asked["test"][:12])
    save_scripted_model(tmp_path / "model", ANSWERS, context=1024)
    flags = f"--template short {TINY} --steps 2 --eval.num-problems 10 --eval.num-samples 4"
    with chdir(tmp_path):
        assert main(["rl", "tiny", "--model", "model", "--tasks", "./gsm8k", "--run", "run", *shlex.split(flags)]) == 0
    golds = {row["question"]: gold_of(row) for row in [*asked["train"], *asked["test"]]}
    seen = set()
    checked: dict[Any, str] = {}
    for prompt, gold, completion in completions_of(tmp_path / "run"):
        question = prompt.removeprefix("User: ").removesuffix("\nAssistant:")
        expected, text = golds[question], completion["text"]
        right = stated(text) == expected
        assert Decimal(gold) == expected
        assert completion["verdict"] == ("right" if right else "wrong"), (text, expected)
        assert completion["reward"] == right + in_form(text), text
        seen.add((right, in_form(text)))
        answer, verdict = completion["extracted"], completion["verdict"]
        line = f"{gold:>5} {answer:>7}  {verdict:7} {completion['reward']:6.1f}  {question[:60]}...  {text}"
        checked.setdefault((question, verdict), line)
    assert {(True, True), (False, True)} <= seen
    with capsys.disabled():
        print("\n gold  answer  verdict reward  problem and completion", *list(checked.values())[:12], sep="\n")
    rows = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    assert all(row["parts"]["accuracy"] == (stated(row["completion"]) == golds[row["prompt"]]) for row in rows)
    assert any(row["advantage"] > 0 for row in rows if row["verdict"] == "right")
    assert not any(row["advantage"] > 0 for row in rows if row["reward"] < 2)


def test_every_gold_answer_is_right_and_another_number_is_not(tmp_path: Path):
    """All of the published test set, in the ways that models write a number."""
    rows = list(rows_of("test"))
    golds = {row["question"]: gold_of(row) for row in rows}
    problems = load_problems(f"{GSM8K / 'gsm8k_test.jsonl'}@test", "heldout", 0).first(len(golds))
    solutions = {
        row["question"]: row["answer"].rpartition("####")[0].replace("<<", "(").replace(">>", ")") for row in rows
    }
    assert len(problems) == len(golds) == 1319
    cases, expected = [], []
    for problem in problems:
        question = problem.messages[-1].content
        gold = golds[question]
        for answer, right in (
            (f"{gold}", 1),
            (f"${gold:,}", 1),
            (f" {gold}.00\n", 1),
            (f"{gold + 1}", 0),
            (f"-{gold}", 0),
        ):
            text = f"<think>{solutions[question]}</think><answer>{answer}</answer>"
            cases.append((problem, Completion((0,), (0.0,), text, "stop"), ""))
            expected.append(right and 1.0)
    scores = shared_pool().score_completions(cases, RewardConfig())
    faults = [
        (case[1].text[-60:], score.reason)
        for case, score, right in zip(cases, scores, expected, strict=True)
        if (score.parts["accuracy"], score.parts["format"]) != (right, 1.0)
    ]
    assert not faults, (len(faults), faults[:5])


def greedy(model: Decoder, tokenizer: PreTrainedTokenizerBase, texts: list[str], template: str) -> list[list[int]]:
    """Tokens of r1kit's completions, their end included."""
    sampler = LocalSampler(tokenizer)
    sampler.load_weights(model, version=0)
    params = SamplingParams(temperature=0.0, max_new_tokens=GREEDY, stop_tokens=stop_tokens(template, tokenizer))
    prompts = [Prompt(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), seed=0) for text in texts]  # type: ignore[arg-type]
    return [list(group[0].tokens) for group in sampler.generate(prompts, params, 1)]


def saved_and_asked(name: str, folder: Path) -> tuple[Path, list[str], list[list[int]]]:
    """The model folder of a run, prompts as it was trained with, and r1kit's greedy completions in fp32."""
    saved = find_model(folder / "stopped")
    model, tokenizer = open_model(str(saved), "cpu", "fp32")
    template = shlex.split(RUNS[name])[1]
    messages = [(Message("user", row["question"]),) for row in shortest("test", 6)]
    texts = [render_prompt(template, turn, tokenizer).text for turn in messages]
    return saved, texts, greedy(model, tokenizer, texts, template)


def test_the_saved_folder_answers_the_same_in_r1kit_and_transformers(trained: tuple[str, Path]):
    name, folder = trained
    saved, texts, expected = saved_and_asked(name, folder)
    base = load_tokenizer(folder / "qwen2.5" if name == "qwen2.5" else model_folder(name))
    ends = [base.decode([token]) for token in stop_tokens(shlex.split(RUNS[name])[1], base)]
    assert ends == (["<|endoftext|>", "<|im_end|>"] if name == "qwen2.5" else ["<|endoftext|>"])
    assert any(len(tokens) < GREEDY for tokens in expected), "all at the cap: nothing is known of the ends"
    plain = greedy(open_model(str(saved), "cpu", "fp32")[0], load_tokenizer(saved), texts, "short")
    assert plain == expected, "the folder itself says where completions end"
    assert (
        greedy(load_generic(saved, "a test", torch.float32, "cpu"), load_tokenizer(saved), texts, "short") == expected
    )

    theirs: Any = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert tokenizer.chat_template == base.chat_template
    for text, continued in zip(texts, expected, strict=True):
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        assert ids[0].tolist() == base(text, add_special_tokens=False)["input_ids"]
        output = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=GREEDY)
        assert output[0, ids.shape[1] :].tolist() == continued
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": shortest("test", 1)[0]["question"]}]
        assert tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) == texts[0]
