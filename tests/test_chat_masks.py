"""Facts about what is learnt of a conversation: with every template exactly what the assistant says, and its end."""

from __future__ import annotations

import copy
import importlib.util
import re
from datetime import datetime, tzinfo
from itertools import groupby
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from chat_templates import COHERE2_SYSTEM, PHI3_MARKED, SPECIAL
from r1kit.algo.packing import Packable, pack
from r1kit.config import RLConfig
from r1kit.model.chat import R1_ZERO, render_prompt, stop_tokens, turn_ends
from r1kit.stages import rl
from r1kit.training.conversations import Conversation, encode, has_loss, mask_text, prepare, render, render_turns
from r1kit.types import Completion, Message, Problem, Sample, Score
from tiny import make_learner, tiny_tokenizer


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    template, begin, end, special = SPECIAL[name]
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})  # type: ignore[arg-type]
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = begin, end, template
    return tokenizer


def talk(*contents: str) -> Conversation:
    """A user and an assistant in turn."""
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], text) for i, text in enumerate(contents)), "data.jsonl:1")  # type: ignore[arg-type]


def parts(packable: Packable, tokenizer: PreTrainedTokenizerBase) -> list[tuple[bool, str]]:
    """(learnt, text) of the runs of tokens."""
    runs = groupby(range(len(packable.tokens)), key=lambda place: has_loss(packable, place))
    return [(learnt, str(tokenizer.decode([packable.tokens[place] for place in run]))) for learnt, run in runs]


def sequences(name: str, conversation: Conversation) -> list[list[tuple[bool, str]]]:
    tokenizer = tokenizer_of(name)
    rendered = render_turns(conversation, "chat", tokenizer, "all")
    return [parts(packable, tokenizer) for packable in encode(rendered, tokenizer)]


