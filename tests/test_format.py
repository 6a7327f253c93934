"""The format of completions, beyond the plain cases of test_rewards.py: odd tags, quotations, boxes in boxes."""

import pytest

from r1kit.rewards.format import last_boxed, parse_completion

ZERO = "\u200b"  # zero-width space


@pytest.mark.parametrize(
    ("text", "reason", "answer"),
    [
        # The tags of both forms, other than written as asked: read, and a fault.
        ("<THINK>a</THINK><ANSWER>24</ANSWER>", "'<THINK>' in place of <think>", "24"),
        ("<think>a</think><Answer>24</Answer>", "'<Answer>' in place of <answer>", "24"),
        ("<think>a</think><answer >24</answer>", "'<answer >' in place of <answer>", "24"),
        ('<think>a</think><answer type="x">24</answer>', "'<answer type=\"x\">' in place of <answer>", "24"),
        (f"<think>a</think><ans{ZERO}wer>24</answer>", "'<ans\\u200bwer>' in place of <answer>", "24"),
        (f"<think>a<{ZERO}/think>b</think><answer>24</answer>", "'<\\u200b/think>' in place of </think>", "24"),
        # A thought opened or closed by such a tag hides and shows its answers as a plain one does.
        ("<THINK>is it <answer>24</answer>?", "'<THINK>' in place of <think>", None),
        ("<think>is it <answer>24</answer>?</THINK><answer>5</answer>", "'</THINK>' in place of </think>", "5"),
        # Not tags: another word, a formula, an empty element.
        ("<thinking>a</thinking><answer>24</answer>", "no <think>", "24"),
        ("<think/><answer>24</answer>", "no <think>", "24"),
        ("<think>a</think><answer>x < answer and y > 3</answer>", "", "x < answer and y > 3"),
        ("<think>a</think><answer><answers>24</answer>", "", "<answers>24"),
        # Quoted tags and tags in code.
        ("<think>I write <answer> at the end</think><answer>24</answer>", "2 times <answer>", "24"),
        ("<think>a</think>```\n<answer>1</answer>\n```\n<answer>24</answer>", "2 times <answer>", "24"),
        ("<think>the tag `</think>` ends it</think><answer>24</answer>", "2 times </think>", "24"),
        # Nested and repeated.
        ("<think>a<think>b</think>c</think><answer>24</answer>", "2 times <think>", "24"),
        ("<think>a</think><answer><answer>24</answer></answer>", "2 times <answer>", "24"),
        ("<think>a</think><answer>24</answer>5</answer>", "2 times </answer>", "24"),
        ("<think>a</think><answer>1</answer><answer>24</answer>", "2 times <answer>", "24"),
        ("<think>a</think><answer>24</answer><think>b</think>", "2 times <think>", None),
        ("<think>a</think><answer>24</answer><think>b <answer>5</answer>", "2 times <think>", "24"),
        ("<think>a</think><answer>24<think>b</think></answer>", "2 times <think>", None),
        ("<think>a</think><answer>24</answer></think>", "2 times </think>", None),
        # Nothing to be seen is nothing.
        (f"<think>{ZERO}\n</think><answer>24</answer>", "empty thought", "24"),
        ("<think></think><answer>24</answer>", "empty thought", "24"),
        (f"<think>a</think><answer> {ZERO}\u2060</answer>", "empty answer", None),
        ("<think>a</think><answer>\\boxed{}</answer>", "", None),
        ("<think>a</think>\\boxed{ }", "no <answer>", None),
    ],
)
def test_r1_zero_form(text: str, reason: str, answer: str | None):
    parsed = parse_completion(text)
    assert (parsed.reason, parsed.answer, parsed.format_ok) == (reason, answer, not reason)


