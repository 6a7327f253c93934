"""Plain documents in English and Chinese: small articles, conversations, and the noise of web pages.

Sentences come from small grammars, so a model of a few million parameters can learn them; nothing here is copied from
anywhere.
"""

from __future__ import annotations

import random

EN = {
    "who": ("The farmer", "A student", "My sister", "The doctor", "An old man", "The teacher", "A driver", "The cook"),
    "does": ("bought", "found", "lost", "painted", "sold", "repaired", "carried", "counted"),
    "what": (
        "a red chair",
        "three apples",
        "an old book",
        "the green bicycle",
        "two lamps",
        "a small boat",
        "some bread",
    ),
    "where": ("in the market", "near the river", "at school", "by the station", "in the garden", "at home"),
    "when": ("yesterday", "last week", "in the morning", "before dinner", "on Monday", "in winter"),
    "thing": ("Rice", "The moon", "Iron", "A whale", "Tea", "The library", "A clock", "Snow"),
    "is": (
        "is older than people think",
        "is sold in many shops",
        "is heavier than wood",
        "is quiet at night",
        "is common in the north",
        "is made by hand",
    ),
}
ZH = {
    "who": ("农民", "学生", "姐姐", "医生", "老人", "老师", "司机", "厨师"),
    "does": ("买了", "找到了", "丢了", "画了", "卖了", "修好了", "带来了", "数了数"),
    "what": ("一把红椅子", "三个苹果", "一本旧书", "绿色的自行车", "两盏灯", "一条小船", "一些面包"),
    "where": ("在市场上", "在河边", "在学校", "在车站旁", "在花园里", "在家里"),
    "when": ("昨天", "上周", "早上", "晚饭前", "星期一", "冬天"),
    "thing": ("米饭", "月亮", "铁", "鲸鱼", "茶", "图书馆", "时钟", "雪"),
    "is": ("比人们想的更古老", "在很多商店都有", "比木头重", "夜里很安静", "在北方很常见", "是手工做的"),
}
QUESTIONS = (
    ("What colour is snow?", "White."),
    ("How many days are in a week?", "7."),
    ("Where do fish live?", "In water."),
    ("What do bees make?", "Honey."),
    ("Which is bigger, 9 or 4?", "9."),
    ("雪是什么颜色？", "白色。"),
    ("一周有几天？", "7天。"),
    ("鱼住在哪里？", "水里。"),
    ("蜜蜂做什么？", "蜂蜜。"),
    ("9和4哪个大？", "9大。"),
)
SCRAPS = (
    "Home | About | Contact", "Click here to read more", "Copyright 2019. All rights reserved.", "<div>page 3</div>",
    "404 not found", "Subscribe now!!!", "首页 | 关于我们 | 联系", "点击查看更多", "版权所有 2019", "广告",
    "[1] [2] [3]", "Posted by admin on Monday", "0 comments", "下一页",
)  # fmt: skip


def sentence(rng: random.Random, *, chinese: bool) -> str:
    words = {name: rng.choice(choices) for name, choices in (ZH if chinese else EN).items()}
    if rng.random() < 0.4:
        return f"{words['thing']}{words['is']}。" if chinese else f"{words['thing']} {words['is']}."
    if chinese:
        return f"{words['when']}{words['who']}{words['where']}{words['does']}{words['what']}。"
    return f"{words['who']} {words['does']} {words['what']} {words['where']} {words['when']}."


def article(rng: random.Random) -> str:
    """Two to six sentences in one language; sometimes cut off, sometimes with a typing error."""
    chinese = rng.random() < 0.5
    text = ("" if chinese else " ").join(sentence(rng, chinese=chinese) for _ in range(rng.randint(2, 6)))
    if rng.random() < 0.15:
        text = text[: rng.randint(8, len(text))]
    if rng.random() < 0.1:
        spot = rng.randrange(len(text) - 1)
        text = text[:spot] + text[spot + 1] + text[spot] + text[spot + 2 :]
    return text


def web_noise(rng: random.Random) -> str:
    """Navigation bars, boilerplate and repeated lines around a sentence."""
    lines = [rng.choice(SCRAPS) for _ in range(rng.randint(2, 5))]
    if rng.random() < 0.5:
        lines.insert(rng.randrange(len(lines)), sentence(rng, chinese=rng.random() < 0.5))
    if rng.random() < 0.2:
        lines += [lines[-1]] * rng.randint(1, 3)
    return "\n".join(lines)


def chat(rng: random.Random) -> str:
    """A question and an answer, with or without the assistant's tags."""
    question, answer = rng.choice(QUESTIONS)
    match rng.randrange(3):
        case 0:
            return f"Q: {question}\nA: {answer}"
        case 1:
            return f"User: {question}\nAssistant: {answer}"
        case _:
            return f"User: {question}\nAssistant: <answer>{answer}</answer>"
