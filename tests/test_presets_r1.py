"""The presets from Dev2 to R1: one after the other, in the paper's proportions, on public data that can be read, and no
larger than their cards.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from r1kit import presets
from r1kit.algo.packing import pack
from r1kit.cli import main, parse
from r1kit.config import MemoryConfig, RewardModelConfig, RLConfig, SFTConfig
from r1kit.curation.general import read_general
from r1kit.curation.pairs import read_labelled, read_pairs
from r1kit.presets import MODEL_REJECT, MODEL_RL, MODEL_SFT, R1_REJECT, R1_REWARD_MODEL, R1_RL, R1_SFT
from r1kit.presets.memory import GIB, Shape, reckon
from r1kit.presets.models import MACHINES, MODELS, PROMPT, need
from r1kit.presets.models_r1 import CONVERSATIONS, LABELS, PAIRS
from r1kit.stages.rl import eval_config
from r1kit.tasks import load_problems
from r1kit.training.reward_model import RewardModelLearner, add_head, first_head
from tiny import OPTIM, make_sequences, tiny_config, tiny_model, tiny_tokenizer

TABLES: dict[str, dict[str, tuple[str, Any]]] = {
    "reject": R1_REJECT, "sft": R1_SFT, "reward-model": R1_REWARD_MODEL, "rl": R1_RL,
}  # fmt: skip
EVERY = [(command, name) for command, table in TABLES.items() for name in table]
ENDS = [machine.end for machine in MACHINES]
CONTEXT = {"qwen2.5-math-1.5b": 4096, "qwen2.5-math-7b": 4096}
"""Positions of those that have few."""
JUDGED_BY_ANOTHER = {f"{name}-lora-24gb" for name in ("qwen2.5-3b", "qwen2.5-7b", "qwen2.5-math-7b", "llama-3.1-8b")}
OFFLOADED = {"qwen2.5-3b", "qwen2.5-3b-node"}
"""Whose R1 has AdamW's state in CPU memory and whose Dev2 has not."""


def model_of(preset: str) -> str:
    return max((name for name in MODELS if name in preset), key=len)


def config_of(key: tuple[str, str]) -> Any:
    return TABLES[key[0]][key[1]][1]


def test_every_model_and_machine_has_the_rest_of_r1():
    wanted = {(f"{stage}-{name}{end}") for stage in ("r1", "r1-dev3") for name in MODELS for end in ENDS}
    assert R1_RL.keys() | R1_SFT.keys() == wanted
    assert R1_REJECT.keys() == {f"rejection-sampling-{name}{end}" for name in MODELS for end in ENDS}
    kinds = ("helpful", "safety")
    assert R1_REWARD_MODEL.keys() == {f"r1-{kind}-{name}{end}" for kind in kinds for name in MODELS for end in ENDS}
    registries = {
        "rl": presets.RL, "sft": presets.SFT, "reject": presets.REJECT, "reward-model": presets.REWARD_MODEL,
    }  # fmt: skip
    assert all(registries[command][name] is TABLES[command][name] for command, name in EVERY)


@pytest.mark.parametrize("key", EVERY, ids=" ".join)
def test_the_command_line_takes_it(key: tuple[str, str]):
    call = parse([*key, "--seed", "3"])
    assert call is not None and call.arguments == (replace(config_of(key), seed=3),)


def test_they_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out
    assert all(f"  r1kit {command} {name} " in lines for command, name in EVERY)