@pytest.mark.parametrize(
    ("text", "reason", "answer"),
    [
        ("<think>a</think>It is \\boxed{24}, and not in \\boxed{}.", "", None),
        ("<think>a</think>They are \\boxed{1} and \\boxed{2}.", "", "1, 2"),
        ("<think>a</think>First \\boxed{1}. After some more thought it is \\boxed{2}.", "", "2"),
        ("<think>a</think>It is \\boxed{24}.", "", "24"),
        ("<think>a</think>It is <answer>24</answer>, I say.", "", "24"),
        ("<think>\n\n</think>It is \\boxed{24}.", "empty thought", "24"),
        (f"<think>a</think>{ZERO}", "empty response", None),
        ("<think>a", "no </think>", None),
        ("a</think>\\boxed{24}", "no <think>", "24"),  # the template's prefill is missing
        ("<THINK>a</THINK>\\boxed{24}", "'<THINK>' in place of <think>", "24"),
        ("Hm.<think>a</think>\\boxed{24}", "text before <think>", "24"),
        ("<think>a</think>b</think>\\boxed{24}", "2 times </think>", "24"),
        ("<think>\\boxed{24}</think>As above.", "", None),
        ("<think>a</think><answer>1</answer><answer>24</answer>", "2 times <answer>, 2 times </answer>", "24"),
        ("<think>a</think></answer>24<answer>", "1 times <answer>, 1 times </answer>", None),
        ("<think>a</think><answer> </answer>", "empty answer", None),
        ("<think>a <answer>24</answer></think>So it is.", "an answer tag stands before </think>", None),
    ],
)
def test_r1_form(text: str, reason: str, answer: str | None):
    parsed = parse_completion(text, "r1")
    assert (parsed.reason, parsed.answer, parsed.format_ok) == (reason, answer, not reason)


@pytest.mark.parametrize("prefill", ["<think>", "<think>\n", " <think>\n"])
def test_a_prefilled_tag_makes_the_form_whole_and_a_second_one_breaks_it(prefill: str):
    zero, r1 = "<answer>24</answer>", "It is 24."
    assert parse_completion(f"{prefill}a</think>{zero}").format_ok
    assert parse_completion(f"{prefill}a</think>{r1}", "r1").format_ok
    assert parse_completion(f"{prefill}<think>a</think>{zero}").reason == "2 times <think>"
    assert parse_completion(f"{prefill}<think>a</think>{r1}", "r1").reason == "2 times <think>"
    assert parse_completion(f"a</think>{zero}").reason == "no <think>"
    assert parse_completion(f"a</think>{r1}", "r1").reason == "no <think>"


def test_unseen_characters_are_left_out_and_joiners_kept():
    parsed = parse_completion("<think>a\u200b</think>x\ufeff<answer>4\u200b2\u00ad\u2060 می\u200cخواهم</answer>")
    assert (parsed.thought, parsed.answer) == ("a", "42 می\u200cخواهم")
    assert parsed.response == "x<answer>42 می\u200cخواهم</answer>"
    assert parse_completion("<think>a\u200b</think><answer>\u202e24</answer>").format_ok  # shown as 42


def test_odd_tags_bound_thought_and_response():
    parsed = parse_completion("<Think>a</THINK >The answer is <ANSWER>24</ANSWER>.")
    assert (parsed.thought, parsed.response) == ("a", "The answer is <answer>24</answer>.")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{ \boxed { \boxed{5} } }", "5"),
        (r"\boxed{4, \boxed{5}}", "4, {5}"),
        (r"\boxed{\boxed{4}, \boxed{5}}", "{4}, {5}"),
        (r"\boxed {5}", "5"),
        (r"\boxed{1} then \boxed{}", ""),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),  # an escaped brace balances nothing
        (r"so\\\boxed{5}", "5"),  # after a line break
        (r"\\boxed{5}", "5"),  # escaped twice
        (r"put it in \boxed{ as asked: \boxed{5}", "5"),
        (r"} \boxed{5} {", "5"),
        (r"\boxed{5", None),
        (r"\boxed 5", None),
        (r"\boxed", None),
    ],
)
def test_boxes(text: str, content: str | None):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "boxed", "answer"),
    [
        ("\\boxed{" * 150_000, None, None),
        ("\\boxed{" * 100_000 + "5" + "}" * 100_000, "5", "5"),
        ("\\boxed" + " " * 10**6, None, None),
        ("{" * 10**6, None, None),
        ("<think>" * 150_000, None, None),
        ("<answer>" * 100_000 + "5" + "</answer>" * 100_000, None, "5"),
        ("</think>" + "<answer>1" * 100_000, None, None),
        ("<think " + "a=" * 10**6, None, None),
        ("<think a=b " * 100_000, None, None),
        (("<" + ZERO * 99) * 10_000, None, None),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_megabyte_of_brackets_is_read_in_one_pass(text: str, boxed: str | None, answer: str | None):
    """In quadratic time each of these would take minutes."""
    assert last_boxed(text) == boxed
    assert parse_completion("<think>a</think>" + text).answer == answer
