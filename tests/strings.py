"""Texts that break tokenizers: `varied(n, seed)` gives n of them, always the same ones for a seed."""

from random import Random

ENGLISH = """the of and a to in it's don't we'll they've I'm you're he'd o'clock rock'n'roll unbelievable tokenization
antidisestablishmentarianism internationalization Johnson New York running quickly misunderstood re-entered state-of-the-art
HELLO World iPhone McDonald's naïve café résumé Ångström coöperate façade jalapeño über straße 'S 'LL can''t""".split()
NUMBERS = """0 7 42 1,234.56 3.14159 1e-5 0x1F 2024-02-29 12:30 50% $9.99 €1.000,00 #1 ½ ¾ ² ³ Ⅷ ① ٣٤ ४५ 一二三 ৳৫ 𝟙𝟚""".split()
CODE = ["def f(x):\n\treturn x**2  # squared", "if (a&&b||!c) { i++; }", "<p class=\"x\">&nbsp;</p>", "a_b.c->d[0]", "\\frac{1}{2}",
        "https://example.org/a?b=c&d=%20#e", "me@example.org", "C:\\Users\\x", "x=y==z", "`code`", "{\"k\": [1, null]}", "~/.bashrc"]  # fmt: skip
SPECIAL = """[CLS] [SEP] [PAD] [MASK] [UNK] [unused5] ##ing ## <|endoftext|> <|endoftext|><|endoftext|> <s> </s> <pad> Ġ Ċ Ã© [SEP
|endoftext|> [cls]""".split()
EMOJI = "😀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 🇫 1️⃣ ❤️ ☺ ✈︎ 🧑🏿‍🚀 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ©️ 🫠".split()
CASES = "İ I ı i̇ ß ẞ Σ ΣΑΣ ὈΔΥΣΣΕΎΣ ς Ǆ ǅ ﬁ ﬀ K Å Å ŉ ΐ Ω Ω ǰ ẖ Ⴀ Ა Ꭰ ꭰ 𐐀 Ａ ⓐ".split()
SPACES = "\t\n\r \x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
CONTROLS = "".join(map(chr, (*range(32), *range(127, 160)))) + "\xad\u034f\u061c\u200b\u200c\u200d\u200e\u202e\u2060\u2066\ufeff\ufff9\ufffd\ufffe\ue000"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡§«¶·»¿‐–—‘’“”…‰′※‽⁂、。「」・！？｡｢٪؟،।၊᙭⸺⹃״׳"
# First and last code point of letters to make words of, script by script.
SCRIPTS = [(0x61, 0x7A), (0x41, 0x5A), (0xC0, 0xFF), (0x100, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x586),
           (0x5D0, 0x5EA), (0x620, 0x64A), (0x904, 0x94D), (0x985, 0x9CD), (0xB85, 0xBCD), (0xE01, 0xE4E), (0xE81, 0xECD),
           (0xF40, 0xF84), (0x1000, 0x104F), (0x10A0, 0x10FF), (0x1200, 0x137C), (0x13A0, 0x13FF), (0x1780, 0x17DD),
           (0x1820, 0x18AA), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x2C00, 0x2C5F), (0x3041, 0x3096), (0x30A1, 0x30FF),
           (0x3400, 0x34FF), (0x4E00, 0x9FFF), (0xA000, 0xA48C), (0xAC00, 0xD7A3), (0x1100, 0x11FF), (0xF900, 0xFAFF),
           (0xFB00, 0xFDFF), (0xFF00, 0xFFEF), (0x10400, 0x1044F), (0x1D400, 0x1D7FF), (0x20000, 0x20100),
           (0x2B740, 0x2B93F), (0x1E900, 0x1E95F)]  # fmt: skip
MARKS = [(0x300, 0x36F), (0x483, 0x489), (0x591, 0x5BD), (0x64B, 0x65F), (0x1AB0, 0x1ACE), (0x1DC0, 0x1DFF), (0x20D0, 0x20F0),
         (0x302A, 0x302F), (0xFE00, 0xFE0F), (0xFE20, 0xFE2F)]  # fmt: skip


def varied(n: int, seed: int = 0) -> list[str]:
    """n texts of up to 12 parts: words of many scripts, emoji, controls, white space, code, what spells special tokens."""
    random = Random(seed)

    def one_of(ranges):
        return chr(random.randint(*random.choice(ranges)))

    def some(characters, most):
        return "".join(random.choices(characters, k=random.randint(1, most)))

    def word():
        script = [random.choice(SCRIPTS)]
        return "".join(one_of(script) for _ in range(random.randint(1, 9)))

    def marked():
        return "".join(some("aeoCnyа가e\u0301", 2) + "".join(one_of(MARKS) for _ in range(random.randint(0, 4))) for _ in "123")

    def long_word():
        return some("ab", 1) * random.choice((60, 99, 100, 101, 300)) if random.random() < 0.5 else some("abcdefghij", 250)

    def anything():  # any code point but a surrogate, with letters around or alone
        code = random.randrange(0x110000 - 0x800) if random.random() < 0.5 else random.randrange(0x3000)
        return random.choice(("", "a")) + chr(code + 0x800 * (code >= 0xD800)) + random.choice(("", "b"))

    parts = [lambda items=items: random.choice(items) for items in (ENGLISH, ENGLISH, ENGLISH, NUMBERS, CODE, SPECIAL, EMOJI, CASES)]
    parts += [lambda chars=chars, most=most: some(chars, most) for chars, most in ((SPACES, 6), (CONTROLS, 3), (PUNCTUATION, 4), (" ", 9))]
    parts += [word, word, word, marked, anything, anything]

    def text():
        separators = random.choice((["", " "], [" "], [""], [" ", " ", "\n"]))
        pieces = [long_word() if random.random() < 0.01 else random.choice(parts)() for _ in range(random.randint(0, 12))]
        return "".join(piece + random.choice(separators) for piece in pieces)

    return [text() for _ in range(n)]
