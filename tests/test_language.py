"""Language consistency: what a word is, which language it is in, and what has none (R1 V2 eq. 7)."""

import builtins
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from r1kit.rewards import language
from r1kit.rewards.language import SCRIPT, count_words, language_consistency, prompt_language

DATA = Path(__file__).parents[1] / "../shared/data"
LIBRARY = pytest.mark.skipif(find_spec("py3langid") is None, reason="needs py3langid: pip install 'r1kit[language]'")

# by script alone, or by frequent English words
SCRIPT_DECIDES = {
    "en": "Let me think about the two numbers. Wait, that is wrong, because the sum must be even.",
    "zh": "先把两个数加起来。等等，这不对，因为和必须是偶数。",
    "ja": "まず二つの数を足します。待って、合計は偶数でなければなりません。",
    "ko": "먼저 두 수를 더합니다. 잠깐, 합은 짝수여야 합니다.",
    "th": "ก่อนอื่นเราบวกเลขสองตัว เดี๋ยวก่อน ผลรวมต้องเป็นเลขคู่",
    "el": "Πρώτα προσθέτουμε τους δύο αριθμούς. Περίμενε, το άθροισμα πρέπει να είναι άρτιο.",
    "he": "קודם נחבר את שני המספרים. רגע, הסכום חייב להיות זוגי.",
    "ka": "ჯერ შევკრიბოთ ორი რიცხვი. მოიცა, ჯამი ლუწი უნდა იყოს.",
    "ta": "முதலில் இரண்டு எண்களைக் கூட்டுவோம். பொறு, கூட்டுத்தொகை இரட்டையாக இருக்க வேண்டும்.",
}
# py3langid decides
SHARED_SCRIPT = {
    "fr": "D'abord, on additionne les deux nombres. Attends, c'est faux, car la somme doit être paire.",
    "de": "Zuerst addieren wir die beiden Zahlen. Moment, das ist falsch, denn die Summe muss gerade sein.",
    "es": "Primero sumamos los dos números. Espera, eso está mal, porque la suma debe ser par.",
    "nl": "Eerst tellen we de twee getallen op. Wacht, dat is fout, want de som moet even zijn.",
    "tr": "Önce iki sayıyı topluyoruz. Bir dakika, bu yanlış, çünkü toplam çift olmalı.",
    "ru": "Сначала сложим эти два числа вместе. Подожди, это неверно, ведь сумма должна быть чётной.",
    "uk": "Спершу додаємо обидва числа разом. Зачекай, це хибно, адже сума має бути парною.",
    "ar": "أولا نجمع العددين معا. انتظر، هذا خطأ لأن المجموع يجب أن يكون زوجيا.",
    "fa": "اول دو عدد را با هم جمع می‌کنیم. صبر کن، این اشتباه است چون مجموع باید زوج باشد.",
    "hi": "पहले हम दोनों संख्याओं को जोड़ते हैं। रुको, यह गलत है, क्योंकि योग सम होना चाहिए।",
}


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def refuse(name: str, *args, **kwargs):
        if name.startswith("py3langid"):
            raise ModuleNotFoundError("No module named 'py3langid'", name="py3langid")
        return real(name, *args, **kwargs)

    caches = (language._load, language._warn, prompt_language)
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("name", SCRIPT_DECIDES)
def test_a_script_of_its_own_names_the_language_without_the_library(name, without_library):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prompt_language(SCRIPT_DECIDES[name]) == name
        assert language_consistency(SCRIPT_DECIDES[name], name) == 1
        others = [other for other in SCRIPT_DECIDES if other != name]
        assert [language_consistency(SCRIPT_DECIDES[name], other) for other in others] == [0] * len(others)


@LIBRARY
@pytest.mark.parametrize("name", SHARED_SCRIPT)
def test_languages_of_one_script_are_told_apart(name):
    assert prompt_language(SHARED_SCRIPT[name]) == name
    assert language_consistency(SHARED_SCRIPT[name], name) == 1
    others = [other for other in SHARED_SCRIPT if other != name and SCRIPT[other] == SCRIPT[name]]
    others += ["en"] if SCRIPT[name] == "latin" else []
    assert [language_consistency(SHARED_SCRIPT[name], other) for other in others] == [0] * len(others)


