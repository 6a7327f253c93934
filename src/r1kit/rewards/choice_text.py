r"""Where a text states which choice it takes: "the answer is (B)", "故选B", \boxed{B}, a lone "B", a choice's text.

Statements with a cue come first, and the last of them decides. Without one, a lone letter in the first or last line,
and then "B is correct", when no other letter is said to be. Letters in words, in echoed options, and rejected ones
("not B", "if the answer is B", "B is wrong") state nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

MAX_CHARS = 20_000
"""Only the end of a longer text is read: the final answer is there."""
MAX_CUES = 200
"""Only the last cues of each kind are followed."""
MAX_CHOICES = 26
SEVERAL = ""
"""Stands for a statement of several letters where one is asked for."""

# -- the text, cleaned

BOX, UNBOX = "\x02", "\x03"
WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|up|normal)?|math(?:bf|rm|sf|it|tt|bb|cal|normal)|mbox|bm|boldsymbol|emph)\s*"
    r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+)\}"
)
# Bold, italics, code, dollars and LaTeX spaces; a single star between word characters multiplies.
DECORATION = re.compile(r"\*{2,}|(?<!\w)\*|\*(?!\w)|__|`|\$|\\[()\[\],;:! ]|\\q?quad")
MARKER = re.compile(r"[ \t]*[#>•-]+[ \t]+")
MARKS = str.maketrans(dict.fromkeys("“”„«»「」『』【】《》〈〉‘", '"') | {"’": "'", "−": "-"})
_OPEN, _CLOSE = rf"[\"'(\[{{<{BOX}]", rf"[\"')\]}}>{UNBOX}]"


def clean(text: str) -> str:
    r"""NFKC, without markdown and LaTeX dress; the content of \boxed{} stands between BOX and UNBOX."""
    text = unicodedata.normalize("NFKC", text.replace(BOX, "").replace(UNBOX, "").replace("\r", "")).translate(MARKS)
    if "\\" in text:
        for _ in range(3):
            text = WRAPPER.sub(r"\1", text)
        text = _mark_boxes(text)
    return DECORATION.sub("", text)


def plain(text: str) -> str:
    """For comparing texts of choices."""
    return " ".join(text.replace(BOX, "").replace(UNBOX, "").casefold().split()).strip(" .。,;:!\"'")


def _mark_boxes(text: str) -> str:
    pieces, depths, depth, end = [], [], 0, 0
    for brace in re.finditer(r"\\f?boxed\s*\{|[{}]", text):
        pieces.append(text[end : brace.start()])
        end = brace.end()
        if brace[0] == "}":
            depth = max(0, depth - 1)
            boxed = bool(depths) and depths[-1] == depth
            pieces.append(UNBOX if boxed else "}")
            if boxed:
                depths.pop()
            continue
        if brace[0] != "{":
            depths.append(depth)
        pieces.append("{" if brace[0] == "{" else BOX)
        depth += 1
    return "".join(pieces) + text[end:]


# -- cues

NOUN = re.compile(
    r"\b(?:ans|answers?|my\s+(?:choice|pick|selection)|(?:correct|right|best|proper|appropriate|final|chosen)\s+"
    r"(?:options?|choices?|statement|letter|one|response|solution|selection|match))\b(?!\s+(?:choices|options))",
    re.IGNORECASE,
)
COPULA = re.compile(rf"\b(?:is|are|be|becomes|remains)\b|:|=|->|→|⇒|\s[-–—]\s|(?={BOX})", re.IGNORECASE)
MAX_GAP = 80
"""Characters between "answer" and its "is", and before a cue where a denial is looked for."""
DIRECT = re.compile(
    r"\bans\.|\b(?:choose|chose|select|pick|go(?:ing)?\s+with|opt\s+for|settle\s+on)\b"
    r"|答案(?:选项|應該|应该|应当|应|就|只能|一定|必定|必)*(?:是|为|為|[选選][择擇]?)?"
    r"|(?<![可备候单多首])[选選](?![项項])[择擇]?(?:答案|选项)?"
    r"|正[确確]的?(?:答案|[选選][项項]|[说說]法|[结結][论論]|一?[项項])?(?:应该|应|就)?(?:是|为|為|有)"
    r"|符合[^,.。\n]{0,12}(?:是|为|為)",
    re.IGNORECASE,
)
SO = re.compile(r"\b(?:therefore|thus|hence|so|finally)\b(?:,?\s*(?:it\s+is|it's|it\s+must\s+be))?|因此|所以|故", re.I)
_WORDS = (
    r"therefore|thus|hence|then|so|clearly|likely|most|probably|definitely|indeed|simply|actually|obviously|still|now"
    r"|option|choice|letter|statement|answer|number|the|as|follows|also|only|given\s+by|final|correct|right|best"
)
_ELSE = r"(?:(?:not\s+[\"(]?[A-Z][\")]?,?\s*but(?:\s+rather)?|不是[\"(]?[A-Z][\")]?,?\s*而是)\s*)"
FILLER = re.compile(
    rf"{_ELSE}?(?:[\s:,\"]|(?:{_WORDS})\b|选项|選項|应该|应|就|是|为|為){{0,16}}{_ELSE}?", re.IGNORECASE
)
PUNCTUATION = re.compile(r"[\s:,\"]*")
ELSE = re.compile(_ELSE, re.IGNORECASE)
# What the clause before a cue must not say.
DENIED = re.compile(
    r"\b(?:not|never|cannot|if|whether|suppose|supposing|assum\w+|unless|neither|nor|thought|except|doubt\s+that|i\s+doubt"
    r"|instead\s+of|rather\s+than)\b|n't\b|\b(?:wrong|incorrect|false|bad|worst)\s*$"
    r"|如果|假如|假设|若|是否|有人|(?:不(?:能|会|该|应该|应|可|要|宜|应当)?|别|勿|[误誤]|[错錯]|未|非|排除)$",
    re.IGNORECASE,
)
# What must not follow the letter.
REJECTED = re.compile(
    rf"{_CLOSE}*\s*(?:\?|吗|(?:(?:is|are|was|were|seems?|looks?|can|could|would|does|did)"
    r"(?:n't|\s+not\b|\s+(?:be\s+)?(?:wrong|incorrect|false|excluded|eliminated|ruled)))"
    r"|(?:选项|項|项|是)*(?:不(?:对|正确|行|符|合|成立|可能|能)|[错錯]))",
    re.IGNORECASE,
)
CAUSE = re.compile(r"\s+(?:because|since|due|which|but|not|so|based|given|where|rather|instead|as)\b", re.IGNORECASE)
CLAUSE = re.compile(r"[.!?;:,。\n](?!\d)|\b(?:so|therefore|thus|hence|then|but|means|because)\b", re.IGNORECASE)
SUPPORT = re.compile(
    rf"{_CLOSE}*(?:[ \t]+(?:is|must[ \t]+be|seems|looks)[ \t]+(?:the[ \t]+)?"
    r"(?:(?:only|most|one|thus|therefore|clearly|indeed)[ \t]+)*(?:correct|right|best|answer)(?![A-Za-z])"
    r"|[ \t]*(?:选项|選項|项|項)?[ \t]*(?:是|为|為)?正[确確])",
    re.IGNORECASE,
)
# What stands before a letter that is said to be correct: not "Vitamin A is correct".
SUPPORTABLE = re.compile(
    r"(?:^|[^\w\s]|[^\x00-\x7f]|\n|\b(?:option|choice|answer|statement|letter|only|so|thus|hence|therefore|that|then|and|or))"
    rf"\s*{_OPEN}*$",
    re.IGNORECASE,
)
_JOIN = r"\s*(?:,\s*(?:and|or|&)?|/|、|\bor\b|\band\b|&|;|\+|和|或者?|与|及|以及)\s*"


@lru_cache(maxsize=MAX_CHOICES)
def _patterns(number: int) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Letters joined into a list; one letter; a line's label, for choices A to the `number`-th."""
    last = chr(64 + number)
    one = rf"(?<![A-Za-z0-9])[A-{last}a-{last.lower()}](?![A-Za-z0-9_^\\+#]|-\w|'[a-z])"
    item = rf"(?:(?i:option|choice|letter|选项|選項)\s*)?{_OPEN}*\s*{one}{_CLOSE}*"
    # a letter after a comma may begin a clause of its own: "B, C is wrong"
    more = rf"(?i:{_JOIN}){item}(?=\s*(?:$|[.,;)、。\n{UNBOX}]|[和或与及/&]|(?:and|or|all|are)\b))"
    run = rf"{_OPEN}*(?<![A-Za-z0-9])(?P<run>[A-{last}]{{2,{number}}})(?![A-Za-z0-9_'-]){_CLOSE}*"
    letters = re.compile(rf"(?:{run}|{item}(?:{more})*)")
    label = re.compile(
        rf"\s*{_OPEN}*({one}){_CLOSE}*\s*(?P<mark>[.):,]|\s[-–]\s|(?=\s+(?:because|since)\b)|$)\s*(?P<rest>.*)"
    )
    return letters, re.compile(one), label


