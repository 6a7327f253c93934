"""How well the language-consistency reward measures: `python benchmarks/language.py`, a few minutes, no model.

Against labelled text: prompts and responses in known languages, sentences of two languages mixed in known shares, and
the time of a call. Public files are read from --data (default ../shared/data); those that are absent are left out.
Figures and definitions: docs/language.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from r1kit.rewards.language import SCRIPT, count_words, language_consistency, prompt_language

SENTENCES = """
en: First we add the two numbers. | Wait, that is not right, let me check again. | The answer is twenty-four. |
  She sells the rest at the market. | How many eggs are left? | I think there is a mistake here. |
  Now we divide by three. | That is what the problem asks for. |
  If he has more apples, he can give some to his friend. | So the train arrives before noon.
fr: D'abord, nous additionnons les deux nombres. | Attends, ce n'est pas juste, je vérifie encore une fois. |
  La réponse est vingt-quatre. | Elle vend le reste au marché. | Combien d'œufs reste-t-il ? |
  Je pense qu'il y a une erreur ici. | Maintenant nous divisons par trois. | C'est ce que demande le problème. |
  S'il a plus de pommes, il peut en donner à son ami. | Donc le train arrive avant midi.
de: Zuerst addieren wir die beiden Zahlen. | Moment, das stimmt nicht, ich prüfe es noch einmal. |
  Die Antwort ist vierundzwanzig. | Sie verkauft den Rest auf dem Markt. | Wie viele Eier bleiben übrig? |
  Ich glaube, hier ist ein Fehler. | Jetzt teilen wir durch drei. | Das ist es, wonach die Aufgabe fragt. |
  Wenn er mehr Äpfel hat, kann er seinem Freund welche geben. | Also kommt der Zug vor Mittag an.
es: Primero sumamos los dos números. | Espera, eso no es correcto, voy a comprobarlo otra vez. |
  La respuesta es veinticuatro. | Ella vende el resto en el mercado. | ¿Cuántos huevos quedan? |
  Creo que aquí hay un error. | Ahora dividimos entre tres. | Eso es lo que pide el problema. |
  Si él tiene más manzanas, puede darle algunas a su amigo. | Así que el tren llega antes del mediodía.
pt: Primeiro somamos os dois números. | Espera, isso não está certo, vou verificar outra vez. |
  A resposta é vinte e quatro. | Ela vende o resto no mercado. | Quantos ovos sobraram? | Acho que há um erro aqui. |
  Agora dividimos por três. | É isso que o problema pede. | Se ele tem mais maçãs, pode dar algumas ao seu amigo. |
  Então o trem chega antes do meio-dia.
it: Prima sommiamo i due numeri. | Aspetta, non è giusto, controllo di nuovo. | La risposta è ventiquattro. |
  Lei vende il resto al mercato. | Quante uova rimangono? | Penso che qui ci sia un errore. |
  Adesso dividiamo per tre. | È quello che chiede il problema. | Se lui ha più mele, può darne alcune al suo amico. |
  Quindi il treno arriva prima di mezzogiorno.
nl: Eerst tellen we de twee getallen op. | Wacht, dat klopt niet, ik controleer het nog een keer. |
  Het antwoord is vierentwintig. | Ze verkoopt de rest op de markt. | Hoeveel eieren blijven er over? |
  Ik denk dat hier een fout zit. | Nu delen we door drie. | Dat is wat de opgave vraagt. |
  Als hij meer appels heeft, kan hij er een paar aan zijn vriend geven. | Dus de trein komt voor de middag aan.
sv: Först lägger vi ihop de två talen. | Vänta, det stämmer inte, jag kontrollerar igen. | Svaret är tjugofyra. |
  Hon säljer resten på marknaden. | Hur många ägg finns kvar? | Jag tror att det finns ett fel här. |
  Nu delar vi med tre. | Det är vad uppgiften frågar efter. | Om han har fler äpplen kan han ge några till sin vän. |
  Så tåget kommer fram före middag.