@LIBRARY
def test_the_library_knows_every_shared_language():
    identifier = language._load()
    assert identifier is not None
    assert {name for names in language.SHARED.values() for name in names} == set(identifier.labels)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don’t add Janet's twenty-four eggs", 6),  # apostrophes join, hyphens part
        ("x + y = 2, so f(x) is gcd(12, 8), a_1 or r2 or totalSum", 4),  # so, is, or, or
        ("two egg(s) and five math.floor(a/b) boxes", 5),
        ("first ```python\nfor egg in basket: print(egg)\n``` then `sort it` done", 3),
        ("an unclosed ```\nblock of code", 2),
        (r"we get $x = \text{apples}$, \(a \cdot b\), \[\sum_i eggs\] and \boxed{\text{four eggs}} here", 4),
        (r"so \begin{align} a &= \text{two eggs} \end{align} is it", 3),
        ("she pays $2 for each of them and gets $5 back", 9),  # prices are no formula
        ("see https://example.com/some-page?x=1 or mail some.one@example.com now", 4),
        ("<answer>twelve</answer> is right", 3),
        ("5 km of road, sin or cos, triangle ABC", 4),
        ("1,234.5 + 67 = 1301.5", 0),
        ("", 0),
        ("先算8*3=24，再减1", 4),
        ("ジャネットのアヒル", 3),  # one run of each kind of kana
        ("먼저 두 수를 더합니다", 4),
        ("กขคงจฉชซฌญฎ", 3),  # every five characters begun
        ("и я сложим числа", 2),  # single letters are variables
        ("у_2 и число1 да", 1),
        ("पहले की संख्या", 3),  # vowel signs belong to the word
    ],
)
def test_words(text, words):
    assert count_words(text, "zh")[1] == words


def test_foreign_words_in_another_script_count_against_the_target():
    assert count_words("24-1=23 wrong\n24/1=24不对", "en") == (1, 3)
    assert count_words("24-1=23 wrong\n24/1=24不对", "zh") == (2, 3)
    assert count_words("Let me check that again, 等等, this is right.", "en") == (8, 10)
    assert language_consistency("8*3=24\n24-1=23", "en") is None


def test_ideographs_are_japanese_with_kana_around_them_and_chinese_else():
    mixed = "答えは二十四です。我们再检查一遍。"
    assert count_words(mixed, "ja") == (6, 13)
    assert count_words(mixed, "zh") == (7, 13)
    assert count_words("計算結果：二十四。", "ja") == (7, 7)  # a heading needs no kana
    assert count_words("計算結果：二十四。", "zh") == (7, 7)
    assert count_words("我们再检查。", "ja") == (0, 5)  # nobody writes 们 in Japanese
    assert count_words("本句引用「の」一字，而其中文字全部皆是漢語，不可算作日文。", "ja") == (1, 24)  # quotes Japanese


@pytest.mark.parametrize("target", ["en", "zh", "ja", "ko", "th", "ru", "xx"])
def test_counts_are_within_the_text(target):
    text = "\n".join([*SCRIPT_DECIDES.values(), "3 + 4 = 7"])
    own, words = count_words(text, target)
    assert 0 <= own <= words == count_words(text, "en")[1]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Make 15 from 7, 7, 1.", "en"),
        ("用8、7、5算出21。", "zh"),
        ("Write about snow.", "en"),
        ("How do I paint a letter?", "en"),
        ("Find all real $x$ with $\\sqrt{x+7} = 9$.", "en"),
        ("请解释 Python 的 list comprehension 是什么意思", "zh"),
        ("Which of these means snow: 雪 or 雨?", "en"),
        ("Child climbs: 这句话是什么意思", "zh"),
        ("「空が青い」とはどういう意味ですか？", "ja"),
        ("Python for ループとは何ですか？", "ja"),
        ("请把这句日语翻译成中文：すみません。", "zh"),
        ("2 + 3 = ?", "en"),
        ("", "en"),
    ],
)
def test_prompts_of_the_demo_need_no_library(prompt, name, without_library):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prompt_language(prompt) == name


