"""Reward models: the losses by hand, what is read, what is kept, and that a preference is learnt."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from safetensors.torch import load_file

from r1kit.algo.packing import Packable, pack
from r1kit.algo.preference import pairwise_loss, pointwise_loss
from r1kit.config import OptimConfig, RewardModelConfig
from r1kit.curation.pairs import is_heldout, read_pairs
from r1kit.model.hf import load_model, save_model
from r1kit.scoring.passk import standard_error
from r1kit.stages import reward_model
from r1kit.stages.reward_model import Term, accuracy_interval, clustered_error, evaluate, terms_of
from r1kit.training.reward_model import (
    PreferenceScorer,
    RewardModel,
    RewardModelLearner,
    Scale,
    add_head,
    first_head,
    load_reward_model,
    read_part,
    scale_of,
    score_texts,
    text_tokens,
)
from r1kit.types import Message, Problem
from test_resume import rows
from tiny import HIDDEN, OPTIM, packed_hidden, random_tokens, tiny_model, tiny_tokenizer

ASKED = (Message("user", "Name two fruits."),)


def tiny_reward_model(dtype: torch.dtype = torch.float32, *, tie: bool = True) -> RewardModel:
    return add_head(tiny_model(0, dtype, tie=tie), first_head(HIDDEN, 0))


def write_jsonl(path: Path, data: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data))
    return str(path)


# ------------------------------------------------------------------------------------------------------------- losses


def test_pairwise_loss_by_hand():
    """-log sigmoid of 2, 0 and -1 is 0.126928, ln 2 and 1.313262; the tie is half right."""
    chosen_S, rejected_S = torch.tensor([3.0, 1.0, 0.5]), torch.tensor([1.0, 1.0, 1.5])
    loss, metrics = pairwise_loss(chosen_S, rejected_S, num_pairs=3)
    assert loss.item() == pytest.approx((0.126928 + 0.693147 + 1.313262) / 3, abs=1e-6)
    assert metrics["accuracy"].item() == pytest.approx(0.5)
    assert metrics["margin"].item() == pytest.approx(1 / 3)


def test_pairwise_gradient_is_how_wrong_the_choice_is():
    """d loss / d chosen = -(1 - sigmoid(chosen - rejected))."""
    chosen_S = torch.tensor([2.0, -1.0], requires_grad=True)
    rejected_S = torch.tensor([0.0, 0.0], requires_grad=True)
    loss, _ = pairwise_loss(chosen_S, rejected_S, num_pairs=1)
    loss.backward()
    expected = torch.sigmoid(torch.tensor([2.0, -1.0])) - 1
    torch.testing.assert_close(chosen_S.grad, expected)
    torch.testing.assert_close(rejected_S.grad, -expected)


def test_pointwise_loss_by_hand():
    """P(safe) is 0.880797 at logit 2, 0.268941 at -1: -ln 0.880797 for the safe, -ln (1 - 0.268941) for the unsafe."""
    logits_S, safe_S = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])
    loss, metrics = pointwise_loss(logits_S, safe_S, num_responses=3)
    assert loss.item() == pytest.approx((0.126928 + 0.313262 + 0.693147) / 3, abs=1e-6)
    assert metrics["accuracy"].item() == pytest.approx(2.5 / 3)


def test_losses_of_micro_batches_add_up_to_the_step():
    chosen_S, rejected_S = torch.randn(7), torch.randn(7)
    whole, metrics = pairwise_loss(chosen_S, rejected_S, num_pairs=7)
    parts = [pairwise_loss(chosen_S[s], rejected_S[s], num_pairs=7) for s in (slice(0, 3), slice(3, 7))]
    torch.testing.assert_close(whole, parts[0][0] + parts[1][0])
    for name, value in metrics.items():
        torch.testing.assert_close(value, parts[0][1][name] + parts[1][1][name])
    loss, _ = pointwise_loss(torch.tensor([800.0, -800.0]), torch.tensor([1.0, 0.0]), num_responses=2)
    assert loss.item() == 0.0


# -------------------------------------------------------------------------------------------------- model and learner


def test_a_score_is_the_head_at_the_last_token_of_each_text():
    model = tiny_reward_model()
    texts = [random_tokens(length, length) for length in (9, 3, 1)]
    scores_S = model.scores(pack([Packable(tuple(text), len(text)) for text in texts]))
    alone = [(packed_hidden(model, [text])[-1] @ model.reward_head[0]).item() for text in texts]
    torch.testing.assert_close(scores_S, torch.tensor(alone))


def test_scores_keep_their_order_whatever_the_budget():
    model = tiny_reward_model()
    texts = [tuple(random_tokens(length, length)) for length in (4, 30, 11, 2, 30)]
    torch.testing.assert_close(
        torch.tensor(score_texts(model, texts, 16)), torch.tensor(score_texts(model, texts, 10_000))
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tie", [True, False])
def test_a_learner_goes_on_from_its_files_to_the_same_bits(tmp_path: Path, dtype: torch.dtype, tie: bool):
    batch = pack([Packable(tuple(random_tokens(n, n)), n) for n in (9, 7, 5, 4)])

    def step(learner: RewardModelLearner) -> float:
        def loss(scores_S, batch):  # noqa: ANN001, ANN202
            return pairwise_loss(scores_S[0::2], scores_S[1::2], num_pairs=2)

        learner.forward_backward(batch, loss)
        return learner.optim_step(1e-2)

    straight = RewardModelLearner(tiny_reward_model(dtype, tie=tie), tiny_tokenizer(), OPTIM)
    before = straight.model.reward_head.detach().clone()
    step(straight)
    straight.save(tmp_path)
    resumed = RewardModelLearner(tiny_reward_model(dtype, tie=tie), tiny_tokenizer(), OPTIM)
    resumed.load(tmp_path)
    assert step(straight) == step(resumed) > 0
    for ours, theirs in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(before, straight.model.reward_head)
    # The folder is still a policy's, for whoever opens it as one.
    assert isinstance(load_model(tmp_path, dtype).embed.weight, torch.Tensor)


def test_another_compute_type_is_refused(tmp_path: Path):
    RewardModelLearner(tiny_reward_model(), tiny_tokenizer(), OPTIM).save(tmp_path)
    with pytest.raises(ValueError, match="--dtype fp32"):
        RewardModelLearner(tiny_reward_model(torch.bfloat16), tiny_tokenizer(), OPTIM).load(tmp_path)


# ------------------------------------------------------------------------------------------------------ what is read


def text_of(template: str, messages: tuple[Message, ...], response: str) -> str:
    return str(tiny_tokenizer().decode(text_tokens(tiny_tokenizer(), template, messages, response)))  # type: ignore[arg-type]


def test_a_text_is_prompt_response_and_end():
    assert text_of("short", ASKED, "Apples.") == "User: Name two fruits.\nAssistant: Apples.<|endoftext|>"


def test_a_prefilled_template_gives_the_same_text():
    assert text_of("short-prefilled", ASKED, "Apples.") == text_of("short", ASKED, "Apples.")


def test_the_turns_before_are_rendered_one_by_one():
    messages = (Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello."), *ASKED)
    expected = "User: Be kind.\nHi\nAssistant: Hello.\nUser: Name two fruits.\nAssistant: Pears.<|endoftext|>"
    assert text_of("short", messages, "Pears.") == expected


@pytest.mark.parametrize(
    ("completion", "helpful", "safety"),
    [
        ("<think>Fruits.</think>Apples and pears. ", "Apples and pears.", "<think>Fruits.</think>Apples and pears."),
        (" Apples.", "Apples.", "Apples."),
        ("<think>On and on", "", "<think>On and on"),
        ("<think>Fruits.</think> ", "", "<think>Fruits.</think>"),
    ],
)
def test_helpful_reads_the_response_and_safety_all_of_it(completion: str, helpful: str, safety: str):
    assert read_part("helpful", completion) == helpful
    assert read_part("safety", completion) == safety


def scorer(kind: str = "helpful", scale: Scale | None = None) -> PreferenceScorer:
    scale = scale or Scale(1.0, 2.0, -5.0)
    return PreferenceScorer(tiny_reward_model(), tiny_tokenizer(), kind, "short", scale)  # type: ignore[arg-type]


def raw(text: str) -> float:
    return score_texts(tiny_reward_model(), [text_tokens(tiny_tokenizer(), "short", ASKED, text)], 1000)[0]


def test_helpful_is_standardised_and_does_not_see_the_thought():
    problem = Problem("p", "general", ASKED, None, "helpful")
    values = scorer().score([(problem, "<think>one</think>Apples."), (ASKED, "<think>other</think> Apples.")])
    assert values == pytest.approx([(raw("Apples.") - 1) / 2] * 2)


def test_safety_is_a_probability_of_all_that_was_said():
    one, other = scorer("safety").score([(ASKED, "<think>one</think>Apples."), (ASKED, "<think>other</think>Apples.")])
    assert one == pytest.approx(1 / (1 + math.exp(-raw("<think>one</think>Apples."))))
    assert one != other


def test_where_there_is_nothing_to_read_the_score_is_the_lowest():
    assert scorer().score([(ASKED, "<think>on and on"), (ASKED, "")]) == [-3.0, -3.0]
    assert scorer("safety", Scale(0.5, 0.1, 0.02)).score([(ASKED, " ")]) == [0.02]
    assert scorer().score([]) == []


def test_of_a_text_beyond_the_context_the_end_is_read():
    [value] = scorer().score([(ASKED, "rice " * 500 + "apples")])
    tokens = text_tokens(tiny_tokenizer(), "short", ASKED, "rice " * 500 + "apples")[-128:]
    assert value == pytest.approx((score_texts(tiny_reward_model(), [tokens], 1000)[0] - 1) / 2)


def test_scale_by_hand():
    scale = scale_of("helpful", [1.0, 2.0, 6.0])
    assert (scale.mean, scale.std, scale.lowest) == (3.0, pytest.approx((14 / 3) ** 0.5), 1.0)
    assert scale_of("safety", [0.0, -2000.0]) == Scale(0.25, 0.25, 0.0)


# ------------------------------------------------------------------------------------------------------------- stage


def lucky(path: Path, num_prompts: int = 240) -> str:
    """Pairs in which the response with the number 7 is chosen, whatever its length."""
    data = []
    for i in range(num_prompts):
        other = [3, 4, 5, 8, 9][i % 5]
        data.append(
            {"prompt": f"Make {i}.", "chosen": f"{'rice ' * (i % 3)}7", "rejected": f"{'rice ' * (i % 4)}{other}"}
        )
    return write_jsonl(path, data)


def tiny_base(folder: Path) -> str:
    save_model(tiny_model(0, tie=True), tiny_tokenizer(), folder)
    return str(folder)


def config(tmp_path: Path, run: str, **changes: object) -> RewardModelConfig:
    cfg = RewardModelConfig(
        run=tmp_path / run, model=tiny_base(tmp_path / "base"), data=(lucky(tmp_path / "lucky.jsonl"),), dtype="fp32",
        heldout_share=0.25, epochs=2, batch_size=16, optim=OptimConfig(lr=3e-3), tokens_per_microbatch=200,
    )  # fmt: skip
    return replace(cfg, **changes)


def last_checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def test_a_preference_is_learnt_and_holds_for_other_prompts(tmp_path: Path):
    cfg = config(tmp_path, "run")
    reward_model.main(cfg)
    result = rows(cfg.run)[-1]
    assert result["eval/accuracy"] > 0.9
    assert result["eval/longer"] < 0.7
    assert result["eval/prompts"] > 40
    scores = load_reward_model(cfg.run, "cpu", "fp32")
    good, bad = scores.score([(ASKED, "<think>4</think>7"), (ASKED, "<think>7</think>4")])
    assert good > bad
    # Standardised on the training texts: they have mean 0 and spread 1.
    pairs, _ = read_pairs(cfg.data)
    train = [p for p in pairs if not is_heldout(p.prompt_key, cfg.heldout_share)]
    values = torch.tensor(scores.score([(p.messages, text) for p in train for text in (p.chosen, p.rejected)]))
    assert values.mean().item() == pytest.approx(0, abs=1e-4)
    assert values.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert scores.score([(ASKED, "")])[0] == pytest.approx(values.min().item(), abs=1e-4)
    about = json.loads((last_checkpoint(cfg.run) / "reward_model.json").read_text())
    assert about["kind"] == "helpful"
    assert about["accuracy"] == result["eval/accuracy"]
    assert about["accuracy_interval"][0] < about["accuracy"]
    assert about["train_rows"] == len(train)
    reward_model.main(cfg)  # finished: nothing is done again
    assert rows(cfg.run)[-1] == result


def test_what_is_unsafe_is_learnt_and_scored_as_a_probability(tmp_path: Path):
    data = [
        {"prompt": f"Make {i}.", "response": f"<think>rice</think>{'7' if i % 2 else '4'}", "safe": bool(i % 2)}
        for i in range(240)
    ]
    source = write_jsonl(tmp_path / "labels.jsonl", data)
    cfg = config(tmp_path, "run", kind="safety", data=(source,))
    reward_model.main(cfg)
    result = rows(cfg.run)[-1]
    assert result["eval/accuracy"] > 0.9
    assert 0.5 <= result["eval/majority"] < 0.7
    safe, unsafe = load_reward_model(cfg.run, "cpu", "fp32").score(
        [(ASKED, "<think>rice</think>7"), (ASKED, "<think>rice</think>4")]
    )
    assert 0 < unsafe < 0.5 < safe < 1


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_reward_model_resumes_where_it_stopped(tmp_path: Path, dtype: str):
    cfg = config(tmp_path, "straight", dtype=dtype, save_every=4, batch_size=32)
    reward_model.main(cfg)
    stopped = replace(cfg, run=tmp_path / "stopped")
    reward_model.main(replace(stopped, stop_after=7))
    reward_model.main(stopped)
    assert rows(cfg.run) == rows(stopped.run)
    assert sum(row.get("grad_norm", 0) > 0 for row in rows(cfg.run)) > 8
    for name in ("model.safetensors", "reward_head/reward_head.safetensors"):
        ours, theirs = (load_file(last_checkpoint(run) / name) for run in (cfg.run, stopped.run))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = ((last_checkpoint(run) / "reward_model.json").read_text() for run in (cfg.run, stopped.run))
    assert ours == theirs


def test_an_unfinished_reward_model_is_refused(tmp_path: Path):
    cfg = config(tmp_path, "run", save_every=2, stop_after=2)
    reward_model.main(cfg)
    with pytest.raises(ValueError, match="has not finished"):
        load_reward_model(cfg.run)


def test_a_policy_is_no_reward_model(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="not a reward model"):
        load_reward_model(tiny_base(tmp_path / "base"))


def test_micro_batches_change_nothing(tmp_path: Path):
    """Every pair stays whole, and losses are normalised over the step: any budget gives the same first step."""
    firsts = []
    for budget in (40, 5000):
        cfg = config(tmp_path, f"run-{budget}", tokens_per_microbatch=budget, stop_after=1)
        reward_model.main(cfg)
        firsts.append(rows(cfg.run)[0])
    for name in ("loss/preference", "accuracy", "margin", "grad_norm"):
        assert firsts[0][name] == pytest.approx(firsts[1][name], rel=1e-4), name


def test_every_epoch_sees_every_row_once_in_an_order_of_its_own(tmp_path: Path):
    cfg = config(tmp_path, "run", batch_size=4)
    train = [Term(((i,),), safe=True, prompt_key=str(i)) for i in range(10)]
    epochs = [[t.prompt_key for step in range(3) for t in terms_of(train, cfg, e * 3 + step, 3)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(t.prompt_key for t in train)
    assert epochs[0] != epochs[1]


def test_rows_too_long_are_left_out_and_nothing_left_is_an_error(tmp_path: Path):
    long = [{"prompt": f"Q{i}", "chosen": "7 " * 200, "rejected": "3"} for i in range(9)]
    cfg = config(tmp_path, "run", data=(write_jsonl(tmp_path / "long.jsonl", long),))
    with pytest.raises(ValueError, match="0 rows to train on.*longer than 128 tokens': 9"):
        reward_model.main(cfg)
    assert not cfg.run.exists()
    same = [{"prompt": f"Q{i}", "chosen": "<think>7</think>7", "rejected": "<think>3</think>7"} for i in range(9)]
    with pytest.raises(ValueError, match="nothing to compare outside the thought': 9"):
        reward_model.main(replace(cfg, data=(write_jsonl(tmp_path / "same.jsonl", same),)))


def test_evaluation_by_hand():
    """A model that scores the last token but one: two pairs right, one wrong, one tied."""
    model = tiny_reward_model()
    words = [tuple(random_tokens(n, n)) for n in (3, 4, 5, 6)]
    a, b, c, d = sorted(words, key=lambda text: score_texts(model, [text], 100)[0])
    terms = [Term((d, a), True, "p"), Term((c, b), True, "p"), Term((a, b), True, "q"), Term((c, c), True, "r")]
    metrics = evaluate(model, terms, "helpful", 100)
    assert metrics["eval/accuracy"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    longer = [float(len(x) > len(y)) for x, y in ((d, a), (c, b), (a, b))]
    assert metrics["eval/longer"] == pytest.approx((sum(longer) + 0.5) / 4)
    assert (metrics["eval/rows"], metrics["eval/prompts"]) == (4, 3)
    shorter = [right for right, flag in zip((1, 1, 0), longer, strict=True) if not flag]
    assert metrics.get("eval/accuracy_chosen_shorter") == (pytest.approx(fmean(shorter)) if shorter else None)


def test_standard_error_is_over_prompts():
    scores = [1.0, 0.0, 1.0, 1.0]
    assert clustered_error(scores, "abcd") == pytest.approx(standard_error(scores))  # type: ignore[arg-type]
    # Four rows of each prompt that all agree tell no more than one would.
    assert clustered_error([s for s in scores for _ in range(4)], "aaaabbbbccccdddd") == pytest.approx(
        standard_error(scores)
    )
    assert clustered_error([1.0, 0.0], "aa") == 0.0


def test_interval_by_hand():
    """Wilson for 8 of 10: 0.490 to 0.943; for 10 of 10: 0.722 to 1."""
    low, high = accuracy_interval(0.8, (0.8 * 0.2 / 10) ** 0.5, 10)
    assert (low, high) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    low, high = accuracy_interval(1.0, 0.0, 10)
    assert (low, high) == (pytest.approx(0.722, abs=1e-3), 1.0)