INITIAL = re.compile(r"[A-Z]\.\s")
LABELLED = re.compile(r"^\s*\(?[A-Z][.):]\s", re.MULTILINE)


class Statement(NamedTuple):
    at: int
    letters: str
    """Sorted capitals, or SEVERAL."""


class ChoiceReader:
    """Reads one text. `choices` are the texts of the choices, empty where they are not known."""

    def __init__(self, text: str, number: int, choices: Sequence[str], *, multiple: bool) -> None:
        self.text = clean(text[-MAX_CHARS:])
        self.choices = _without_labels([plain(clean(choice)) for choice in choices])
        self.multiple = multiple
        self.list, self.one, self.label = _patterns(number)

    def settled(self) -> str | None:
        """The letter or letters that the text settles on; None for none, SEVERAL for too many."""
        if stated := [*self._boxed(), *self._answered(), *self._direct(), *self._concluded()]:
            return max(stated, key=lambda statement: statement.at).letters
        if (lone := self._lone()) is not None:
            return lone
        supported = sorted(set(self._supported()))
        if len(supported) > 1 and not self.multiple:
            return SEVERAL
        return "".join(supported) or None

    def _boxed(self) -> Iterator[Statement]:
        for box in re.finditer(rf"{BOX}([^{BOX}{UNBOX}]*){UNBOX}", self.text):
            letters = self._read(box.start() + 1, box.end() - 1)
            if letters is not None and not self._is_denied(box.start(), box.start()):
                yield Statement(box.start() + 1, letters)

    def _answered(self) -> Iterator[Statement]:
        """After "answer ... is" and its like."""
        for noun in deque(NOUN.finditer(self.text), MAX_CUES):
            for copula in COPULA.finditer(self.text, noun.end(), noun.end() + MAX_GAP):
                if re.search(r"[.!?;\n](?!\d)", self.text[noun.end() : copula.start()]):
                    break
                if stated := self._state(noun.start(), copula.end()):
                    yield stated
                    break

    def _direct(self) -> Iterator[Statement]:
        for cue in deque(DIRECT.finditer(self.text), MAX_CUES):
            if stated := self._state(cue.start(), cue.end()):
                yield stated

    def _concluded(self) -> Iterator[Statement]:
        """Lines that end in "so B."."""
        for cue in deque(SO.finditer(self.text), MAX_CUES):
            end = self._line_end(cue.end())
            found = self.list.match(self.text, _skip(self.text, cue.end()), end)
            whole = found and not self.text[found.end() : end].strip(" .!。")
            if whole and (stated := self._state(cue.start(), cue.end())):
                yield stated

    def _lone(self) -> str | None:
        """The letter, or the text of a choice, that is all of the first or last line, or labels it."""
        if len(whole := plain(self.text)) > 1 and self._is_choice(whole):
            return chr(65 + self.choices.index(whole))
        lines = [line for line in self.text.split("\n") if line.strip()]
        labels = list(self._labels(lines))
        ends = {0, len(lines) - 1}
        alone = [(index, letters) for index, letters, rest in labels if not rest]
        if len({letters for _, letters in alone}) == 1 and alone[-1][0] in ends | {alone[0][0]} & ends:
            return alone[-1][1]
        if labels:
            return labels[0][1] if len({letters for _, letters, _ in labels}) == 1 and labels[0][0] in ends else None
        quoted = {
            self.choices.index(line): index for index, line in enumerate(map(plain, lines)) if self._is_choice(line)
        }
        if len(quoted) == 1 and set(quoted.values()) <= ends:
            return chr(65 + next(iter(quoted)))
        return None

    def _labels(self, lines: list[str]) -> Iterator[tuple[int, str, str]]:
        """Index, letters and remaining text of each line that begins with a letter as a label, or is only letters."""
        for index, line in enumerate(lines):
            marker = MARKER.match(line)
            line = line[marker.end() :] if marker else line.lstrip()
            found = self.list.match(line)
            rest = line[found.end() :].strip(' .):,。!"') if found else ""
            if found and (not rest or (len(self.one.findall(found[0])) > 1 and not REJECTED.match(line, found.end()))):
                yield index, self._letters(found), rest
            elif (label := self.label.match(line)) and self._is_label(label, lines):
                yield index, label[1].upper(), label["rest"]

    def _supported(self) -> Iterator[str]:
        """Letters that are said to be correct."""
        for letter in self.one.finditer(self.text):
            before = self.text[max(0, letter.start() - 12) : letter.start()]
            if not SUPPORT.match(self.text, letter.end()) or not SUPPORTABLE.search(before):
                continue
            if not self._is_denied(letter.start(), letter.start()) and not self._is_option(letter):
                yield letter[0].upper()

    def _is_option(self, letter: re.Match[str]) -> bool:
        """Whether a letter labels one of several echoed options."""
        start = self.text.rfind("\n", 0, letter.start()) + 1
        label = self.label.match(self.text[start : self._line_end(start)])
        if not label or start + label.start(1) != letter.start() or label["mark"] not in {".", ")", ":"}:
            return False
        text = self._choice(letter[0].upper())
        return plain(label["rest"]).startswith(text) if text else len(LABELLED.findall(self.text)) > 1

    def _state(self, cue: int, end: int) -> Statement | None:
        """What follows a cue that begins at `cue` and ends at `end`; None where nothing does, or it is denied."""
        start = _skip(self.text, end)
        if self._is_denied(cue, start):
            return None
        bare = PUNCTUATION.match(self.text, end)
        quoted = self._quoted(bare.end() if bare else end, len(self.text))  # "the" may begin a choice's text
        letters = quoted[0] if quoted and quoted[1] > 1 else self._read(start, len(self.text))
        return None if letters is None else Statement(start, letters)

    def _is_denied(self, cue: int, start: int) -> bool:
        before = CLAUSE.split(self.text[max(0, cue - MAX_GAP) : cue])[-1]
        within = ELSE.sub("", self.text[cue:start]).rpartition(",")[2]
        return bool(DENIED.search(before) or DENIED.search(within))

    def _read(self, start: int, end: int) -> str | None:
        """The letters at `start`, or those of the choice whose text stands there."""
        found = self.list.match(self.text, start, end)
        quoted = self._quoted(start, end)
        if quoted and (found is None or quoted[1] > 1):
            return quoted[0]
        if found is None:
            return None
        labelled = self._is_labelled(found)
        if not labelled and (REJECTED.match(self.text, found.end(), end) or self._is_word(found, end)):
            return None
        return SEVERAL if self._is_echo(start, found) else self._letters(found)

    def _letters(self, found: re.Match[str]) -> str:
        letters = list(found["run"]) if found["run"] else self.one.findall(found[0])
        unique = sorted({letter.upper() for letter in letters})
        alternatives = re.search(r"\bor\b|或|/", found[0], re.IGNORECASE)
        return SEVERAL if len(unique) > 1 and (alternatives or not self.multiple) else "".join(unique)

    def _is_word(self, found: re.Match[str], end: int) -> bool:
        """Whether what looks like a letter is the article, the pronoun or the beginning of a name: "A good ..."."""
        follows = re.match(r"[ \t]+[a-z]", self.text[found.end() : end])
        if not follows or CAUSE.match(self.text, found.end(), end):
            return False
        if found["run"]:
            return True
        letter = found[0].strip()[-1:]
        return letter.isalpha() and (letter.islower() or letter in "AI")

    def _is_labelled(self, found: re.Match[str]) -> bool:
        """Whether a letter labels what follows: "B) is not ...", or its choice's text."""
        if found[0].endswith(")") and "(" not in found[0]:
            return True
        letters = self.one.findall(found[0])
        text = self._choice(letters[0].upper()) if len(letters) == 1 else ""
        return bool(text) and plain(self.text[found.end() : self._line_end(found.end())]).startswith(text)

    def _is_echo(self, start: int, found: re.Match[str]) -> bool:
        """Whether the statement is the first of the options, listed after "Answer:"."""
        own = self._letters(found)
        end = self._line_end(found.end())
        rest = self.text[found.end() : end]
        following = self.label.match(self.text[end:].lstrip("\n").partition("\n")[0])
        if following and following[1].upper() != own and following["mark"] != "," and _is_line_start(self.text, start):
            return bool(rest.strip(' .):"')) == bool(following["rest"])
        inline = re.search(r"\s\(?B[.):]\s(.*)", rest) if own == "A" and found[0][-1] + rest[:1] != "A" else None
        if inline and self.choices:
            return plain(inline[1]).startswith(self.choices[1])
        return bool(inline) and not re.search(r"\b(?:wrong|not|because|since)\b|\band B", rest)

    def _is_label(self, label: re.Match[str], lines: list[str]) -> bool:
        """Whether a letter before a line's text labels it: not in "E. coli grows", "A: Paris", "I. Introduction"."""
        letter, mark, rest = label[1], label["mark"].strip(), label["rest"]
        text = self._choice(letter.upper())
        if not rest or (text and (plain(rest).startswith(text) or text.startswith(plain(rest)))):
            return True
        if mark == "." and (
            letter == "I" or INITIAL.match(rest) or (rest[:1].islower() and (letter == "E" or len(lines) > 1))
        ):
            return False
        return not (mark == ":" and letter == "A") and (letter.isupper() or mark == ")")

    def _quoted(self, start: int, end: int) -> tuple[str, int] | None:
        """The letter of the choice whose text stands at `start`, and the length of that text."""
        if not self.choices:
            return None
        end = min(end, start + 2 * max(map(len, self.choices)) + MAX_GAP)
        for stop in (min(end, self._line_end(start)), end):
            rest = plain(self.text[start:stop])
            if found := [choice for choice in self.choices if choice and _begins(rest, choice)]:
                break
        else:
            return None
        best = max(found, key=len)
        after = re.sub(rf"^{_JOIN}", "", rest[len(best) :])
        others = [choice for choice in self.choices if choice and choice != best and _begins(after, choice)]
        if self.choices.count(best) > 1 or (others and after != rest[len(best) :]):
            return SEVERAL, len(best)
        return chr(65 + self.choices.index(best)), len(best)

    def _choice(self, letter: str) -> str:
        index = ord(letter) - 65
        return self.choices[index] if index < len(self.choices) else ""

    def _is_choice(self, line: str) -> bool:
        return bool(line) and self.choices.count(line) == 1

    def _line_end(self, start: int) -> int:
        end = self.text.find("\n", start)
        return len(self.text) if end < 0 else end


def _skip(text: str, start: int) -> int:
    filler = FILLER.match(text, start)
    return filler.end() if filler else start


def _is_line_start(text: str, start: int) -> bool:
    return text[:start].rstrip(" \t([\"'").endswith("\n")


def _begins(text: str, choice: str) -> bool:
    """Whether `text` is `choice`, or goes on after it with punctuation or a reason."""
    if not text.startswith(choice):
        return False
    rest = text[len(choice) :]
    return not rest or bool(
        re.match(r"[.,;:!)\"](?!\w)|\s*\(|[。、]|\s+(?:because|since|as|and|or)\b|\s*(?:或|和)", rest)
    )


def _without_labels(choices: list[str]) -> list[str]:
    """Without their own labels, where all have them: "a. red", "b. blue"."""
    labelled = all(re.match(rf"\(?{chr(97 + index)}[.):]\s*\S", choice) for index, choice in enumerate(choices))
    return [re.sub(r"^\(?[a-z][.):]\s*", "", choice) for choice in choices] if labelled else choices