pl: Najpierw dodajemy dwie liczby. | Czekaj, to się nie zgadza, sprawdzę jeszcze raz. |
  Odpowiedź to dwadzieścia cztery. | Ona sprzedaje resztę na targu. | Ile jajek zostało? | Myślę, że tu jest błąd. |
  Teraz dzielimy przez trzy. | O to właśnie pyta zadanie. |
  Jeśli ma więcej jabłek, może dać kilka swojemu przyjacielowi. | Więc pociąg przyjeżdża przed południem.
cs: Nejprve sečteme obě čísla. | Počkej, to není správně, zkontroluji to znovu. | Odpověď je dvacet čtyři. |
  Zbytek prodává na trhu. | Kolik vajec zbývá? | Myslím, že je tu chyba. | Teď dělíme třemi. | Na to se úloha ptá. |
  Jestli má více jablek, může dát několik svému příteli. | Takže vlak přijede před polednem.
tr: Önce iki sayıyı topluyoruz. | Dur, bu doğru değil, tekrar kontrol edeyim. | Cevap yirmi dört. |
  Kalanını pazarda satıyor. | Kaç yumurta kaldı? | Sanırım burada bir hata var. | Şimdi üçe bölüyoruz. |
  Soru bunu soruyor. | Daha fazla elması varsa arkadaşına birkaç tane verebilir. | Yani tren öğleden önce varıyor.
id: Pertama kita jumlahkan kedua bilangan itu. | Tunggu, itu tidak benar, saya periksa lagi. |
  Jawabannya adalah dua puluh empat. | Dia menjual sisanya di pasar. | Berapa banyak telur yang tersisa? |
  Saya kira ada kesalahan di sini. | Sekarang kita bagi dengan tiga. | Itulah yang ditanyakan soal. |
  Jika dia punya lebih banyak apel, dia bisa memberikan beberapa kepada temannya. |
  Jadi kereta tiba sebelum tengah hari.
vi: Đầu tiên chúng ta cộng hai số. | Khoan đã, không đúng, để tôi kiểm tra lại. | Đáp án là hai mươi bốn. |
  Cô ấy bán phần còn lại ở chợ. | Còn lại bao nhiêu quả trứng? | Tôi nghĩ ở đây có lỗi. |
  Bây giờ chúng ta chia cho ba. | Đó là điều bài toán hỏi. |
  Nếu anh ấy có nhiều táo hơn, anh ấy có thể cho bạn mình vài quả. | Vậy tàu đến trước buổi trưa.
sw: Kwanza tunajumlisha namba mbili. | Subiri, hiyo si sahihi, wacha niangalie tena. | Jibu ni ishirini na nne. |
  Anauza zilizobaki sokoni. | Mayai mangapi yamebaki? | Nadhani kuna kosa hapa. | Sasa tunagawanya kwa tatu. |
  Hilo ndilo swali linalouliza. | Kama ana matofaa zaidi, anaweza kumpa rafiki yake machache. |
  Kwa hiyo treni inafika kabla ya saa sita mchana.
ru: Сначала сложим два числа. | Подожди, это неверно, проверю ещё раз. | Ответ двадцать четыре. |
  Остальное она продаёт на рынке. | Сколько яиц осталось? | Я думаю, здесь ошибка. | Теперь делим на три. |
  Именно об этом спрашивает задача. | Если у него больше яблок, он может дать несколько другу. |
  Значит, поезд прибывает до полудня.
uk: Спочатку додамо два числа. | Зачекай, це неправильно, перевірю ще раз. | Відповідь двадцять чотири. |
  Решту вона продає на ринку. | Скільки яєць залишилося? | Я думаю, тут помилка. | Тепер ділимо на три. |
  Саме про це питає задача. | Якщо в нього більше яблук, він може дати кілька другові. |
  Отже, потяг прибуває до полудня.
bg: Първо събираме двете числа. | Чакай, това не е вярно, ще проверя отново. | Отговорът е двадесет и четири. |
  Тя продава останалото на пазара. | Колко яйца остават? | Мисля, че тук има грешка. | Сега делим на три. |
  Точно това пита задачата. | Ако има повече ябълки, може да даде няколко на приятеля си. |
  Значи влакът пристига преди обяд.
