r"""Answers as models write them -> one plain LaTeX spelling that `math_read` understands.

Layout (`\left`, `\,`, `$`), spelling (`\dfrac`, `²`, `½`, full-width digits), Chinese numerals and connectives,
thousands separators. Nothing here judges; where a comma can mean two things, the caller tries both.
"""

from __future__ import annotations

import re
import unicodedata

from r1kit.rewards.math.chinese import plain_chinese

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
          "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}  # fmt: skip
UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ",
    "∕": "/", "⁄": "/",
    "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "≤": r"\le ", "≥": r"\ge ",
    "⩽": r"\le ", "⩾": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ",
    "°": r"^\circ ", "º": r"^\circ ", "′": "'", "’": "'", "“": '"', "”": '"', "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ", "δ": r"\delta ", "λ": r"\lambda ", "μ": r"\mu ", "σ": r"\sigma ", "φ": r"\phi ",
    "ω": r"\omega ", "ρ": r"\rho ",
    "Δ": r"\Delta ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "∣": "|", "∖": r"\setminus ", "→": r"\to ", "⇒": r"\Rightarrow ", "，": ",",
    "；": ";", "：": ":", "（": "(", "）": ")", "【": "[", "】": "]", "｛": "{", "｝": "}", "。": ".", "％": "%",
    "＝": "=", "﹣": "-", "、": ",",
    "…": r"\ldots ",
    "ℯ": "e", "𝑖": "i", "′′": "''", "∼": "~",
}  # fmt: skip
# Names that are only another spelling.
ALIASES = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "sfrac": "frac", "nicefrac": "frac", "dbinom": "binom",
    "tbinom": "binom", "leq": "le", "geq": "ge", "leqslant": "le", "geqslant": "ge", "neq": "ne", "lt": "<",
    "gt": ">", "ast": "*", "star": "*", "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]",
    "varphi": "phi", "varepsilon": "epsilon", "vartheta": "theta", "varnothing": "emptyset", "mid": "|", "vert": "|",
    "lvert": "|", "rvert": "|", "Vert": "|", "land": "wedge", "lor": "vee", "degree": r"^\circ", "degrees": r"^\circ",
    "dots": "ldots", "cdots": "ldots", "arctg": "arctan", "tg": "tan", "ctg": "cot", "lg": "log_{10}",
    "infin": "infty", "infinity": "infty", "prime": "'", "colon": ":", "percent": "%", "backslash": "setminus",
    "Bbb": "mathbb", "mathds": "mathbb", "smallsetminus": "setminus", "imath": "i", "jmath": "j", "asin": "arcsin",
    "acos": "arccos", "atan": "arctan", "cosec": "csc", "implies": "Rightarrow", "iff": "Rightarrow",
    "textdegree": r"^\circ", "euro": "€", "pounds": "£", "yen": "¥", "textdollar": r"\$", "N": "mathbb{N}",
    "R": "mathbb{R}", "Z": "mathbb{Z}", "And": "&", "longrightarrow": "to", "rightarrow": "to", "over": "over",
}  # fmt: skip
EXCEPT = r"\\mathbb{R}\\setminus\\{\1\\}"
LAYOUT = (
    r"\\(?:left|right|middle|bigl?|bigr|Bigl?|Bigr|biggl?|biggr|Biggl?|Biggr|displaystyle|textstyle|limits|nolimits|"
    r"mathstrut|strut|rm|bf|it|hfill|notag|nonumber|allowbreak|par|small|large|Large|boldsymbol|bm|centerdot)(?![A-Za-z])\.?"
)
SPACES = (
    r"(?<!\\)\\[ ,;:>]|\\(?:quad|qquad|enspace|thinspace|medspace|thickspace|space|hspace\*?\{[^{}]*\})(?![A-Za-z])|~|"
    r"[\u00a0\u2009\u200a\u202f\u3000]"
)
FONTS = (
    r"\\(?:mathbf|mathit|mathsf|mathtt|mathcal|mathscr|mathfrak|ensuremath|vec|overrightarrow|hat|underline|widehat|"
    r"operatorname\*?)(?![A-Za-z])"
)


