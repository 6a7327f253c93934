"""The filters on completions: one for each fault, and readable ones beside it."""

import pytest

from r1kit.config import ReadableConfig
from r1kit.rewards.readable import readable_fault, repetition

LINES = "8*3=24\n24-1=23 no\n24/1=24 yes"
CFG = ReadableConfig()


def fault(thought: str, language: str = "en", tokens: int = 50, cfg: ReadableConfig = CFG) -> str:
    return readable_fault(f"<think>{thought}</think><answer>8*3/1</answer>", language, tokens, cfg)


@pytest.mark.parametrize(
    ("thought", "language"),
    [
        (LINES, "en"),
        ("8*3=24\n24-1=23不对\n24/1=24对了", "zh"),
        ("8*3=24\n24/1=24", "zh"),  # no words, no language
        ("Let me think. That is 24. Wait, is that right? Yes.", "en"),
    ],
)
def test_readable(thought, language):
    assert fault(thought, language) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<answer>24</answer>", "no thought"),
        ("", "no thought"),
        (f"<think>{LINES}", "thought not closed"),
        ("<think> \n</think><answer>24</answer>", "empty thought"),
    ],
)
def test_a_missing_unclosed_or_empty_thought_is_a_fault(text, reason):
    assert readable_fault(text, "en", 50, CFG) == reason


def test_a_thought_opened_by_the_template_is_a_thought():
    assert readable_fault(f"{LINES}</think><answer>24</answer>", "en", 50, CFG) == ""


def test_length_in_tokens():
    cfg = ReadableConfig(min_tokens=10, max_tokens=20)
    assert [fault(LINES, tokens=tokens, cfg=cfg) for tokens in (9, 10, 20, 21)] == [
        "9 tokens, fewer than 10", "", "", "21 tokens, more than 20",
    ]  # fmt: skip
    assert fault(LINES, tokens=10**6) == ""  # max_tokens 0 is no limit
    assert fault(LINES, tokens=0) == "0 tokens, fewer than 1"


def test_mixed_languages():
    mixed = "8*3=24\n24-1=23 no\n24/1=24对了"
    assert fault(mixed) == "language mix: 0.33 in en, below 0.97"
    assert fault(mixed, "zh") == "language mix: 0.67 in zh, below 0.97"
    assert fault(mixed, "zh", cfg=ReadableConfig(min_consistency=0.6)) == ""


def test_a_response_may_have_code_and_say_things_twice():
    text = f"<think>{LINES}</think>```python\n1\n```It is that. It is that. It is that.<answer>24</answer>"
    assert readable_fault(text, "en", 50, CFG) == ""


@pytest.mark.parametrize(
    ("response", "language", "reason"),
    [
        ("<answer>(8*3)/1</answer> So (8*3)/1 makes 24.", "en", ""),
        ("<answer>(8*3)/1</answer> So (8*3)/1 makes 24.", "zh", "language mix of the response: 0.00 in zh, below 0.97"),
        ("<answer>24</answer>所以8*3 makes 24。", "zh", "language mix of the response: 0.67 in zh, below 0.97"),
        ("那是<answer>Paris in France</answer>", "zh", ""),  # the answer itself may be in any language
        ("<answer>24</answer>", "zh", ""),
    ],
)
def test_the_response_is_in_the_language_of_the_prompt(response, language, reason):
    thought = LINES if language == "en" else "8*3=24\n24/1=24对了"
    assert readable_fault(f"<think>{thought}</think>{response}", language, 50, CFG) == reason


def test_code_blocks():
    assert fault(f"{LINES}\n```python\nprint(8*3)\n```") == "code block"
    assert fault(f"{LINES}\n```python\nprint(8*3)\n```", cfg=ReadableConfig(code_blocks=True)) == ""
    assert fault(f"{LINES}\n ~~~\nprint(8*3)\n ~~~") == "code block"
    assert fault(f"{LINES} `print(8*3)` or ~~~") == ""


def test_long_paragraphs():
    paragraph = " ".join(f"then {number} must be left" for number in range(100))
    assert fault(paragraph, cfg=ReadableConfig(max_paragraph_chars=len(paragraph))) == ""
    short = ReadableConfig(max_paragraph_chars=len(paragraph) - 1)
    assert fault(paragraph, cfg=short) == f"paragraph of {len(paragraph)} characters above {len(paragraph) - 1}"
    assert fault(paragraph.replace(" then", "\nthen"), cfg=short) == ""  # lines are paragraphs
    assert fault(paragraph, cfg=ReadableConfig(max_paragraph_chars=1)).startswith("paragraph of")
    assert fault(paragraph, cfg=ReadableConfig(max_paragraph_chars=0)) == ""  # no limit


@pytest.mark.parametrize(
    ("thought", "share"),
    [
        ("a\nb\nc\nd", 0),
        ("a\nb\nA \n\nd", 0.25),  # case, white space and empty lines aside
        ("a\nb\na\nb", 0.5),
        ("It is four. It is five. It is four.", 1 / 3),
        ("是四。是五。是四。是六。", 0.25),
        ("It is 3.5 and 3.5.", 0),
        ("It is four. It is four.\nIt is five.", 0),  # several lines are compared as lines
        ("", 0),
    ],
)
def test_repeated_lines_or_sentences(thought, share):
    assert repetition(thought) == pytest.approx(share)


def test_loops_within_a_line():
    assert repetition("no " * 50) > 0.9
    assert repetition("不对" * 20) > 0.9
    assert repetition("no no no, wait") == 0  # three times is emphasis
    assert repetition("1000000 eggs, each for 25 dollars, that makes 25000000 dollars") < 0.3


PHRASE = "then I take seven from the rest, add the five and look at what is left of it "


@pytest.mark.parametrize("thought", [f"8*3=24\n{PHRASE * 200}", PHRASE.replace(",", "") * 10, f"{PHRASE}\n" * 3])
def test_loops_of_a_long_phrase_wherever_lines_break(thought: str):
    assert repetition(thought) > 0.5
    assert repetition(f"8*3=24\n{PHRASE}{PHRASE[:30]}") == 0


def test_lines_of_signs_do_not_repeat_anything():
    assert repetition("$$\nx = 1\n$$\n---\n$$\ny = 2\n$$\n---") == 0


def test_repetition_above_the_threshold():
    assert fault("24-1=23 no\n8*3=24\n24-1=23 no") == "repetition 0.33 above 0.3"
    assert fault("24-1=23 no\n8*3=24\n24-1=23 no", cfg=ReadableConfig(max_repetition=0.4)) == ""
    assert fault("no " * 50).startswith("repetition 0.9")