ar: أولا نجمع العددين. | انتظر، هذا غير صحيح، سأتحقق مرة أخرى. | الجواب هو أربعة وعشرون. | تبيع الباقي في السوق. |
  كم بيضة بقيت؟ | أعتقد أن هناك خطأ هنا. | الآن نقسم على ثلاثة. | هذا ما تطلبه المسألة. |
  إذا كان لديه تفاح أكثر فيمكنه أن يعطي صديقه بعضا منه. | إذن يصل القطار قبل الظهر.
fa: اول دو عدد را جمع می‌کنیم. | صبر کن، این درست نیست، دوباره بررسی می‌کنم. | جواب بیست و چهار است. |
  او بقیه را در بازار می‌فروشد. | چند تخم مرغ باقی مانده است؟ | فکر می‌کنم اینجا اشتباهی هست. |
  حالا بر سه تقسیم می‌کنیم. | این همان چیزی است که مسئله می‌خواهد. |
  اگر سیب بیشتری دارد می‌تواند چند تا به دوستش بدهد. | پس قطار قبل از ظهر می‌رسد.
ur: پہلے ہم دونوں اعداد جمع کرتے ہیں۔ | رکو، یہ درست نہیں ہے، میں دوبارہ دیکھتا ہوں۔ | جواب چوبیس ہے۔ |
  وہ باقی بازار میں بیچ دیتی ہے۔ | کتنے انڈے باقی ہیں؟ | میرا خیال ہے کہ یہاں غلطی ہے۔ | اب ہم تین سے تقسیم کرتے ہیں۔ |
  سوال یہی پوچھ رہا ہے۔ | اگر اس کے پاس زیادہ سیب ہیں تو وہ اپنے دوست کو کچھ دے سکتا ہے۔ |
  تو ٹرین دوپہر سے پہلے پہنچتی ہے۔
hi: पहले हम दोनों संख्याओं को जोड़ते हैं। | रुको, यह सही नहीं है, मैं फिर से देखता हूँ। | उत्तर चौबीस है। |
  वह बाकी बाज़ार में बेचती है। | कितने अंडे बचे हैं? | मुझे लगता है कि यहाँ गलती है। | अब हम तीन से भाग देते हैं। |
  प्रश्न यही पूछ रहा है। | अगर उसके पास अधिक सेब हैं तो वह अपने दोस्त को कुछ दे सकता है। |
  तो रेलगाड़ी दोपहर से पहले पहुँचती है।
mr: प्रथम आपण दोन संख्यांची बेरीज करतो. | थांब, हे बरोबर नाही, मी पुन्हा तपासतो. | उत्तर चोवीस आहे. |
  ती उरलेली बाजारात विकते. | किती अंडी उरली आहेत? | मला वाटते इथे चूक आहे. | आता आपण तीनने भागतो. |
  प्रश्न हेच विचारतो आहे. | जर त्याच्याकडे जास्त सफरचंदे असतील तर तो मित्राला काही देऊ शकतो. |
  म्हणून गाडी दुपारच्या आधी पोहोचते.