@pytest.mark.parametrize("key", EVERY, ids=" ".join)
def test_it_fits_its_card_and_says_so(key: tuple[str, str]):
    description, takes = TABLES[key[0]][key[1]][0], need(model_of(key[1]), config_of(key))
    card = 24 if key[1].endswith("-24gb") else 80
    assert takes.fits(card), f"{takes.gpu / GIB:.1f} GiB"
    if key[1].endswith("-node") and key[0] in ("rl", "reject"):
        assert f"the learner on one ({takes.gpu / GIB:.0f} reckoned)" in description or key[0] == "reject"
        assert f"vLLM on {7 if key[0] == 'rl' else 8} ({takes.vllm / GIB:.0f} for weights and KV cache)" in description
    else:
        assert f"one {card} GB GPU ({takes.gpu / GIB:.0f} reckoned)" in description
    assert f"{takes.cpu / GIB:.0f} GB of CPU memory" in description or not takes.cpu


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("end", ENDS)
def test_each_stage_reads_what_the_one_before_wrote(name: str, end: str):
    dev2, data = MODEL_RL[f"r1-dev2-{name}{end}"][1], R1_REJECT[f"rejection-sampling-{name}{end}"][1]
    dev3, r1 = R1_SFT[f"r1-dev3-{name}{end}"][1], R1_RL[f"r1-{name}{end}"][1]
    assert (data.model, data.template) == (str(dev2.run), dev2.template)
    assert (dev3.model, dev3.data) == (MODELS[name].hub, (str(data.run),))
    assert (r1.model, r1.template, dev3.template) == (str(dev3.run), dev2.template, dev2.template)
    for kind in ("helpful", "safety"):
        scorer = R1_REWARD_MODEL[f"r1-{kind}-{name}{end}"][1]
        other = name + end in JUDGED_BY_ANOTHER
        assert scorer.kind == kind
        assert scorer.model == ("Qwen/Qwen2.5-0.5B" if other else str(dev3.run))
        assert scorer.template == ("chat" if other else dev3.template)
        assert str(scorer.run) == (r1.reward.helpful_model if kind == "helpful" else r1.reward.safety_model)
        assert ("Qwen/Qwen2.5-0.5B" in R1_RL[f"r1-{name}{end}"][0]) == (other or name == "qwen2.5-0.5b")
    assert dev3.lora == r1.lora == dev2.lora


