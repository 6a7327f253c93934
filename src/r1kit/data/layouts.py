"""Layouts of rows: a problem with its gold, or a conversation, from the columns that public data sets have.

Problems: r1kit's own (prompt, answer), verl's (prompt, reward_model), GSM8K's, MATH's, Countdown's, Knights and Knaves;
general prompts of UltraFeedback's pairs and BeaverTails' labels, which have no answer.
Conversations: TRL's (messages; prompt and completion), ShareGPT's, Alpaca's, a question with its solution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r1kit.data.rows import table_hint
from r1kit.data.turns import read_turns, unread
from r1kit.rewards.accuracy import WHOLE_RESPONSE, read_number
from r1kit.rewards.format import last_boxed
from r1kit.rewards.math.final import boxed_answers
from r1kit.types import Message

QUESTIONS = ("problem", "question", "query", "instruction", "input")
"""Columns with a question, where there is no `prompt`; the first that a row has."""
ANSWERS = ("answer", "final_answer", "golden", "gold", "target", "answer_number", "ground_truth", "expected_answer")
REPLIES = ("completion", "response", "output", "generation", "solution", "answer")
"""Columns with the assistant's text, where there is no `completion`."""
PROBLEM_COLUMNS = frozenset(
    {
        *QUESTIONS,
        *ANSWERS,
        "prompt",
        "answer",
        "scorer",
        "id",
        "task",
        "split",
        "solution",
        "reward_model",
        "extra_info",
    }
    | {"nums", "quiz", "names", "solution_text_format", "chosen", "is_safe"}
)
"""Every column that is looked at: the others need not be read."""
CONVERSATION_COLUMNS = frozenset({*QUESTIONS, *REPLIES, "prompt", "messages", "conversations", "system"})

PROBLEM_FORM = "give `prompt` and `answer`, or name your columns with --columns.prompt and --columns.answer"
CONVERSATION_FORM = (
    "give `messages` that end with the assistant's, or `prompt` and `completion`, or name your columns with "
    "--columns.prompt and --columns.completion"
)

GSM8K_ANSWER = re.compile(r"####\s*([^\n#]+?)\s*\Z")
SPOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|(?<![\\A-Za-z])[^\W\d_]{2,}")
"""Words, commands of LaTeX apart."""
OWN_WORDS = 3
"""So many besides a box, or a second line, make an answer a whole solution; `\\boxed{1} and \\boxed{2}` is none."""
DAPO = re.compile(
    r"\A\s*Solve the following math problem step by step\. The last line of your response should be of the form "
    r"Answer: \$?(?:Answer|\\boxed\{Answer\})\$? \(without quotes\) where \$?Answer\$? is the answer to the problem\."
    r"\s*(.*?)\s*Remember to put your answer on its own line after \"Answer:\"\.\s*\Z",
    re.DOTALL,
)
NO_ANSWER = ("proof", "notfound", "not found", "not_found")
"""What NuminaMath and its descendants write where there is nothing to compare with."""
COUNTDOWN = (
    "Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations "
    "(+, -, *, /) and each number can only be used once."
)
KNIGHTS = "{quiz} Answer for each of {names}, one a line: NAME is a knight, or NAME is a knave."
ROLE_OF = re.compile(r"(\w+) is a (knight|knave)\b")


@dataclass(frozen=True)
class GivenProblem:
    """A problem as a row has it."""

    messages: tuple[Message, ...]
    gold: Any
    scorer: str
    """Empty: neither the row nor a flag nor the layout says which."""
    own: bool
    """The row is in r1kit's own layout: what is wrong with it is its author's to mend. Rows of public sets that cannot
    be used are left out and counted."""
    solution: str = ""
    """The reference solution, where there is one."""


def problem_of(where: str, row: Mapping[str, Any], *, mapped: bool = False, scorer: str = "") -> GivenProblem:
    """The problem in a row of any known layout. ValueError names where, the columns and what to do.

    `mapped`: the columns got their names from flags, so the row is not in r1kit's own layout. `scorer`: of rows that
    name none, in place of the layout's.
    """
    row = _lower(row)
    extra, reward = (
        {**row[name]} if isinstance(row.get(name), dict) else {} for name in ("extra_info", "reward_model")
    )
    truth = reward.get("ground_truth")
    solution = next((row[name] for name in ("solution", "answer") if isinstance(row.get(name), str)), "")
    scorer = str(row.get("scorer") or scorer)
    if "quiz" in row and ("names" in row or "solution_text_format" in row):
        return _knights(row, scorer or "knights")
    if "nums" in row and "target" in row:
        numbers = [int(number) for number in row["nums"]]
        text = COUNTDOWN.format(numbers=numbers, target=row["target"])
        gold = {"numbers": numbers, "target": int(row["target"])}
        return GivenProblem((Message("user", text),), gold, scorer or "countdown", own=False)
    if truth is not None:
        plain = next((one for one in (row.get("question"), row.get("problem"), extra.get("question")) if one), None)
        gold = truth[0] if isinstance(truth, list) and len(truth) == 1 else truth
        messages = _prompt(where, row["prompt"] if plain is None and "prompt" in row else plain)
        return GivenProblem(messages, _plain(gold), scorer, own=False, solution=solution)
    if "prompt" in row and "answer" in row:
        messages, given = _prompt(where, row["prompt"]), row["answer"]
        reads = scorer in ("", "math", "number") or (mapped and scorer not in WHOLE_RESPONSE)
        gold = final_of(given) if reads and isinstance(given, str) else given
        changed = gold != given
        # A row that says that it has no answer is left out, not its author's to mend.
        own = not mapped and (bool(gold) or not changed)
        return GivenProblem(messages, gold, scorer, own=own, solution=given if changed else "")
    question = next((name for name in ("prompt", *QUESTIONS) if name in row), None)
    answer = next((name for name in ANSWERS if name in row), None)
    judged = "helpful" if "chosen" in row else "safety" if "is_safe" in row else ""
    if judged and question is not None and answer is None and "solution" not in row:  # reward models score the answers
        return GivenProblem(_prompt(where, row[question]), None, scorer or judged, own=False)
    if question is None or (answer is None and "solution" not in row):
        missing = "prompt" if question is None else "answer"
        raise ValueError(f"{where}: no field {missing!r} among {sorted(row)}; {PROBLEM_FORM}{table_hint(where)}")
    messages = _prompt(where, row[question])
    value = row[answer] if answer else row["solution"]
    if answer is None and isinstance(value, str) and not GSM8K_ANSWER.search(value):
        # MATH: the gold is in the solution's box. DAPO's solution is the answer itself.
        boxed = last_boxed(value)
        value = boxed if boxed is not None else value if len(value.split()) == 1 else ""
    if isinstance(value, str) and scorer not in WHOLE_RESPONSE:
        value = final_of(value)
    return GivenProblem(messages, _plain(value), scorer, own=False, solution=solution)