"""
"""Ten sentences of reasoning in languages that share a script, by us: `language: sentence | sentence ...`."""

MIXES = (("en", "zh"), ("en", "ja"), ("zh", "ja"), ("en", "fr"), ("en", "sw"), ("fr", "sw"))
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
SENTENCES_PER_TEXT = 20
SENTENCE_END = re.compile(r"(?<=[.?!])\s+|(?<=[。？！])")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the public files")
    parser.add_argument("--texts", type=int, default=100, help="mixed texts per pair, share and direction")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    prompt_language("Un exemple pour charger le modèle de langue.")  # loading is not timed
    sets = list(labelled(args.data))
    if not sets:
        print(f"no public files in {args.data}; give their folder with --data")
    prompts_and_consistency(sets)
    own_sentences()
    mixed({language: texts for name, language, texts in sets if name == f"mgsm_{language}"}, args.texts, args.seed)
    timing()


def labelled(data: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Name, language and texts of the public files that are there."""
    for language in ("en", "zh", "fr", "ja", "sw"):
        if lines := read(data / "math_bench" / f"mgsm_{language}.tsv"):
            yield f"mgsm_{language}", language, [line.split("\t")[0] for line in lines]
    fields: dict[str, tuple[str, str, Callable[[Any], str]]] = {
        "cmath": ("zh", "math_bench/cmath_dev_zh.jsonl", lambda row: row["input"]),
        "dpo_zh prompts": ("zh", "pref_safety/dpo_zh_500.jsonl", lambda row: row["conversations"][-1]["value"]),
        "dpo_zh responses": ("zh", "pref_safety/dpo_zh_500.jsonl", lambda row: row["chosen"]),
        "gsm8k questions": ("en", "math_bench/gsm8k_test.jsonl", lambda row: row["question"]),
        "gsm8k solutions": ("en", "math_bench/gsm8k_test.jsonl", lambda row: row["answer"]),
        "MATH-500 problems": ("en", "math_bench/math500.jsonl", lambda row: row["problem"]),
        "MATH-500 solutions": ("en", "math_bench/math500.jsonl", lambda row: row["solution"]),
        "arena_hard": ("en", "arena_hard/v0.1_question.jsonl", lambda row: row["turns"][0]["content"]),
        "R1's thoughts": (
            "en",
            "cot_traces/star1_r1_safety_1000.jsonl",
            lambda row: row["response"].split("</think>")[0].partition("<think>")[2],
        ),
    }
    for name, (language, file, text) in fields.items():
        if lines := read(data / file):
            yield name, language, [text(json.loads(line)) for line in lines]
    if lines := read(data / "pref_safety" / "xstest_prompts.csv"):
        yield "xstest", "en", [row["prompt"] for row in csv.DictReader(lines)]
    if lines := read(data / "alpaca_eval" / "model_outputs_gpt4_1106_preview.json"):
        yield "alpaca_eval", "en", [row["instruction"] for row in json.loads("\n".join(lines))]


def read(path: Path) -> list[str]:
    """Lines of a file; none where it is absent."""
    return [line for line in path.read_text().split("\n") if line] if path.exists() else []


