"""Units after a number: which words are units, and how two of them compare.

A unit that only one side names is ignored. Units of one dimension convert (1 m = 100 cm); units of different dimensions
differ. Words that are no unit of measure (`apples`, `ways`) say what is counted and are ignored.
"""

from __future__ import annotations

from fractions import Fraction

TABLE: dict[str, tuple[str, str]] = {
    # names: dimension, size in the dimension's first unit
    "m meter metre": ("length", "1"), "cm centimeter centimetre": ("length", "1/100"),
    "mm millimeter millimetre": ("length", "1/1000"),
    "dm decimeter decimetre": ("length", "1/10"), "km kilometer kilometre": ("length", "1000"),
    "nm nanometer": ("length", "1/1000000000"),
    "in inch inche": ("length", "0.0254"), "ft foot feet": ("length", "0.3048"), "yd yard": ("length", "0.9144"),
    "mi mile": ("length", "1609.344"),
    "s sec second": ("time", "1"), "min minute": ("time", "60"), "h hr hour": ("time", "3600"), "day": ("time",
    "86400"),
    "week": ("time", "604800"), "ms millisecond": ("time", "1/1000"), "month": ("month", "1"), "year yr": ("month",
    "12"),
    "g gram": ("mass", "1"), "kg kilogram": ("mass", "1000"), "mg milligram": ("mass", "1/1000"),
    "lb pound": ("mass", "453.59237"),
    "oz ounce": ("mass", "28.349523125"), "t ton tonne": ("ton", "1"),
    "l liter litre": ("volume", "1/1000"), "ml milliliter millilitre": ("volume", "1/1000000"),
    "gallon gal": ("gallon", "1"),
    "quart": ("gallon", "1/4"), "pint": ("gallon", "1/8"), "cup": ("gallon", "1/16"),
    "dollar usd buck": ("dollar", "1"), "cent penny penn": ("dollar", "1/100"), "euro eur": ("euro", "1"),
    "£ gbp": ("sterling", "1"),
    "yuan rmb cny": ("yuan", "1"), "jiao": ("yuan", "1/10"), "fen": ("yuan", "1/100"), "rupee": ("rupee", "1"),
    "yen": ("yen", "1"),
    "degree deg": ("angle", "1"), "celsius": ("celsius", "1"), "fahrenheit": ("fahrenheit", "1"),
    "radian rad": ("radian", "1"),
    "n newton": ("newton", "1"), "j joule": ("joule", "1"), "kj kilojoule": ("joule", "1000"), "w watt": ("watt",
    "1"), "kw kilowatt": ("watt", "1000"),
    "v volt": ("volt", "1"), "ohm": ("ohm", "1"), "hz hertz": ("hertz", "1"), "pa pascal": ("pascal", "1"),
    "kpa": ("pascal", "1000"),
    "ev": ("ev", "1"), "kev": ("ev", "1000"), "mev": ("ev", "1000000"), "mol mole": ("mole", "1"),
    "k kelvin": ("kelvin", "1"),
}  # fmt: skip
UNITS: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(size)) for names, (dimension, size) in TABLE.items() for name in names.split()
}
SPEEDS = {
    "mph": ("mile", "hour"),
    "kph": ("kilometer", "hour"),
    "kmh": ("kilometer", "hour"),
    "fps": ("foot", "second"),
}
POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3, "cu": 3}
COUNTED = {
    "unit",
    "unit's",
    "way",
    "point",
    "time",
    "piece",
    "people",
    "percent",
    "pct",
    "percentage",
    "men",
    "man",
    "boy",
    "girl",
    "kid",
    "page",
    "coin",
}
VOLUMES = {"volume": ("length", 3)}
Measure = tuple[tuple[tuple[str, int], ...], Fraction]


def is_unit(word: str) -> bool:
    """Whether `word`, in the singular or the plural, is a unit of measure or a usual word for what is counted."""
    return _singular(word) in UNITS or word.lower() in SPEEDS or word.lower() in POWERS or _singular(word) in COUNTED


def measure(words: tuple[str, ...]) -> Measure | None:
    """Dimensions with their exponents, and the size in basic units: ("square", "cm") is ((("length", 2),), 1/10000).

    `words` may hold "/" or "per", and "^2" after a unit. None when no word is a unit of measure.
    """
    dimensions: dict[str, int] = {}
    size = Fraction(1)
    sign, prefix = 1, 1
    words = tuple(
        part for word in words for part in ((SPEEDS[word][0], "/", SPEEDS[word][1]) if word in SPEEDS else (word,))
    )
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if word in ("/", "per"):
            sign = -1
        elif word.lower() in POWERS and word not in ("squared", "cubed"):
            prefix = POWERS[word.lower()]
        elif (entry := UNITS.get(_singular(word))) is not None:
            dimension, factor = entry
            power = prefix * POWERS.get(following, 1)
            if following.startswith("^") and following[1:].lstrip("-").isdigit():
                power *= max(-9, min(9, int(following[1:])))
            dimension, scale = VOLUMES.get(dimension, (dimension, 1))
            dimensions[dimension] = dimensions.get(dimension, 0) + sign * power * scale
            size *= factor ** (sign * power)
            prefix = 1
    if dimensions.keys() & {"celsius", "fahrenheit"}:
        dimensions.pop("angle", None)
    kept = tuple(sorted((dimension, power) for dimension, power in dimensions.items() if power))
    return (kept, size) if kept else None


def _singular(word: str) -> str:
    if len(word) == 1:
        return word.lower() if word in "mghstlLNJWVK£" else ""  # n is a number, N are newtons
    word = word.lower().rstrip(".")
    if word.endswith("es") and word[:-1] not in UNITS and word[:-2] in UNITS:
        return word[:-2]
    return word[:-1] if len(word) > 2 and word.endswith("s") and word[:-1] in UNITS | dict.fromkeys(COUNTED) else word