def clean(text: str, *, thousands: bool = True) -> str:
    """`text` in plain LaTeX. `thousands`: `1,234` is one number; else it is the two numbers 1 and 234."""
    text = ascii_spelling(text)
    text = re.sub(r"\\phantom\s*(?:\{[^{}]*\}|.)|\\(?:label|tag|color|textcolor)\{[^{}]*\}", " ", text)
    text = re.sub(LAYOUT, "", text)
    text = re.sub(
        r"^(?:\\text\s*\{)?\s*(?:all|any) (?:real numbers|reals) (?:except|other than|but)(?: for)?\s*\}?(.+)",
        EXCEPT,
        text,
    )
    text = re.sub(r"(?<=\d)\s*x\s*(?=10\s*(?:\^|\*\*))", r"\\times ", text)  # 3.0 x 10^5
    text = re.sub(r"^<([^<>=]*,[^<>=]*)>$", r"\\langle \1\\rangle ", text)
    text = re.sub(r"(?:\bm\s*)?\\(?:measured)?angle(?![A-Za-z])\s*", "", text)
    text = re.sub(r"\(\s*\\?b?mod\s*(?:\\ )?(\w+)\s*\)", r"\\pmod{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])log_?(10|2)\s*(?=\()", r"\\log_{\1}", text)
    text = re.sub(r"(?<!\\)\\\|", "|", text)
    text = re.sub(r"(\d)\s*(?:,?\s*\\[!,]\s*|\{,\}\s*|,\\!\s*)(?=\d{3}(?!\d))", r"\1", text)  # 1,\!000  1{,}000  1\,000
    text = re.sub(r"(?<=\d)\{,\}(?=\d)", ".", text)  # 3{,}14 is a decimal comma
    text = re.sub(SPACES, " ", text.replace(r"\!", ""))
    text = re.sub(FONTS, " ", text)
    text = re.sub(r"\\([A-Za-z]+)", _alias, text)
    text = re.sub(r"\\\$|\$", " ", text) if text.count("$") % 2 == 0 and r"\$" not in text else _dollars(text)
    text = re.sub(r"(?<![\d.,])(\d{1,3}(?: \d{3})+)(?![\d,])", lambda m: m[1].replace(" ", ""), text)  # 1 000 000
    if thousands:
        text = re.sub(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?![\d])", lambda m: m[1].replace(",", ""), text)
    return re.sub(r"\s+", " ", text).strip().rstrip("\\").strip()


def strip_marks(text: str) -> str:
    """Without what stands around an answer: dollars, brackets of display mathematics, bold marks, full stop, quotes."""
    for _ in range(8):  # marks inside marks
        before = text
        text = text.strip().strip("`").strip()
        for opened, closed in (
            ("$$", "$$"),
            ("$", "$"),
            (r"\(", r"\)"),
            (r"\[", r"\]"),
            ("**", "**"),
            ('"', '"'),
            ("“", "”"),
            ("'", "'"),
        ):
            inside = text[len(opened) : len(text) - len(closed)]
            if text.startswith(opened) and text.endswith(closed) and len(text) > len(opened) and opened not in inside:
                text = inside
        if re.search(r"(?<![.\\])[.,;:。，；、]$|\\\\$", text) and not re.search(r"[ap]\.m\.$|\\[,;:]$", text):
            text = re.sub(r"\\\\$", "", text).rstrip(".,;:。，；、")
        if text == before:
            break
    return text


def ascii_spelling(text: str) -> str:
    """Unicode signs as LaTeX commands, full-width characters as ASCII, Chinese numerals as digits."""
    text = re.sub(r"(\d)([½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])", r"\1 \2", text)
    for mark, spelled in VULGAR.items():
        text = text.replace(mark, f"({spelled})" if re.search(rf"[^\s\d]\s*{mark}|{mark}\s*[^\s\d]", text) else spelled)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+", lambda m: "^{" + m[0].translate(SUPERSCRIPTS) + "}", text)
    text = re.sub(r"[₀-₉]+", lambda m: "_{" + m[0].translate(SUBSCRIPTS) + "}", text)
    text = "".join(UNICODE.get(character, character) for character in text)
    text = unicodedata.normalize("NFKC", text)
    return plain_chinese(text)


def _alias(match: re.Match[str]) -> str:
    name = ALIASES.get(match[1])
    if name is None:
        return match[0]
    return f"\\{name}" if name[0].isalpha() else f" {name} "


def _dollars(text: str) -> str:
    r"""Marks of mathematics go, marks of money stay, as `\$`."""
    text = re.sub(r"\$\s*\\\$", r"\\$", text)  # $\$5$
    marks = len(re.findall(r"(?<!\\)\$", text))
    if marks % 2 == 0:
        return re.sub(r"(?<!\\)\$", " ", text)
    return re.sub(r"(?<!\\)\$(?=\s*-?[\d.])", r"\\$", text).replace("$ ", " ")