def test_no_two_write_the_same_folder():
    tables = (presets.RL, presets.SFT, presets.REJECT, presets.REWARD_MODEL)
    runs = [config.run for table in tables for _, config in table.values()]
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("name", R1_RL)
def test_r1_is_dev2s_rl_with_general_prompts_in_the_papers_last_part(name: str):
    r1, dev2 = R1_RL[name][1], MODEL_RL[name.replace("r1-", "r1-dev2-", 1)][1]
    paper = presets.rl_r1()
    assert abs((r1.steps - r1.general_from) / r1.steps - 400 / 1700) < 0.5 / r1.steps
    assert r1.temperature == 0.7
    assert r1.general_share == paper.general_share
    assert r1.reward == replace(
        paper.reward, helpful_model=r1.reward.helpful_model, safety_model=r1.reward.safety_model
    )
    same = ("steps", "problems_per_step", "group_size", "max_new_tokens", "optim", "algo", "tasks", "filter", "vllm")
    same += ("eval_every", "save_every", "sampler", "lora", "tokens_per_microbatch")
    assert all(getattr(r1, field) == getattr(dev2, field) for field in same)
    offloaded = replace(dev2.memory, offload_optimizer=True)
    assert r1.memory == (offloaded if name.removeprefix("r1-") in OFFLOADED else dev2.memory)
    assert r1.rows == (dev2.rows // 2 if name == "r1-llama-3.1-8b-lora-24gb" else dev2.rows)


@pytest.mark.parametrize("name", ["r1-qwen2.5-1.5b", "r1-llama-3.1-8b-node"])
def test_only_what_a_rule_can_judge_is_evaluated(name: str):
    r1 = R1_RL[name][1]
    assert r1.eval_every and eval_config(r1).tasks == r1.tasks
    assert eval_config(replace(r1, general_tasks=(PAIRS, "general"))).tasks == (*r1.tasks, "general")
    assert eval_config(replace(r1, tasks=(), general_from=0)).tasks == r1.general_tasks


@pytest.mark.parametrize("name", R1_REJECT)
def test_the_samples_are_the_papers_mixture(name: str):
    data, dev3 = R1_REJECT[name][1], R1_SFT[name.replace("rejection-sampling", "r1-dev3")][1]
    cold_start = MODEL_REJECT[name.replace("rejection-sampling", "cold-start")][1]
    dev1 = MODEL_SFT[name.replace("rejection-sampling", "r1-dev1")][1]
    assert data.general_share == 177_812 / 804_745
    assert (data.temperature, data.top_p, data.rewrite, data.general_data) == (0.6, 0.95, "none", (CONVERSATIONS,))
    assert data.num_problems > cold_start.num_problems and data.keep_per_problem <= data.num_samples
    assert (dev3.epochs, dev3.batch_size) == (2, 128)
    assert (dev3.optim, dev3.max_tokens, dev3.lora) == (dev1.optim, dev1.max_tokens, dev1.lora)


@pytest.mark.parametrize("name", R1_REWARD_MODEL)
def test_reward_models_are_trained_as_the_papers_on_whole_pairs(name: str):
    config = R1_REWARD_MODEL[name][1]
    paper = presets.reward_model_r1_helpful()
    assert (config.batch_size, config.epochs, config.optim.lr) == (paper.batch_size, paper.epochs, paper.optim.lr)
    assert config.data == ((PAIRS,) if config.kind == "helpful" else (LABELS,))
    assert 2 * config.max_tokens <= config.tokens_per_microbatch
    assert config.max_tokens <= CONTEXT.get(model_of(name), 32_768)


TINY = Shape(
    vocab=tiny_config().vocab_size, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=48, tied=False,
    qkv_bias=False,
)  # fmt: skip


@pytest.mark.parametrize("offload", [False, True])
def test_what_stands_in_a_tiny_reward_models_training_is_what_is_reckoned(offload: bool):
    model = add_head(tiny_model(dtype=torch.bfloat16), first_head(32, seed=0))
    head = model.reward_head.numel()
    assert sum(weight.numel() for weight in model.parameters()) == TINY.parameters + head
    memory = MemoryConfig(offload_optimizer=offload)
    learner = RewardModelLearner(model, tiny_tokenizer(), OPTIM, memory=memory)
    learner.forward_backward(pack(make_sequences()), lambda scores, batch: (scores.sum(), {}))
    learner.optim_step(1e-3)
    weights = {id(weight): weight for weight in [*model.parameters(), *learner.masters]}
    bytes_now = sum(weight.nbytes for weight in weights.values())
    bytes_now += sum(m.nbytes for state in learner.optimizer.state.values() for m in state.values() if m.dim())
    takes = reckon(RewardModelConfig(memory=memory), TINY)
    unused = 8 * TINY.vocab * TINY.hidden  # the output layer of untied models has no gradient, so no moments
    where = takes.standing if not offload else takes.standing + 12 * TINY.parameters
    assert where - unused == bytes_now - 14 * head
    assert (takes.cpu, takes.sampling) == (16 * TINY.parameters if offload else 0, 0)


def test_reward_models_in_rl_take_their_weights_and_a_pass():
    shape, small = MODELS["qwen2.5-7b"].shape, MODELS["qwen2.5-0.5b"].shape
    config = RLConfig(rows=1, eval_every=0, max_new_tokens=64)
    plain, one, two = (reckon(config, shape, reward_models=models) for models in ((), (shape,), (shape, small)))
    assert one.standing - plain.standing == 2 * shape.parameters
    assert two.standing - one.standing == 2 * small.parameters
    assert one.sampling > plain.sampling and one.sampling == two.sampling  # they score one after the other
    assert (plain.update, plain.cpu) == (two.update, two.cpu)
    node = R1_RL["r1-qwen2.5-7b-node"][1]
    beside, without = need("qwen2.5-7b", node), reckon(node, shape, PROMPT)
    assert beside.standing - without.standing == 4 * shape.parameters and beside.sampling > without.sampling == 0


def test_a_reward_model_has_no_logits_and_takes_more_for_longer_texts():
    shape = MODELS["qwen2.5-1.5b"].shape
    plain = RewardModelConfig(tokens_per_microbatch=4096, max_tokens=2048)
    assert reckon(plain, shape).update < reckon(SFTConfig(tokens_per_microbatch=4096, max_tokens=4096), shape).update
    longer = reckon(replace(plain, max_tokens=4096), shape).update
    assert longer > reckon(plain, shape).update  # a pair is never split
    assert reckon(replace(plain, kind="safety", max_tokens=4096), shape).update == reckon(plain, shape).update


def ultrafeedback(folder: Path, split: str, count: int) -> None:
    """A copy in the layout of HuggingFaceH4/ultrafeedback_binarized."""
    rows = []
    for number in range(count):
        ask = {"role": "user", "content": f"Question {number} of {split}?"}
        good, bad = ({"role": "assistant", "content": f"{word} {number}"} for word in ("Good", "Bad"))
        rows.append(
            {
                "prompt": ask["content"], "prompt_id": str(number), "chosen": [ask, good], "rejected": [ask, bad],
                "messages": [ask, good], "score_chosen": 8.0, "score_rejected": 4.0,
            }
        )  # fmt: skip
    rows[1]["messages"] = [rows[1]["messages"][0], {"role": "assistant", "content": " "}]
    path = folder / "HuggingFaceH4/ultrafeedback_binarized/data" / f"{split}-00000-of-00001.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def beavertails(folder: Path, size: str, split: str, count: int) -> None:
    """A copy in the layout of PKU-Alignment/BeaverTails: two labelled responses to each prompt."""
    rows = [
        {"prompt": f"Deed {i} of {size} {split}?", "response": reply, "category": {"theft": not safe}, "is_safe": safe}
        for i in range(count)
        for reply, safe in (("No.", True), ("Sure.", False))
    ]
    path = folder / "PKU-Alignment/BeaverTails/round0" / size / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train_prefs", "test_prefs", "train_sft", "test_sft"):
        ultrafeedback(tmp_path, split, 60)
    for size in ("30k", "330k"):
        for split in ("train", "test"):
            beavertails(tmp_path, size, split, 60)
    monkeypatch.setenv("R1KIT_DATA", str(tmp_path))


def test_the_data_of_the_presets_are_read_in_their_own_layouts(copies: None):
    pairs, left_out = read_pairs([PAIRS])
    assert len(pairs) == 60 and not left_out
    assert (pairs[7].messages[0].content, pairs[7].chosen, pairs[7].rejected) == (
        "Question 7 of train_prefs?", "Good 7", "Bad 7",
    )  # fmt: skip
    labelled, _ = read_labelled([LABELS])
    assert len(labelled) == 120 and [one.safe for one in labelled[:2]] == [True, False]
    assert labelled[0].messages[0].content == "Deed 0 of 30k train?"
    general = read_general(CONVERSATIONS)
    assert len(general) == 59  # one says nothing
    assert [turn["content"] for turn in general[0]["messages"]] == ["Question 0 of train_sft?", "Good 0"]


@pytest.mark.parametrize(("source", "scorer"), [(PAIRS, "helpful"), (LABELS, "safety")])
def test_their_prompts_are_general_tasks_with_a_held_out_part(copies: None, source: str, scorer: str):
    sets = [load_problems(source, split, 0) for split in ("train", "heldout")]
    counts = [len(problems.first(1)) and len({p.id for p in problems.take(0, 60)}) for problems in sets]
    assert sum(counts) == 60 and counts[0] > counts[1] > 0
    problem = sets[0].take(0, 1)[0]
    assert (problem.scorer, problem.gold, len(problem.messages)) == (scorer, None, 1)
