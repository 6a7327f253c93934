"""Facts about prompt templates: the paper's words, and that a prefilled <think> is scored."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from r1kit.config import RewardConfig
from r1kit.model.chat import TEMPLATES, prefill_of, render_prompt
from r1kit.rewards.reward import score_completion
from r1kit.types import Completion, Message, Problem

QUESTION = (Message("user", "Make 24 from {8}, 3, 1."),)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace("assistant\n", "assistant\n<think>\n")


def tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    made.chat_template = chat_template
    return made


def test_the_papers_template_word_for_word():
    assert render_prompt("r1-zero", (Message("user", "1+1?"),), tokenizer()).text == (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
        "The assistant first thinks about the reasoning process in the mind and then provides the user with "
        "the answer. The reasoning process and answer are enclosed within <think> </think> and <answer> "
        "</answer> tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here "
        "</answer>. User: 1+1?. Assistant:"
    )


def test_short_template_and_its_prefilled_form():
    plain = render_prompt("short", QUESTION, tokenizer())
    assert (plain.text, plain.prefill) == ("User: Make 24 from {8}, 3, 1.\nAssistant:", "")
    prefilled = render_prompt("short-prefilled", QUESTION, tokenizer())
    assert (prefilled.text, prefilled.prefill) == (plain.text + " <think>", "<think>")


@pytest.mark.parametrize(
    ("name", "own_template"),
    [("short-prefilled", None), ("r1-zero-prefilled", None), ("chat", THINKING)],
)
def test_a_template_that_prefills_think_does_not_pin_the_format_reward_at_0(name: str, own_template: str | None):
    prompt = render_prompt(name, QUESTION, tokenizer(own_template))
    assert prompt.text.endswith(prompt.prefill) and prompt.prefill.strip() == "<think>"
    problem = Problem("p", "countdown", QUESTION, {"numbers": [8, 3, 1], "target": 24}, "countdown")
    completion = Completion((), (), "8*3=24</think><answer>8*3*1</answer>", "stop")
    score = score_completion(problem, completion, prompt.prefill, RewardConfig())
    assert score.parts == {"accuracy": 1.0, "format": 1.0}


@pytest.mark.parametrize(("name", "own_template"), [("short", None), ("r1-zero", None), ("chat", CHATML)])
def test_other_templates_leave_the_tag_to_the_model(name: str, own_template: str | None):
    assert render_prompt(name, QUESTION, tokenizer(own_template)).prefill == ""


def test_prefill_is_a_trailing_tag_only():
    assert prefill_of("a <think>\n") == "<think>\n"
    assert prefill_of("a <think> b") == ""
    assert prefill_of("<think>\n\n</think>\n\n") == ""
    # A question that ends in the tag is not a prefill: the template goes on after it.
    assert render_prompt("short", (Message("user", "what is <think>"),), tokenizer()).prefill == ""


def test_templates_name_their_own_prefill():
    assert {name: template.prefill for name, template in TEMPLATES.items()} == {
        "short": "",
        "short-prefilled": "<think>",
        "r1-zero": "",
        "r1-zero-prefilled": "<think>\n",
        "r1": "",
        "r1-prefilled": "<think>\n",
    }


def test_system_text_comes_before_the_question():
    messages = (Message("user", "1+1?"), Message("system", "Be brief."))
    assert render_prompt("short", messages, tokenizer()).text == "User: Be brief.\n1+1?\nAssistant:"
    with pytest.raises(ValueError, match="assistant turns; use template chat"):
        render_prompt("short", (*QUESTION, Message("assistant", "24")), tokenizer())


def test_chat_is_the_tokenizers_own():
    prompt = render_prompt("chat", (Message("system", "s"), Message("user", "q")), tokenizer(CHATML))
    assert prompt.text == ("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n")
    with pytest.raises(ValueError, match="no chat template; use --template r1-zero"):
        render_prompt("chat", QUESTION, tokenizer())
    with pytest.raises(
        ValueError, match="templates are short, short-prefilled, r1-zero, r1-zero-prefilled, r1, r1-prefilled, chat, "
    ):
        render_prompt("long", QUESTION, tokenizer())
