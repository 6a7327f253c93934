r"""The tokens of a cleaned answer: numbers, letters, words, commands, signs.

What a run of letters means is decided here, once: a function (`sin`), a unit (`cm`), a word (`Paris`, all of
`\text{}`), or a product of single letters (`xy`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from r1kit.rewards.math.units import is_unit

Kind = Literal["num", "sym", "word", "cmd", "op", "or", "and", "end"]
NUMBER = re.compile(r"(?:\d+(?:\.\d+|\.(?![.\d]))?|\.\d+)(?:[eE][+-]?\d+(?![\dA-Za-z^]))?")
FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "sinh", "cosh", "tanh", "coth",
    "log", "ln", "exp", "sqrt",
    "cbrt", "abs", "floor", "ceil", "gcd", "lcm", "max", "min", "arg", "Re", "Im", "det", "deg", "dim", "mod", "sgn",
    "arcsec", "arccsc", "arsinh",
}  # fmt: skip
NAMES = {
    "pi": "pi", "theta": "theta", "alpha": "alpha", "beta": "beta", "gamma": "gamma", "lambda": "lambda",
    "sigma": "sigma", "omega": "omega",
    "phi": "phi", "infty": "infty", "inf": "infty", "infinity": "infty", "oo": "infty", "cup": "cup", "union": "cup",
    "asin": "arcsin",
    "acos": "arccos", "atan": "arctan", "ceiling": "ceil", "frac": "frac", "times": "times", "sqr": "sqrt",
    "Infinity": "infty", "cdot": "cdot", "div": "div",
}  # fmt: skip
GREEK_SYMBOLS = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu",
    "xi", "rho", "sigma", "tau",
    "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Upsilon", "Phi",
    "Psi", "Omega", "hbar", "ell",
    "odot", "triangle", "nabla", "partial", "aleph", "square", "star", "bullet", "dagger", "heartsuit",
}  # fmt: skip
TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|texttt|textsf|mathrm|mbox|hbox|operatorname|emph|textup|mathop)(?![A-Za-z])\s*"
)
LETTERS = re.compile(r"[A-Za-z]+")
OTHER_WORD = re.compile(r"[^\W\d_a-zA-Z]+")
SIGNS = re.compile(r"\\[A-Za-z]+|\\.|\*\*|<=|>=|!=|==|=>|->|<>|\.\.\.|.", re.DOTALL)
SPELLED_SIGNS = {"<=": "le", ">=": "ge", "!=": "ne", "<>": "ne", "->": "to", "=>": "Rightarrow", "...": "ldots"}


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    spaced: bool = False
    """White space stands before it."""


class UnreadableError(ValueError):
    """The text is not mathematics that this package reads."""


class MalformedError(UnreadableError):
    """The text is no mathematics at all: brackets that do not close, two numbers side by side."""


def tokenize(text: str) -> list[Token]:
    """Tokens of a cleaned `text`, with an `end`. UnreadableError for braces of \\text{} that do not close."""
    tokens: list[Token] = []
    position, spaced = 0, False
    while position < len(text):
        if text[position].isspace():
            position, spaced = position + 1, True
            continue
        if match := TEXT.match(text, position):
            inside, position = _braced(text, match.end())
            if inside.strip() == "to" and tokens and tokens[-1].kind == "num":  # 3 \text{ to } 4
                inside = ":"
            tokens += _text_tokens(inside)
        elif match := NUMBER.match(text, position):
            tokens.append(Token("num", match[0], spaced))
            position = match.end()
        elif match := LETTERS.match(text, position):
            tokens += _letters(
                match[0],
                tokens[-1] if tokens else None,
                spaced,
                text[match.end() :],
                raised=tokens[-2:-1] == [Token("op", "^")],
            )
            position = match.end()
        elif match := OTHER_WORD.match(text, position):
            tokens.append(Token("word", match[0], spaced))
            position = match.end()
        elif match := SIGNS.match(text, position):
            tokens.append(_sign(match[0], spaced))
            position = match.end()
        spaced = False
    return [*tokens, Token("end", "")]


def _braced(text: str, start: int) -> tuple[str, int]:
    if start >= len(text) or text[start] != "{":
        return text[start : start + 1], start + 1
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 1 : position], position + 1
    raise MalformedError(r"\text{ is not closed")


def _text_tokens(inside: str) -> list[Token]:
    r"""Inside \text{} a run of letters is one word; single letters and numbers are what they are outside."""
    if not LETTERS.search(inside):
        return tokenize(inside)[:-1]
    tokens: list[Token] = []
    spaced = False
    for match in re.finditer(r"\s+|[A-Za-z]+(?:[.'-][A-Za-z]+\.?)*|\\?\W|\d+(?:\.\d+)?|[^\W\d]|_", inside):
        piece = match[0]
        if piece.isspace():
            spaced = True
            continue
        if piece.lower() in ("or", "and"):
            tokens.append(Token("or" if piece.lower() == "or" else "and", piece, True))
        elif (
            piece in ("e", "i")
            or (len(piece) == 1 and piece.isalpha() and not is_unit(piece))
            or (len(piece) == 1 and piece.isupper())
        ):
            tokens.append(Token("sym", piece, spaced))
        elif piece[0].isalpha():
            tokens.append(Token("word", piece.rstrip("."), spaced))
        elif piece[0].isdigit():
            tokens.append(Token("num", piece, spaced))
        elif piece != ".":
            tokens.append(_sign(piece, spaced))
        spaced = False
    return tokens


def _letters(run: str, before: Token | None, spaced: bool, after: str, *, raised: bool) -> list[Token]:
    name = NAMES.get(run, run)
    if name in FUNCTIONS and not (run == "min" and before and before.kind == "num"):
        return [Token("cmd", name, spaced)]
    if run in NAMES:
        return [Token("sym" if name in GREEK_SYMBOLS else "cmd", name, spaced)]
    if run.lower() in ("or", "and") and (spaced or (before and before.text == "(")):
        return [Token("or" if run.lower() == "or" else "and", run, True)]
    if run == "to" and spaced and before and before.kind == "num" and re.match(r"\s+\d", after):  # 3 to 4
        return [Token("op", ":", True)]
    if run in ("of", "per") and spaced and before:
        return [Token("word", run, True)]
    if run == "in" and spaced and re.match(r"\s*[\[({\\]", after):
        return [Token("cmd", "in", spaced)]
    if before is not None and before.kind == "word" and spaced and run.lower() not in ("or", "and"):
        return [Token("word", run, spaced)]
    after_number = before is not None and (before.kind in ("num", "word") or before.text in ("}", ")"))
    after_number = after_number and not raised
    if is_unit(run):
        ends = re.match(r"\s*(?:$|[,;)\]}/^.]|\\(?:text|mathrm|mbox|times|cdot)|(?:or|and)\b)", after) is not None
        goes_on = re.match(r"\s+[A-Za-z]", after) is not None
        if len(run) >= 4 and not re.match(r"\s*[A-Za-z(\d]", after):
            return [Token("word", run, spaced)]
        if len(run) == 3 and before is None and re.match(r"\s*\d", after):  # USD 18
            return [Token("word", run, spaced)]
        if after_number and (len(run) > 1 and (ends or goes_on) or spaced and ends):
            return [Token("word", run, spaced)]
    for function in sorted(FUNCTIONS - {"arg", "det", "deg", "dim", "mod"}, key=len, reverse=True):
        rest = run.removeprefix(function)
        if rest != run and len(rest) <= 1 and len(function) > 1:
            return [Token("cmd", function, spaced), *(Token("sym", letter) for letter in rest)]
    for letters in ("pi", "sqrt"):
        if run.endswith(letters) and len(run) == len(letters) + 1:
            return [Token("sym", run[0], spaced), Token("cmd", letters)]
        if run.startswith(letters) and len(run) <= len(letters) + 2:
            return [Token("cmd", letters, spaced), *(Token("sym", letter) for letter in run[len(letters) :])]
    if len(run) >= 4 and not (run.islower() and len(set(run)) == len(run) and list(run) == sorted(run)):
        return [Token("word", run, spaced)]
    return [Token("sym", letter, spaced and index == 0) for index, letter in enumerate(run)]


def _sign(sign: str, spaced: bool) -> Token:
    if sign in SPELLED_SIGNS:
        return Token("cmd", SPELLED_SIGNS[sign], spaced)
    if sign == "**":
        return Token("op", "^", spaced)
    if sign == "==":
        return Token("op", "=", spaced)
    if sign[0] == "\\" and len(sign) > 1 and sign[1].isalpha():
        name = sign[1:]
        if name == "lor" or name == "vee":
            return Token("or", name, spaced)
        if name == "wedge":
            return Token("and", name, spaced)
        return Token("sym" if name in GREEK_SYMBOLS else "cmd", name, spaced)
    return Token("op", sign, spaced)