ONE = ("1+1?", "<think>\n1+1=2\n</think>\n\n2")
HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"
QWEN_SYSTEM = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
EXPECTED = {
    "chatml": ("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n", ONE[1] + "<|im_end|>"),
    "qwen2.5": (QWEN_SYSTEM + "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n", ONE[1] + "<|im_end|>"),
    "qwen3": ("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n", ONE[1] + "<|im_end|>"),
    "marked": ("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n", ONE[1] + "<|im_end|>"),
    "llama-3": (
        f"<|begin_of_text|>{HEAD.format('user')}1+1?<|eot_id|>{HEAD.format('assistant')}", ONE[1] + "<|eot_id|>",
    ),
    "llama-3.2": (
        f"<|begin_of_text|>{HEAD.format('system')}Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
        f"<|eot_id|>{HEAD.format('user')}1+1?<|eot_id|>{HEAD.format('assistant')}", ONE[1] + "<|eot_id|>",
    ),
    "deepseek-r1": (
        "<｜begin▁of▁sentence｜><｜User｜>1+1?<｜Assistant｜><think>\n", "1+1=2\n</think>\n\n2<｜end▁of▁sentence｜>",
    ),
    "mistral": ("<s>[INST] 1+1? [/INST]", ONE[1] + "</s>"),
    "phi-3": ("<|user|>1+1?<|end|><|assistant|>", ONE[1] + "<|end|>"),
    "phi-3.5": ("<|user|>\n1+1?<|end|>\n<|assistant|>\n", ONE[1] + "<|end|>"),
    "cohere2": (
        f"<BOS_TOKEN>{COHERE2_SYSTEM}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>1+1?<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>", ONE[1] + "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_one_question_and_answer(name: str, capsys: pytest.CaptureFixture[str]):
    """The thought is learnt too: R1's own template would take it out of a message that is rendered."""
    [found] = sequences(name, talk(*ONE))
    assert found == [(False, EXPECTED[name][0]), (True, EXPECTED[name][1])]
    tokenizer = tokenizer_of(name)
    [rendered] = render_turns(talk(*ONE), "chat", tokenizer, "all")
    with capsys.disabled():
        print(f"\n{name}\n{mask_text(rendered, tokenizer)}")
    given, learnt = mask_text(rendered, tokenizer).splitlines()
    assert given.startswith("given") and learnt.startswith("learnt") and "</think>" in learnt


PLAIN = {
    "short": ("User: 1+1?\nAssistant:", ONE[1]),
    "short-prefilled": ("User: 1+1?\nAssistant: <think>", ONE[1].removeprefix("<think>")),
    "r1-zero": (R1_ZERO.replace("{prompt}", "1+1?"), ONE[1]),
    "r1-zero-prefilled": (R1_ZERO.replace("{prompt}", "1+1?") + " <think>\n", ONE[1].removeprefix("<think>\n")),
    "r1": ("<｜begin▁of▁sentence｜><｜User｜>1+1?<｜Assistant｜>", ONE[1]),
    "r1-prefilled": ("<｜begin▁of▁sentence｜><｜User｜>1+1?<｜Assistant｜><think>\n", ONE[1].removeprefix("<think>\n")),
    "chat-prefilled": (EXPECTED["chatml"][0] + "<think>\n", ONE[1].removeprefix("<think>\n")),
}


@pytest.mark.parametrize("template", PLAIN)
def test_one_question_and_answer_without_a_chat_template_or_prefilled(
    template: str, capsys: pytest.CaptureFixture[str]
):
    """What the template has written is given; a policy that is sampled with it is asked for the same rest."""
    tokenizer = tokenizer_of("deepseek-r1" if template.startswith("r1") and "zero" not in template else "chatml")
    [rendered] = render_turns(talk(*ONE), template, tokenizer, "all")
    [packable] = encode([rendered], tokenizer)
    end = str(tokenizer.decode(list(turn_ends(template, tokenizer))))
    given, learnt = PLAIN[template]
    with capsys.disabled():
        print(f"\n{template}\n{mask_text(rendered, tokenizer)}")
    assert parts(packable, tokenizer) == [(False, given), (True, learnt + end)]
    assert render_prompt(template, (Message("user", ONE[0]),), tokenizer).text == given


@pytest.mark.parametrize("name", EXPECTED)
def test_the_prompt_is_the_one_that_a_policy_is_sampled_on_and_the_end_stops_it(name: str):
    tokenizer = tokenizer_of(name)
    [packable] = encode([render(talk(*ONE), "chat", tokenizer)], tokenizer)
    prompt = render_prompt("chat", (Message("user", ONE[0]),), tokenizer)
    assert list(packable.tokens[: packable.prompt_length]) == tokenizer(prompt.text, add_special_tokens=False).input_ids
    ends = turn_ends("chat", tokenizer)
    assert packable.tokens[-len(ends) :] == ends and ends[0] in stop_tokens("chat", tokenizer)
    assert tokenizer.eos_token_id in stop_tokens("chat", tokenizer)


def test_the_end_of_a_turn_is_the_templates_where_the_model_has_another_end_of_sequence():
    ends = {name: tokenizer_of(name).decode(list(turn_ends("chat", tokenizer_of(name)))) for name in SPECIAL}
    assert ends["phi-3"] == ends["phi-3.5"] == "<|end|>" and ends["cohere2"] == "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
    assert ends["chatml"] == "<|im_end|>" and ends["llama-3"] == "<|eot_id|>" and ends["mistral"] == "</s>"
    base = tokenizer_of("chatml")
    assert [base.decode([token]) for token in stop_tokens("chat", base)] == ["<|endoftext|>", "<|im_end|>"]
    assert stop_tokens("short", base) == (base.eos_token_id,), "a plain template ends with the end of sequence"
    base.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert turn_ends("chat", base) == (base.eos_token_id,), "a template without an end"
    base.chat_template = "<|im_start|>{% for m in messages %}{{ m.content[0].text }}{% endfor %}"
    assert turn_ends("chat", base) == (base.eos_token_id,), "one that wants its text in parts"


TWO = ("1+1?", "<think>\na\n</think>\n\n2", "and 3?", "<think>\nb\n</think>\n\n5")
USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def test_all_turns_share_a_sequence_where_the_template_only_adds():
    [found] = sequences("chatml", talk(*TWO))
    assert found == [
        (False, USER.format(TWO[0])),
        (True, TWO[1] + "<|im_end|>"),
        (False, "\n" + USER.format(TWO[2])),
        (True, TWO[3] + "<|im_end|>"),
    ]
    [llama] = sequences("llama-3", talk(*TWO))
    assert [text for learnt, text in llama if learnt] == [TWO[1] + "<|eot_id|>", TWO[3] + "<|eot_id|>"]
    assert "".join(text for _, text in llama).count("<|begin_of_text|>") == 1


@pytest.mark.parametrize("name", ["chatml", "llama-3", "phi-3", "phi-3.5", "cohere2"])
def test_every_turn_is_learnt_with_its_end_after_the_tokens_that_a_policy_is_sampled_on(name: str):
    tokenizer = tokenizer_of(name)
    end = str(tokenizer.decode(list(turn_ends("chat", tokenizer))))
    [found] = sequences(name, talk(*TWO))
    assert [text for learnt, text in found if learnt] == [TWO[1] + end, TWO[3] + end]
    [rendered] = render_turns(talk(*TWO), "chat", tokenizer, "all")
    [packable] = encode([rendered], tokenizer)
    asked = render_prompt("chat", talk(*TWO).messages[:3], tokenizer).text
    tokens = tuple(tokenizer(asked, add_special_tokens=False).input_ids)
    assert packable.tokens[: len(tokens)] == tokens


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(monkeypatch: pytest.MonkeyPatch):
    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Tomorrow:
            return cls(2031, 1, 1, tzinfo=tz)

    tokenizer = tokenizer_of("llama-3.2")
    marked = tokenizer_of("marked")
    marked.chat_template = "{{ strftime_now('%d %b %Y') }}\n" + str(marked.chat_template)
    found = []
    for clock in (datetime, Tomorrow):
        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", clock)
        prompt = render_prompt("chat", (Message("user", "q"),), tokenizer)
        found.append((prompt, *(prepare([talk(*TWO)], one, "chat", 10_000).digest for one in (tokenizer, marked))))
    assert found[0] == found[1]
    [[(_, begin), *_]] = [parts(p, marked) for p in encode(render_turns(talk(*TWO), "chat", marked, "all"), marked)]
    assert begin.startswith("26 Jul 2024\n")


TRL = importlib.util.find_spec("trl")
ENDS = {
    "phi3": "<|end|>", "phi3_5": "<|end|>", "cohere": "<|END_OF_TURN_TOKEN|>",
    "cohere2": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "deepseekv3": "<｜end▁of▁sentence｜>",
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>", "gemma": "<end_of_turn>", "gemma3": "<end_of_turn>",
    "lfm2": "<|im_end|>", "llama3": "<|eot_id|>", "llama3_1": "<|eot_id|>", "llama3_2": "<|eot_id|>",
    "nemotron_3_nano": "<|im_end|>", "qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>",
}  # fmt: skip


@pytest.mark.skipif(TRL is None, reason="the templates that models publish, from TRL's package: pip install trl")
@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_turn_in_templates_as_they_are_published(name: str):
    assert TRL is not None and TRL.origin is not None
    template = (Path(TRL.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = copy.deepcopy(tiny_tokenizer())
    special = sorted({*re.findall(r"<[|｜][^<>\s]+[|｜]>|<(?:start|end)_of_turn>", template + ENDS[name])})
    tokenizer.add_special_tokens({"additional_special_tokens": special})  # type: ignore[arg-type]
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.eos_token = ENDS[name] if "deepseek" in name else "<|endoftext|>"
    tokenizer.chat_template = template
    assert tokenizer.decode(list(turn_ends("chat", tokenizer))) == ENDS[name]


@pytest.mark.parametrize("name", ["qwen3", "deepseek-r1"])
def test_each_turn_has_its_own_sequence_where_the_template_forgets_thoughts(name: str):
    """Every turn is learnt with its thought, after the context that the model sees: earlier answers, no thoughts."""
    first, second = sequences(name, talk(*TWO))
    assert [learnt for learnt, _ in first] == [learnt for learnt, _ in second] == [False, True]
    assert "a\n</think>" in first[1][1] and "b\n</think>" in second[1][1]
    assert "2" in second[0][1] and "a\n" not in second[0][1]


def test_marks_of_the_template_say_what_is_learnt():
    [found] = sequences("marked", talk(*TWO))
    assert [text for learnt, text in found if learnt] == [TWO[1] + "<|im_end|>", TWO[3] + "<|im_end|>"]
    assert found == sequences("chatml", talk(*TWO))[0], "here they say what the prefixes say"
    tokenizer = tokenizer_of("phi-3.5")
    tokenizer.chat_template = PHI3_MARKED
    [rendered] = render_turns(talk(*TWO), "chat", tokenizer, "all")
    [packable] = encode([rendered], tokenizer)
    learnt = [text for learnt, text in parts(packable, tokenizer) if learnt]
    assert learnt == [TWO[1] + "<|end|>\n", TWO[3] + "<|end|>"], "the end of the text is no turn's"
    tokenizer = tokenizer_of("marked")
    only_last = (
        "{% if loop.last %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
    )
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]" + only_last + "{% endfor %}"
    [rendered] = render_turns(talk(*TWO), "chat", tokenizer, "all")
    assert [exchange.reply for exchange in rendered.exchanges] == [TWO[3]], "the marks win"
    forgets = "{% generation %}{{ m.content.split('</think>')[-1] }}{% endgeneration %}"
    turn = "{% if m.role == 'assistant' %}" + forgets + "{% else %}{{ m.content }}{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]" + turn + "{% endfor %}"
    rendered = render_turns(talk(*TWO), "chat", tokenizer, "all")
    assert [one.completion for one in rendered] == [TWO[1], TWO[3]], "no thought is lost"


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "mistral"])
def test_a_system_message_is_given_and_not_learnt(name: str):
    conversation = Conversation((Message("system", "One word."), *talk(*ONE).messages), "data.jsonl:1")
    [[given, learnt]] = sequences(name, conversation)
    assert "One word." in given[1] and "Qwen" not in given[1] and "One word." not in learnt[1]


def test_a_template_that_refuses_a_conversation_says_which_row():
    conversation = Conversation((Message("system", "s"), *talk(*ONE).messages), "data.jsonl:7")
    with pytest.raises(ValueError, match="data.jsonl:7: the model's chat template refuses .*roles must alternate"):
        sequences("mistral", conversation)


def test_an_end_that_the_data_write_out_is_not_doubled():
    for end in ("<|im_end|>", "<|endoftext|>", "<|im_end|>\n<|endoftext|>", ""):
        [found] = sequences("chatml", talk("q", "a" + end))
        assert found[-1] == (True, "a<|im_end|>")


def test_the_last_turn_alone():
    tokenizer = tokenizer_of("chatml")
    [rendered] = render_turns(talk(*TWO), "chat", tokenizer, "last")
    [packable] = encode([rendered], tokenizer)
    assert [text for learnt, text in parts(packable, tokenizer) if learnt] == [TWO[3] + "<|im_end|>"]
    assert rendered.prompt.endswith(USER.format(TWO[2])) and TWO[1] in rendered.prompt


def test_the_batch_has_the_masked_tokens_alone_as_labels():
    tokenizer = tokenizer_of("chatml")
    packables = encode(render_turns(talk(*TWO), "chat", tokenizer, "all"), tokenizer)
    batch = pack([*packables, Packable((5, 6, 7), 1)])
    assert tokenizer.decode(batch.labels_N[:-2]) == TWO[1] + "<|im_end|>" + TWO[3] + "<|im_end|>"
    assert batch.labels_N[-2:].tolist() == [6, 7]
    assert batch.tokens_T[batch.predict_N + 1].equal(batch.labels_N)
    data = prepare([talk(*TWO), talk(*ONE)], tokenizer, "chat", 10_000)
    again = encode(data.rendered, tokenizer)
    assert data.num_trained == sum(has_loss(p, i) for p in again for i in range(len(p.tokens)))
    assert data.num_tokens == sum(len(p.tokens) for p in again)


def test_rl_trains_on_the_tokens_that_were_sampled():
    """One text has many tokenizations: were the completion tokenized again, other tokens would be trained on."""
    tokenizer = tiny_tokenizer()
    sampled = tuple(token for piece in "Make 24" for token in tokenizer(piece, add_special_tokens=False).input_ids)
    text = str(tokenizer.decode(list(sampled)))
    assert tuple(tokenizer(text, add_special_tokens=False).input_ids) != sampled, "or the case shows nothing"
    problem = Problem("p", "t", (Message("user", "q"),), "24", "exact")
    completion = Completion(sampled, (-1.0,) * len(sampled), text, "stop")
    sample = Sample(problem, (5, 6), completion, Score(1.0, "right", ""), advantage=1.0)
    [batch] = rl.make_batches([sample], make_learner(), RLConfig(), 0)
    assert batch.tokens_T.tolist() == [5, 6, *sampled] and tuple(batch.labels_N.tolist()) == sampled


def test_chat_prefilled_opens_the_thought_once():
    assert render_prompt("chat-prefilled", (Message("user", "q"),), tokenizer_of("chatml")).text.endswith(
        "assistant\n<think>\n"
    )
    own = tokenizer_of("deepseek-r1")
    assert render_prompt("chat-prefilled", (Message("user", "q"),), own) == render_prompt(
        "chat", (Message("user", "q"),), own
    )


def test_r1_templates_are_its_chat_template_and_want_its_tokenizer():
    own = tokenizer_of("deepseek-r1")
    question = (Message("user", "1+1?"),)
    assert render_prompt("r1-prefilled", question, own) == render_prompt("chat", question, own)
    assert render_prompt("r1", question, own).text == "<｜begin▁of▁sentence｜><｜User｜>1+1?<｜Assistant｜>"
    told = (Message("system", "Be brief."), *question)
    assert "<｜User｜>Be brief.\n1+1?<｜Assistant｜>" in render_prompt("r1", told, own).text, "the model card's advice"
    with pytest.raises(ValueError, match="does not know; it is for DeepSeek's models. Use --template chat"):
        render_prompt("r1", question, tokenizer_of("chatml"))