def final_of(answer: str) -> str:
    r"""The gold in an answer that is a whole solution: what follows its last `####`, else its last box, with those
    right beside it. Empty where it says that there is none. Any other answer stays as it is."""
    if found := GSM8K_ANSWER.search(answer):
        answer = found[1].replace(",", "") if read_number(found[1]) is not None else found[1]
    if answer.strip().casefold() in NO_ANSWER:
        return ""
    boxed = boxed_answers(answer) if "\\boxed" in answer else None
    if not boxed:
        return answer
    besides = len(SPOKEN.findall(answer)) - len(SPOKEN.findall(boxed))
    alone = answer.strip(" .$") == rf"\boxed{{{boxed}}}"
    return boxed if alone or besides >= OWN_WORDS or "\n" in answer.strip() else answer


def conversation_of(where: str, row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation in a row of any known layout; its last message is the assistant's. ValueError as above."""
    row = _lower(row)
    question, reply = _given(row, "prompt", *QUESTIONS), _given(row, *REPLIES)
    field = _given(row, "messages", "conversations")
    if field and (row[field] is not None or not reply):
        messages = read_turns(where, field, row[field])
    else:
        if question is None or reply is None:
            found = ", ".join(sorted(row)) or "no field"
            raise ValueError(f"{where}: found only {found}; {CONVERSATION_FORM}{table_hint(where)}")
        asked = row[question]
        if question == "instruction" and isinstance(row.get("input"), str) and row["input"].strip():  # Alpaca
            asked = f"{asked}\n\n{row['input']}"
        said = [row[reply]] if isinstance(row[reply], dict) else row[reply]
        messages = (*read_turns(where, question, asked, "user"), *read_turns(where, reply, said, "assistant"))
    if isinstance(row.get("system"), str) and row["system"].strip() and messages[0].role != "system":
        messages = (Message("system", row["system"]), *messages)
    *before, last = messages
    if last.role != "assistant":
        raise ValueError(f"{where}: the last message is of role {last.role!r}; end with the assistant's")
    if not last.content.strip():
        raise ValueError(f"{where}: the assistant's text is {last.content!r}; give what is to be learnt")
    if not any(message.role == "user" for message in before):
        raise ValueError(f"{where}: no message of the user's before the assistant's; give what it answers")
    return messages


def unusable(row: Mapping[str, Any]) -> str:
    """Why a row, which is as its set has it, cannot be learnt: "have no reply", where the columns with what the
    assistant says are null, or "have a message of role tool". Empty where nothing speaks against it."""
    row = _lower(row)
    found = [row[name] for name in ("messages", "conversations", *REPLIES) if name in row]
    if found and all(value is None for value in found):
        return "have no reply"
    fields = _given(row, "messages", "conversations"), _given(row, "prompt", *QUESTIONS), _given(row, *REPLIES)
    odd = next(filter(None, (unread(row[field]) for field in fields if field)), "")
    return odd and f"have a message {odd}"


def _given(row: Mapping[str, Any], *names: str) -> str | None:
    """The first of these columns that is not null; where all are, the first that is there."""
    found = [name for name in names if name in row]
    return next((name for name in found if row[name] is not None), found[0] if found else None)


def _lower(row: Mapping[str, Any]) -> dict[str, Any]:
    """Column names in lower case: AIME's are Problem and Answer."""
    return {name.lower(): value for name, value in row.items()}


def _prompt(where: str, prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, str) and not prompt.strip():
        raise ValueError(f"{where}: prompt is {prompt!r}; give a text or a list of messages")
    messages = read_turns(where, "prompt", prompt, "user")
    if messages[-1].role != "user":
        raise ValueError(f"{where}: the last message is of role {messages[-1].role!r}; end the prompt with the user's")
    if wrapped := DAPO.match(messages[-1].content):  # it asks for another form of answer than the template
        messages = (*messages[:-1], Message("user", wrapped[1]))
    return messages


def _knights(row: Mapping[str, Any], scorer: str) -> GivenProblem:
    if isinstance(row.get("names"), list) and isinstance(row.get("solution"), list):
        pairs = zip(row["names"], row["solution"], strict=True)
        gold = {str(name): "knight" if knight else "knave" for name, knight in pairs}
    else:
        gold = dict(ROLE_OF.findall(str(row.get("solution_text_format", ""))))
    text = KNIGHTS.format(quiz=row["quiz"], names=", ".join(gold))
    return GivenProblem((Message("user", text),), gold, scorer, own=False)


def _plain(gold: Any) -> Any:
    return gold.strip() if isinstance(gold, str) else gold