def prompts_and_consistency(sets: list[tuple[str, str, list[str]]]) -> None:
    print("| text | language | texts | named right | named instead | consistency, mean | below 0.97 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, language, texts in sets:
        named = Counter(prompt_language(text) for text in texts)
        shares = [part for text in texts if (part := language_consistency(text, language)) is not None]
        others = " ".join(f"{other} {count}" for other, count in named.most_common() if other != language)
        print(
            f"| {name} | {language} | {len(texts)} | {named[language] / len(texts):.1%} | {others or '-'} "
            f"| {statistics.fmean(shares):.4f} | {statistics.fmean(part < 0.97 for part in shares):.1%} |"
        )


def own_sentences() -> None:
    """One sentence at a time: named right, kept in its own language, and kept in another of the same script."""
    by_language = {}
    for entry in re.split(r"\n(?=\w\w:)", SENTENCES.strip()):
        language, _, sentences = entry.partition(":")
        by_language[language] = [" ".join(sentence.split()) for sentence in sentences.split("|")]
    print("\n| language | named right, as prompts | in its own language | in others of its script |")
    print("| --- | --- | --- | --- |")
    for language, sentences in by_language.items():
        neighbours = [other for other in by_language if other != language and SCRIPT[other] == SCRIPT[language]]
        right = sum(prompt_language(sentence) == language for sentence in sentences)
        kept = statistics.fmean(share(sentence, language) for sentence in sentences)
        wrong = statistics.fmean(share(sentence, other) for sentence in sentences for other in neighbours)
        print(f"| {language} | {right} of {len(sentences)} | {kept:.2f} | {wrong:.3f} |")


def share(text: str, target: str) -> float:
    return language_consistency(text, target) or 0.0


def mixed(texts: dict[str, list[str]], count: int, seed: int) -> None:
    """Texts of shuffled sentences of two languages; the truth is the share of words by the sentences' labels."""
    pools = {
        language: [sentence.strip() for text in of for sentence in SENTENCE_END.split(text) if words(sentence) > 2]
        for language, of in texts.items()
    }
    columns = " | ".join(f"{part:.0%}" for part in SHARES)
    print(f"\n| sentences of | target | {columns} | mean error | 95% below |")
    print("| --- " * (len(SHARES) + 4) + "|")
    for pair in MIXES:
        if not pools.keys() >= set(pair):
            continue
        for target, other in (pair, pair[::-1]):
            measured, errors = [], []
            for wanted in SHARES:
                found = []
                for index in range(count):
                    rng = random.Random(f"{seed}/{target}/{other}/{wanted}/{index}")
                    text, truth = mix(pools[target], pools[other], wanted, rng)
                    found.append(share(text, target))
                    errors.append(abs(found[-1] - truth))
                measured.append(statistics.fmean(found))
            cells = " | ".join(f"{value:.3f}" for value in measured)
            high = statistics.quantiles(errors, n=20)[-1]
            print(f"| {target} + {other} | {target} | {cells} | {statistics.fmean(errors):.4f} | {high:.4f} |")


def mix(own: list[str], other: list[str], part: float, rng: random.Random) -> tuple[str, float]:
    """A text with about `part` of its sentences from `own`, and the exact share of words from there."""
    count = round(part * SENTENCES_PER_TEXT)
    chosen = [(sentence, True) for sentence in rng.sample(own, count)]
    chosen += [(sentence, False) for sentence in rng.sample(other, SENTENCES_PER_TEXT - count)]
    rng.shuffle(chosen)
    total = sum(words(sentence) for sentence, _ in chosen)
    return " ".join(sentence for sentence, _ in chosen), sum(words(s) for s, is_own in chosen if is_own) / total


def words(text: str) -> int:
    """Words in any language: segmentation does not depend on the target."""
    return count_words(text, "zh")[1]


def timing() -> None:
    """Microseconds of a call, median of 200."""
    thoughts = {
        "English": ("en", ENGLISH_THOUGHT),
        "Chinese": ("zh", CHINESE_THOUGHT),
        "the demo's": ("zh", "8*3=24\n24-1=23 no\n24/1=24不对\n8-3=5\n5*1=5 wrong\n" * 6),
        "French": ("fr", FRENCH_THOUGHT),
    }
    print("\n| thought | characters | words | language_consistency, µs | prompt_language, µs |")
    print("| --- | --- | --- | --- | --- |")
    for name, (target, text) in thoughts.items():
        consistency = median_us(lambda text=text, target=target: language_consistency(text, target))
        prompt = median_us(lambda text=text: prompt_language.__wrapped__(text))
        print(f"| {name} | {len(text)} | {words(text)} | {consistency:.0f} | {prompt:.0f} |")


def median_us(call: Callable[[], object]) -> float:
    times = []
    for _ in range(200):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


ENGLISH_THOUGHT = (
    "Okay, so I need to find out how many eggs Janet sells. She has 16 eggs per day and eats three for breakfast. "
    "16 - 3 = 13. Wait, she also bakes muffins with four of them, so 13 - 4 = 9 remain. Each egg costs $2, so she "
    "makes 9 * 2 = 18 dollars. Let me check that again: 16 - 3 - 4 = 9, and 9 * 2 = 18. That seems right, so it is "
    "\\boxed{18}."
)
CHINESE_THOUGHT = (
    "好的，我需要算出珍妮特卖多少颗蛋。她每天有16颗蛋，早餐吃3颗，16-3=13。等等，她还用四颗做松饼，所以剩下13-4=9颗。"
    "每颗蛋卖2美元，所以她赚9*2=18美元。让我再检查一遍：16-3-4=9，9*2=18。看来没错，答案是\\boxed{18}。"
)
FRENCH_THOUGHT = (
    "Bon, je dois trouver combien d'œufs Janet vend. Elle a 16 œufs par jour et en mange trois au petit déjeuner. "
    "16 - 3 = 13. Attends, elle prépare aussi des muffins avec quatre œufs, donc il en reste 13 - 4 = 9. Chaque œuf "
    "coûte 2 $, elle gagne donc 9 * 2 = 18 dollars. Je vérifie encore une fois : la réponse est \\boxed{18}."
)


if __name__ == "__main__":
    main()