def test_without_the_library_one_warning_and_scripts_only(without_library):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert prompt_language(SHARED_SCRIPT["fr"]) == "en"
        assert language_consistency(SHARED_SCRIPT["fr"], "en") == 1
        assert language_consistency(SHARED_SCRIPT["de"], "fr") == 1
        # frequent English words still give English away, and what follows is not English for that
        assert count_words("That must be wrong. Elle vend le reste au marché.", "fr") == (6, 10)
    assert ["pip install 'r1kit[language]'" in str(warning.message) for warning in caught] == [True]


def test_the_demos_thoughts_never_load_the_library(without_library, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(language, "_load", lambda: pytest.fail("py3langid was asked for"))
    thought = "8*3=24\n24-1=23 no\n24/1=24不对\n5*1=5 wrong wait\n5-1=4 not it\n8/1=8 but no\ngive up\n" * 3
    assert count_words(thought, "en") == (27, 33)
    assert count_words("The user asks: Write about winter. I can answer that.", "en") == (9, 9)


@LIBRARY
def test_a_french_sentence_in_an_english_thought_is_foreign():
    french = "Elle vend donc le reste des œufs au marché."
    assert count_words(f"Let me think about the eggs. {french} That must be right.", "en") == (10, 19)
    assert count_words(f"Let me think about the eggs. {french} That must be right.", "fr") == (9, 19)


@LIBRARY
def test_a_short_fragment_goes_with_the_sentence_before_it():
    # `Non` and `Oui` are too short to name a language
    assert count_words("Oui. Let me think about the eggs. Non.", "en") == (8, 8)
    assert count_words("Elle vend donc le reste au marché. Non.", "en") == (0, 8)


@LIBRARY
def test_fragments_alone_are_judged_together_when_they_are_enough():
    lines = "vend\nreste\nœufs\nquatre\ndonc\ntrois\nalors\nmatin\njour\ncombien\npuis\nenfin\naprès\navant\nencore"
    assert count_words(lines, "en") == (0, 15)
    assert count_words(lines[:22], "en") == (4, 4)


@LIBRARY
def test_repeating_one_word_does_not_make_it_another_language():
    assert language_consistency("no no no no no no no no no no", "en") == 1


@LIBRARY
def test_a_long_run_of_sentences_without_stops_is_judged_in_pieces():
    english = "we know that there are two eggs left and then she must sell them because they are not hers "
    french = "elle vend donc le reste des œufs au marché parce que ses amis ne veulent plus en manger "
    own, words = count_words(english * 4 + french * 4, "en")
    assert abs(own / words - count_words(english * 4, "en")[1] / words) < 0.12


@LIBRARY
def test_indonesian_and_malay_count_for_each_other():
    text = "Jika dia punya lebih banyak apel, dia bisa memberikan beberapa kepada temannya."
    assert language_consistency(text, "id") == language_consistency(text, "ms") == 1


def test_the_same_in_another_process():
    text = " ".join([*SCRIPT_DECIDES.values(), *SHARED_SCRIPT.values()])
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); from r1kit.rewards.language import *\n"
        "text = sys.stdin.read(); print(prompt_language(text), [count_words(text, name) for name in ('en', 'fr')])"
    )
    runs = [subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != "", runs[0].stderr


@pytest.mark.parametrize(
    "name", ["en", "zh", "ja", pytest.param("fr", marks=LIBRARY), pytest.param("sw", marks=LIBRARY)]
)
def test_public_problems_are_in_their_language(name):
    path = DATA / "math_bench" / f"mgsm_{name}.tsv"
    if not path.exists():
        pytest.skip(f"no public data at {path}")
    texts = [line.split("\t")[0] for line in path.read_text().split("\n") if line][:100]
    assert [text for text in texts if prompt_language(text) != name] == []
    assert sum(language_consistency(text, name) or 0 for text in texts) / len(texts) > 0.995
