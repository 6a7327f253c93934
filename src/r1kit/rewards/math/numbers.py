"""Arithmetic of bounded cost: exact fractions where possible, else 60 digits, an error before numbers get large."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from mpmath.ctx_mp import MPContext

from r1kit.rewards.math.tree import Decimal

MAX_BITS = 65_536
"""Exact numbers stay below 2^65536 (19,728 digits)."""
MP = MPContext()
"""A context of our own: the caller's mpmath keeps its precision. One thread at a time, as mpmath changes it."""
MP.dps = 60
TOLERANCE = MP.mpf(10) ** -30
Number = Any
"""Fraction where exact; mpf or mpc where not."""
ZERO, ONE = Fraction(0), Fraction(1)


class TooLargeError(ValueError):
    """A number on the way is too large to compute."""


class UndefinedError(ValueError):
    """There is no value: a division by zero, the logarithm of zero, a part that is no number."""


def close(a: Number, b: Number) -> bool:
    """Equal: exactly when both are exact, else to 30 digits."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    left, right = real(a), real(b)
    if not (MP.isfinite(left) and MP.isfinite(right)):
        return bool(left == right)
    distance = abs(left - right)
    if a == 0 or b == 0:
        return bool(distance < MP.mpf(10) ** -45)
    return bool(distance <= TOLERANCE * max(abs(left), abs(right)))


def real(number: Number) -> Number:
    """For functions that take floating-point numbers only."""
    return MP.mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number


def limited(number: Number) -> Number:
    if isinstance(number, Fraction) and max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise TooLargeError("a number of more than 19,728 digits")
    if not isinstance(number, Fraction) and MP.isnan(number):
        raise UndefinedError("no value")
    return number


def small(number: Number) -> Number:
    number = real(number)
    if not MP.isfinite(number):
        raise UndefinedError("infinity inside a function")
    if abs(number) > MP.mpf(10) ** 20:
        raise TooLargeError("an angle above 1e20")
    return number


def _finite(number: Number) -> Number:
    number = real(number)
    if not MP.isfinite(number):
        raise UndefinedError("infinity inside a function")
    return number


def plus(a: Number, b: Number) -> Number:
    return a + b if isinstance(a, Fraction) and isinstance(b, Fraction) else real(a) + real(b)


def times(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a * b
    return ZERO if a == 0 and MP.isfinite(b) or b == 0 and MP.isfinite(a) else real(a) * real(b)


def inverse(number: Number) -> Number:
    if number == 0 or (not isinstance(number, Fraction) and abs(number) < MP.mpf(10) ** -50):
        raise UndefinedError("a division by zero")
    return 1 / number


def power(base: Number, exponent: Number) -> Number:
    """base^exponent; the real root of a negative base where the exponent is a fraction with an odd denominator."""
    if isinstance(exponent, Fraction) and isinstance(base, Fraction):
        if exponent.denominator == 1:
            size = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
            if size and abs(exponent) * size > MAX_BITS:
                raise TooLargeError("a power of more than 19,728 digits")
            if base == 0 and exponent < 0:
                raise UndefinedError("a division by zero")
            # Powers of 0, 1 and -1 depend on 0, even and odd only; their exponents may be huge.
            return base ** (int(exponent) if size else 2 - int(exponent) % 2 if exponent else 0)
        if base == 0:
            if exponent < 0:
                raise UndefinedError("a division by zero")
            return ZERO
        if base < 0 and exponent.denominator % 2:
            return (-1 if exponent.numerator % 2 else 1) * power(-base, exponent)
        exact = _exact_root(base, exponent)
        if exact is not None:
            return exact
    left, right = real(base), real(exponent)
    if not MP.isfinite(left) or not MP.isfinite(right):
        raise UndefinedError("a power with infinity")
    if left == 0:
        if MP.re(right) <= 0:
            raise UndefinedError("a power of zero")
        return ZERO
    if abs(right) * (abs(MP.log(abs(left))) + 4) > 10**9:
        raise TooLargeError("a power above e^1e9")
    return left**right


def _exact_root(base: Fraction, exponent: Fraction) -> Fraction | None:
    """8^(2/3) is exactly 4."""
    if (
        base < 0
        or exponent.denominator > 64
        or abs(exponent) > 64
        or base.numerator.bit_length() > 4096
        or base.denominator.bit_length() > 4096
    ):
        return None
    parts = []
    for part in (base.numerator, base.denominator):
        root = int(MP.nint(MP.root(MP.mpf(part), exponent.denominator))) if part.bit_length() < 150 else -1
        if root < 0 or root**exponent.denominator != part:
            return None
        parts.append(root)
    return Fraction(parts[0], parts[1]) ** exponent.numerator


def call(name: str, values: list[Number], reading: str) -> Number:
    first = values[0]
    match name:
        case "root" | "sqrt":
            return power(first, inverse(values[1]) if len(values) > 1 else Fraction(1, 2))
        case "cbrt":
            return power(first, Fraction(1, 3))
        case "abs":
            return abs(first)
        case "factorial" | "factorial2":
            return _factorial(first, step=1 if name == "factorial" else 2)
        case "binom":
            return _binomial(first, values[1])
        case "floor" | "ceil":
            number = small(first)
            nearest = MP.nint(number)
            if abs(number - nearest) < MP.mpf(10) ** -40:
                return Fraction(int(nearest))
            return Fraction(int(MP.floor(number) if name == "floor" else MP.ceil(number)))
        case "log" | "ln":
            if first == 0:
                raise UndefinedError("the logarithm of zero")
            if len(values) > 1:
                if values[1] in (0, 1):
                    raise UndefinedError("a logarithm to base 0 or 1")
                return MP.log(_finite(first)) / MP.log(_finite(values[1]))
            scale = MP.log(10) if name == "log" and "log10" in reading else 1
            return MP.log(_finite(first)) / scale
        case "exp":
            return power(+MP.e, first)
        case "sgn":
            return Fraction((first > 0) - (first < 0))
    function = _FUNCTIONS.get(name)
    if function is None:
        raise UndefinedError(f"{name} is not computed")
    return limited(function(small(first)))


_FUNCTIONS = {
    "sin": MP.sin, "cos": MP.cos, "tan": MP.tan, "cot": MP.cot, "sec": MP.sec, "csc": MP.csc, "arcsin": MP.asin,
    "arccos": MP.acos, "arctan": MP.atan, "arccot": MP.acot, "arcsec": MP.asec, "arccsc": MP.acsc, "sinh": MP.sinh,
    "cosh": MP.cosh, "tanh": MP.tanh, "coth": MP.coth, "arsinh": MP.asinh, "Re": MP.re, "Im": MP.im, "arg": MP.arg,
}  # fmt: skip


def _factorial(number: Number, *, step: int) -> Number:
    if isinstance(number, Fraction) and number.denominator == 1:
        if number < 0:
            raise UndefinedError("the factorial of a negative number")
        if number > 5000:
            raise TooLargeError("a factorial above 5000")
        product = 1
        for factor in range(int(number), 1, -step):
            product *= factor
        return Fraction(product)
    if step == 2:
        raise UndefinedError("a double factorial of no integer")
    return MP.gamma(small(number) + 1)


def _binomial(n: Number, k: Number) -> Number:
    if (
        isinstance(n, Fraction)
        and isinstance(k, Fraction)
        and n.denominator == k.denominator == 1
        and n >= 0
        and k >= 0
    ):
        if k > n:
            return ZERO
        if n > 20_000:
            raise TooLargeError("a binomial coefficient above 20000")
        return Fraction(math.comb(int(n), int(k)))
    return MP.binomial(small(n), small(k))


def rounds_to(exact: Number, written: Decimal) -> bool:
    """Whether a decimal of eight digits or more is `exact`, rounded to the digits that are written.

    0.33333333 is a third that somebody computed; 0.333 is not one third.
    """
    significant = len(str(abs(written.numerator * 10**written.places // written.denominator)))
    if isinstance(exact, MP.mpc) or significant < 8 or written.places < 4:
        return False
    if isinstance(exact, Fraction) and 10 ** (written.places + 20) % exact.denominator == 0:
        return significant >= 15 and abs(exact - written) <= abs(exact) * Fraction(1, 10**14)  # 0.30000000000000004
    return bool(abs(real(exact) - real(written)) * MP.mpf(10) ** written.places <= 1)
