"""Rewriting into the readable form: rules add and drop no try, an endpoint is asked twice, failures are data."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import pytest

from r1kit.corpus import reasoning
from r1kit.curation.rewrite import MARKERS, OPENINGS, Rewritten, rewrite_by_endpoint, rewrite_by_rules
from r1kit.curation.select import Candidate, form_fault, rule_verdict
from r1kit.rewards.format import parse_completion
from r1kit.rewards.language import language_consistency
from r1kit.rewards.reflection import count_reflection_words
from r1kit.rewards.reward import language_of
from r1kit.sampling.http import Reply
from r1kit.tasks import countdown, remainder
from r1kit.types import Message, Problem


def candidate(problem: Problem, text: str) -> Candidate:
    return Candidate(problem, 0, text, len(text), language_of(problem))


def countdown_candidate(text: str, *, chinese: bool = False) -> Candidate:
    return candidate(countdown.problem_for((8, 3, 1), 23, chinese=chinese), text)


def remainder_candidate(text: str, *, chinese: bool = False) -> Candidate:
    """The answer is 17: 17/5 r2, 17/7 r3."""
    return candidate(remainder.problem_for(5, 7, 17, chinese=chinese), text)


def by_rules(one: Candidate) -> Rewritten:
    return rewrite_by_rules([one])[0]


def without_opening(text: str, kind: str, language: str) -> str:
    """The rewritten text with its opening, which must be one of the three, replaced by a dash."""
    opening = text.partition("<think>")[2].partition("\n")[0]
    assert opening in OPENINGS[kind][language]
    return text.replace(opening, "-", 1)


@pytest.mark.parametrize(
    ("one", "kind", "language", "expected"),
    [
        (
            countdown_candidate(
                " <think>8+3=11\n11+1=12不对\n11-1=10 wait\n8*3=24\n24+1=25 retry\n24-1=23对了</think>"
                "<answer>(8*3)-1</answer>"
            ),
            "countdown",
            "en",
            " <think>-\n8+3=11\n11+1=12 no\n11-1=10 wait\n8*3=24\n24+1=25 retry\n24-1=23 yes</think>"
            "<answer>(8*3)-1</answer> So (8*3)-1 makes 23.",
        ),
        (
            countdown_candidate(
                "<think>8*3=24\n24+1=25 but no\n24-1=23 yes</think><answer>8*3-1</answer>", chinese=True
            ),
            "countdown",
            "zh",
            "<think>-\n8*3=24\n24+1=25但不是\n24-1=23对了</think><answer>8*3-1</answer>所以8*3-1得23。",
        ),
        (
            remainder_candidate(" <think>3/5 r3 no\n10/5 r0错误\n17/5 r2 yes</think><answer>17</answer>"),
            "remainder",
            "en",
            " <think>-\n3/5 r3 no\n10/5 r0 wrong\n17/5 r2 yes</think><answer>17</answer> So the number is 17.",
        ),
        (
            remainder_candidate(" <think>3/5 r3 not it\n17/5 r2对了</think> <answer> 17 </answer>", chinese=True),
            "remainder",
            "zh",
            " <think>-\n3/5 r3不行\n17/5 r2对了</think><answer>17</answer>所以这个数是17。",
        ),
    ],
)  # fmt: skip
def test_the_rules_put_all_markers_into_the_prompts_language_and_add_a_summary(
    one: Candidate, kind: str, language: str, expected: str
):
    rewritten = by_rules(one)
    assert rewritten.fault == ""
    assert without_opening(rewritten.text, kind, language) == expected


def operations(thought: str) -> list[str]:
    """The tries of a thought, without their markers and without an opening."""
    return re.findall(r"^[0-9]+[-+*/][0-9]+(?:=| r)[0-9]+", thought, re.MULTILINE)


@pytest.mark.parametrize("kind", ["countdown", "remainder"])
def test_every_right_thought_of_the_corpus_is_rewritten_faithfully(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reasoning, "SWITCH", 0.5)  # whatever the corpus has: enough writers who mix
    make = reasoning.countdown_thought if kind == "countdown" else reasoning.remainder_thought
    mixed = rewritten = 0
    seen = set()
    for seed in range(600):
        prompt, _, text = make(random.Random(seed)).partition("\nAssistant:")
        question = prompt.removeprefix("User: ")
        numbers = [int(number) for number in re.findall("[0-9]+", question)]
        if kind == "countdown":
            chinese = "算出" in question
            given, target = (numbers[:3], numbers[3]) if chinese else (numbers[1:], numbers[0])
            problem = countdown.problem_for((given[0], given[1], given[2]), target, chinese=chinese)
        else:
            by_a, rest_a, by_b, rest_b = numbers if "最小" in question else (numbers[1], numbers[0], *numbers[:1:-1])
            answer = next(n for n in range(100) if n % by_a == rest_a and n % by_b == rest_b)
            problem = remainder.problem_for(by_a, by_b, answer, chinese="最小" in question)
        one = candidate(problem, text)
        parsed = parse_completion(text)
        if rule_verdict(one)[0] != "right" or not parsed.thought.endswith(MARKERS[-1]):
            continue
        made = by_rules(one)
        if made.fault:  # a slip in one of the last two lines
            assert "did not find" in made.fault
            continue
        rewritten += 1
        new = candidate(problem, made.text)
        thought = parse_completion(made.text, "r1").thought
        assert operations(thought) == operations(parsed.thought)
        assert len(thought.split("\n")) == 1 + len(parsed.thought.split("\n"))
        assert (form_fault(made.text, "stop"), rule_verdict(new)[0]) == ("", "right")
        assert language_consistency(thought, new.language) == 1.0
        mixed += language_consistency(parsed.thought, new.language) not in (None, 1.0)
        seen.add(thought.split("\n")[0])
    assert rewritten > 50 and mixed > 10, "or this proves little"
    assert seen == {opening for language in ("en", "zh") for opening in OPENINGS[kind][language]}


def test_the_markers_are_those_of_the_corpus():
    for language, column in (("en", 0), ("zh", 1)):
        words = [marker for marker, _ in reasoning.FAILED[language]] + [reasoning.FOUND[language]]
        assert [pair[column] for pair in MARKERS] == words


def test_openings_are_in_one_language_and_hold_no_reflective_word():
    for kind in OPENINGS.values():
        for language, openings in kind.items():
            for opening in openings:
                assert language_consistency(opening, language) == 1.0
                assert count_reflection_words(opening) == 0


@pytest.mark.parametrize(
    ("one", "fault"),
    [
        (countdown_candidate("<think>I guess 8*3-1</think><answer>8*3-1</answer>"), "a thought with 'I guess 8*3-1'"),
        (countdown_candidate("<think>8*3=24\n24-1=23 Monday</think><answer>8*3-1</answer>"), "24-1=23 Monday"),
        (countdown_candidate("<think>8*3=24\n\n24-1=23 yes</think><answer>8*3-1</answer>"), "a thought with ''"),
        (countdown_candidate("<think>8*3=24\n24-1=23 no\ngive up</think><answer>8*3-1</answer>"), "give up"),
        (countdown_candidate("<think>8*3=24\n24-1=23 no</think><answer>8*3-1</answer>"), "did not find"),
        (countdown_candidate("<think>24-1=23 yes</think><answer>8*3-1</answer>"), "did not find"),
        (countdown_candidate("<think>8*3=25\n25-1=23 yes</think><answer>8*3-1</answer>"), "did not find"),
        (countdown_candidate("<think>8*3=24\n23/1=23 yes</think><answer>8*3-1</answer>"), "did not find"),
        (countdown_candidate("<think>8*3=24\n24-1=22 yes</think><answer>8*3-1</answer>"), "did not find"),
        (countdown_candidate("<think>8/0=24\n24-1=23 yes</think><answer>8*3-1</answer>"), "did not find"),
        (countdown_candidate("<think>8*3=24\n24-1=23 yes</think><answer>3*8-1</answer>"), "did not find"),
        (countdown_candidate(f"<think>{'9' * 5000}+1=2 no</think><answer>8*3-1</answer>"), "a thought with"),
        (  # both steps hold, and 1+(8*3) is 25, but the second does not go on from the first
            candidate(
                countdown.problem_for((8, 3, 1), 25, chinese=False),
                "<think>8*3=24\n1+4=5 yes</think><answer>1+(8*3)</answer>",
            ),
            "did not find",
        ),
        (remainder_candidate("<think>17/5=2 yes</think><answer>17</answer>"), "17/5=2"),
        (remainder_candidate("<think>10/5 r2 yes</think><answer>17</answer>"), "did not find"),
        (remainder_candidate("<think>17/5 r3 yes</think><answer>17</answer>"), "did not find"),
        (remainder_candidate("<think>22/5 r2 yes</think><answer>22</answer>"), "did not find"),
        (
            candidate(Problem("x", "sums", (Message("user", "Make 2."),), "2", "number"), "<think>1</think>\\boxed{2}"),
            "sums in en",
        ),
        (
            candidate(
                Problem("x", "mine", (Message("user", "Получи 23 из 8, 3 и 1."),),
                        {"numbers": [8, 3, 1], "target": 23}, "countdown"),
                "<think>8*3=24\n24-1=23 yes</think><answer>8*3-1</answer>",
            ),
            "mine in ru",
        ),
    ],
)  # fmt: skip
def test_other_texts_are_left_alone_with_the_reason(one: Candidate, fault: str):
    rewritten = by_rules(one)
    assert rewritten.text == ""
    assert rewritten.fault.startswith("no rule to rewrite: ") and fault in rewritten.fault


def test_what_the_thought_found_is_compared_without_brackets():
    """(8*3)-1 and 8*3-1 are one way; 3*8-1 is another than the thought found."""
    one = countdown_candidate("<think>8*3=24\n24-1=23 yes</think><answer> (8×3) - 1 = 23 </answer>")
    assert parse_completion(by_rules(one).text, "r1").answer == "(8×3) - 1 = 23"


class Scripted:
    """An endpoint whose answers are a function of the prompt."""

    def __init__(self, answer: Callable[[str], Reply]) -> None:
        self.answer = answer
        self.asked: list[list[str]] = []

    def chat(
        self, conversations: Sequence[Sequence[Message]], on_progress: Callable[[int, int], None] | None = None
    ) -> list[Reply]:
        prompts = [conversation[0].content for conversation in conversations]
        assert all(len(conversation) == 1 and conversation[0].role == "user" for conversation in conversations)
        self.asked.append(prompts)
        if on_progress:
            on_progress(len(prompts), len(prompts))
        return [self.answer(prompt) for prompt in prompts]


def maths(number: int, *, scorer: str = "math") -> Candidate:
    problem = Problem(
        f"p{number}", "sums", (Message("user", f"What is {number} plus {{1}}?"),), str(number + 1), scorer
    )
    return candidate(problem, f" <think>notes {number} 不对</think>The answer is \\boxed{{{number + 1}}}")


def refining(prompt: str) -> bool:
    return "<notes>" in prompt


def test_an_endpoint_refines_the_thought_and_then_summarises_what_it_wrote():
    endpoint = Scripted(lambda prompt: Reply("I add them." if refining(prompt) else "The sum is \\boxed{5}."))
    progress: list[tuple[str, int, int]] = []
    made = rewrite_by_endpoint(endpoint, [maths(4), maths(6)], lambda *what: progress.append(what))
    assert made == [Rewritten(" <think>\nI add them.\n</think>\n\nThe sum is \\boxed{5}.")] * 2
    refine, summarise = endpoint.asked
    assert all("notes 4 不对" in refine[0] and "What is 4 plus {1}?" in text for text in (refine[0], summarise[0]))
    assert "notes 6 不对" in refine[1] and "notes 4" not in refine[1]
    assert all("I add them." in prompt and "不对" not in prompt and "\\boxed{}" in prompt for prompt in summarise)
    assert progress == [("refine thoughts", 2, 2), ("summarise", 2, 2)]


def test_a_general_prompt_has_no_boxed_answer():
    endpoint = Scripted(lambda prompt: Reply("I think." if refining(prompt) else "Red and blue."))
    (made,) = rewrite_by_endpoint(endpoint, [maths(4, scorer="helpful")])
    assert made.text.endswith("</think>\n\nRed and blue.")
    assert not any("boxed" in prompt for prompt in endpoint.asked[1])


def test_the_endpoints_own_thought_is_left_out():
    endpoint = Scripted(lambda prompt: Reply("<think>hm</think>\n I add." if refining(prompt) else "\n\\boxed{5}\n"))
    assert rewrite_by_endpoint(endpoint, [maths(4)])[0].text == " <think>\nI add.\n</think>\n\n\\boxed{5}"


@pytest.mark.parametrize(
    ("thought", "summary", "fault"),
    [
        (Reply("", "HTTP 503"), Reply("\\boxed{5}"), "rewriter failed: HTTP 503"),
        (Reply("I add."), Reply("", "timed out"), "rewriter failed: timed out"),
        (Reply("  "), Reply("\\boxed{5}"), "rewriter said nothing"),
        (Reply("I add", finish_reason="length"), Reply("\\boxed{5}"), "rewriter was cut off: 'I add'"),
        (Reply("I add. <answer>5</answer>"), Reply("\\boxed{5}"), "rewriter wrote tags"),
        (Reply("I add."), Reply("<think>and"), "rewriter wrote tags"),
        (Reply("I add."), Reply("The Thought Process: \\boxed{5}"), "rewriter speaks of the thought process"),
    ],
)
def test_a_call_that_fails_spoils_its_own_completion_only(thought: Reply, summary: Reply, fault: str):
    def answer(prompt: str) -> Reply:
        if "What is 4" not in prompt:
            return Reply("Fine." if refining(prompt) else "\\boxed{7}")
        return thought if refining(prompt) else summary

    endpoint = Scripted(answer)
    before, failed, after = rewrite_by_endpoint(endpoint, [maths(6), maths(4), maths(6)])
    assert failed.text == "" and failed.fault.startswith(fault)
    assert before == after == Rewritten(" <think>\nFine.\n</think>\n\n\\boxed{7}")
    lost_early = not thought.text.strip() or thought.finish_reason == "length" or "<" in thought.text
    assert len(endpoint.asked[1]) == (2 if lost_early else 3), "no summary of a thought that is lost"


def test_nothing_to_rewrite_asks_nothing():
    endpoint = Scripted(lambda prompt: Reply(""))
    assert rewrite_by_endpoint(endpoint, []) == []
    assert endpoint.asked == []
