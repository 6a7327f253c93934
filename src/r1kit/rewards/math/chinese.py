"""Chinese answers in the spelling of the others: numerals (三分之一), connectives (或, 和), units (平方厘米)."""

from __future__ import annotations

import re

DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")} | {
    "〇": 0,
    "两": 2,
    "壹": 1,
    "贰": 2,
    "叁": 3,
}
PLACES = {"十": 10, "百": 100, "千": 1000}
MYRIADS = {"万": 10**4, "亿": 10**8}
NUMERAL = "[零〇一二两三四五六七八九十百千万亿]"
UNITS = {
    "平方公里": "km^2", "平方千米": "km^2", "平方分米": "dm^2", "平方厘米": "cm^2", "平方毫米": "mm^2",
    "平方米": "m^2", "立方厘米": "cm^3", "立方分米": "dm^3", "立方米": "m^3", "公里": "km", "千米": "km",
    "分米": "dm", "厘米": "cm", "毫米": "mm", "公斤": "kg", "千克": "kg", "毫升": "mL", "分钟": "min",
    "小时": "hours", "美元": "dollars", "人民币": "yuan", "米": "m", "克": "g", "升": "L", "吨": "t", "秒": "s",
    "元": "yuan", "角": "jiao", "分": "fen", "天": "days", "度": "degrees",
}  # fmt: skip
UNIT = "|".join(sorted(UNITS, key=len, reverse=True))
WORDS = (
    (r"(?<=\d)\s*比\s*(?=\d)", ":"),
    (r"负无穷(?:大|远)?", r"-\\infty "), (r"正?无穷(?:大|远)", r"\\infty "), (r"\s*(?:或者?是?|或)\s*", " or "),
    (r"小于等于|不大于", r"\\le "), (r"大于等于|不小于", r"\\ge "), (r"不等于", r"\\ne "),
    (r"等于|(?<=[A-Za-z\d)])[为是](?=[-\d\\])", "="), (r"大于", ">"), (r"小于", "<"), (r"属于", r"\\in "),
    (r"约等于|大约|约为?", ""), (r"根号", r"\\sqrt "), (r"圆周率|派", r"\\pi "), (r"正负", r"\\pm "),
    (r"(?<=[\d)}\]A-Za-z个元米克度])\s*[和与及]\s*(?=[-\d(\\A-Z])", " and "),
)  # fmt: skip


def plain_chinese(text: str) -> str:
    """`text` with its Chinese numerals, connectives and units after numbers in plain spelling; other words stay."""
    if not re.search(r"[\u4e00-\u9fff]", text):
        return text
    text = re.sub(rf"({NUMERAL}+)\s*又\s*({NUMERAL}+)分之({NUMERAL}+)", _mixed, text)
    text = re.sub(r"(\d+)\s*又\s*(\d+)\s*分之\s*(\d+)", r"\1\\frac{\3}{\2}", text)
    text = re.sub(rf"百分之\s*((?:{NUMERAL}|点)+|[\d.]+)", lambda m: f"{_number(m[1])}%", text)
    text = re.sub(
        rf"((?:{NUMERAL})+|\d+)\s*分之\s*((?:{NUMERAL})+|[\d.]+)",
        lambda m: rf"\frac{{{_number(m[2])}}}{{{_number(m[1])}}}",
        text,
    )
    text = re.sub(
        rf"((?:{NUMERAL})+|\d+)\s*分之\s*根号\s*((?:{NUMERAL})+|\d+)",
        lambda m: rf"\frac{{\sqrt{{{_number(m[2])}}}}}{{{_number(m[1])}}}",
        text,
    )
    text = re.sub(rf"负(?=\d|\\|{NUMERAL})", "-", text)
    text = re.sub(r"(\d+(?:\.\d+)?)\s*([万亿])", lambda m: _times(m[1], MYRIADS[m[2]]), text)
    # A numeral inside a word (一定, 唯一, 三角形) is no number; alone or before a measure word it is.
    text = re.sub(
        rf"(?<![\u4e00-\u9fff\d])((?:{NUMERAL})+(?:点[零〇一二三四五六七八九]+)?)(?=$|[\s,.;:)%]|{UNIT}|[或和与个只条种人本次张支块位名辆岁倍页])",
        lambda m: _number(m[1]),
        text,
    )
    for pattern, plain in WORDS:
        text = re.sub(pattern, plain, text)
    return re.sub(
        rf"(?<=[\d)}}])\s*({UNIT})(?![\u4e00-\u9fff])",
        lambda m: rf"\text{{ {UNITS[m[1]].split('^')[0]}}}" + _power(m[1]),
        text,
    )


def read_numeral(text: str) -> int | None:
    """The value of a Chinese numeral: 二十五 is 25, 一万零三 is 10003, 二〇二四 is 2024. None when it is none."""
    if not text or re.fullmatch(f"{NUMERAL}+", text) is None:
        return None
    if all(character in DIGITS for character in text):
        return int("".join(str(DIGITS[character]) for character in text))
    total = myriads = section = digit = 0
    for character in text:
        if character in DIGITS:
            digit = DIGITS[character]
        elif character in PLACES:
            section += (digit or 1) * PLACES[character]
            digit = 0
        elif character == "万":
            myriads, section, digit = (section + digit) * MYRIADS["万"], 0, 0
        else:
            total, myriads, section, digit = (total + myriads + section + digit) * MYRIADS["亿"], 0, 0, 0
    return total + myriads + section + digit


def _number(text: str) -> str:
    whole, point, decimals = text.partition("点")
    value = read_numeral(whole)
    if value is None:
        return text
    return f"{value}.{''.join(str(DIGITS.get(character, '')) for character in decimals)}" if point else str(value)


def _mixed(match: re.Match[str]) -> str:
    whole, below, above = (_number(part) for part in match.groups())
    return rf"{whole}\frac{{{above}}}{{{below}}}"


def _times(number: str, factor: int) -> str:
    whole, _, decimals = number.partition(".")
    zeros = len(str(factor)) - 1
    digits = (decimals + "0" * zeros)[:zeros]
    rest = decimals[zeros:]
    return str(int(whole + digits)) + (f".{rest}" if rest else "")


def _power(unit: str) -> str:
    name, caret, power = UNITS[unit].partition("^")
    return caret + power
