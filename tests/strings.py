"""Texts that break tokenizers: `varied(n, seed)` gives n of them, for a seed always the same ones."""

from random import Random

# Words between white space, by kind.
ENGLISH = """the of and a to in it's don't we'll they've I'm you're he'd o'clock rock'n'roll unbelievable tokenization
antidisestablishmentarianism internationalization Johnson New York running quickly misunderstood re-entered HELLO World
state-of-the-art iPhone McDonald's naïve café résumé Ångström coöperate façade jalapeño über straße 'S 'LL can''t"""
NUMBERS = """0 7 42 1,234.56 3.14159 1e-5 0x1F 2024-02-29 12:30 50% $9.99 €1.000,00 #1 ½ ¾ ² ³ Ⅷ ① ٣٤ ४५ 一二三 ৳৫ 𝟙𝟚"""
CODE = r"""x=y==z return(x**2) if(a&&b||!c){i++;} <p>&nbsp;</p> a_b.c->d[0] \frac{1}{2} https://example.org/a?b=c&d=%20#e
me@example.org C:\Users\x `code` {"k":[1,null]} ~/.bashrc #!/bin/sh /*no*/ $HOME ^_^"""
SPECIAL = """[CLS] [SEP] [PAD] [MASK] [UNK] [unused5] [SEP [cls] ##ing ## <|endoftext|> <|endoftext|><|endoftext|>
|endoftext|> <s> </s> <pad> Ġ Ċ Ã©"""
EMOJI = "😀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 🇫 1️⃣ ❤️ ☺ ✈︎ 🧑🏿‍🚀 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ©️ 🫠"
CASES = "İ I ı i̇ ß ẞ Σ ΣΑΣ ὈΔΥΣΣΕΎΣ ς Ǆ ǅ ﬁ ﬀ K Å Å ŉ ΐ Ω Ω ǰ ẖ Ⴀ Ა Ꭰ ꭰ 𐐀 Ａ ⓐ"

# Single characters, by kind.
SPACES = "\t\n\r \x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
CONTROLS = "".join(map(chr, (*range(32), *range(127, 160))))
CONTROLS += "\xad\u034f\u061c\u200b\u200c\u200d\u200e\u202e\u2060\u2066\ufeff\ufff9\ufffd\ufffe\ue000"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡§«¶·»¿‐–—‘’“”…‰′※‽⁂、。「」・！？｡｢٪؟،।၊᙭⸺⹃״׳"

# First and last code points, in hexadecimal, of letters script by script, and of marks.
SCRIPTS = """61-7A 41-5A C0-FF 100-24F 370-3FF 400-4FF 531-586 5D0-5EA 620-64A 904-94D 985-9CD B85-BCD E01-E4E E81-ECD
F40-F84 1000-104F 10A0-10FF 1200-137C 13A0-13FF 1780-17DD 1820-18AA 1E00-1EFF 1F00-1FFF 2C00-2C5F 3041-3096 30A1-30FF
3400-34FF 4E00-9FFF A000-A48C AC00-D7A3 1100-11FF F900-FAFF FB00-FDFF FF00-FFEF 10400-1044F 1D400-1D7FF 20000-20100
2B740-2B93F 1E900-1E95F"""
MARKS = "300-36F 483-489 591-5BD 64B-65F 1AB0-1ACE 1DC0-1DFF 20D0-20F0 302A-302F FE00-FE0F FE20-FE2F"


def varied(n: int, seed: int = 0) -> list[str]:
    """n texts of up to 12 parts: words of many scripts, emoji, controls, white space, code, what spells tokens."""
    random = Random(seed)
    scripts, marks = ([[int(end, 16) for end in ends.split("-")] for ends in kind.split()] for kind in (SCRIPTS, MARKS))

    def some(characters, most):
        return "".join(random.choices(characters, k=random.randint(1, most)))

    def word():
        script = random.choice(scripts)
        return "".join(chr(random.randint(*script)) for _ in range(random.randint(1, 9)))

    def marked():
        return some("aeoCnyа가e\u0301", 2) + "".join(
            chr(random.randint(*random.choice(marks))) for _ in range(random.randint(0, 4))
        )

    def anything():
        """Any code point but a surrogate, between letters or alone."""
        code = random.randrange(0x110000 - 0x800) if random.random() < 0.5 else random.randrange(0x3000)
        return random.choice(("", "a")) + chr(code + 0x800 * (code >= 0xD800)) + random.choice(("", "b"))

    def long_word():
        once = random.choice("ab") * random.choice((60, 99, 100, 101, 300))
        return random.choice((once, some("abcdefghij", 250)))

    def one_of(words):
        return lambda: random.choice(words)

    def several(characters, most):
        return lambda: some(characters, most)

    parts = [one_of(kind.split()) for kind in (ENGLISH, ENGLISH, ENGLISH, NUMBERS, CODE, SPECIAL, EMOJI, CASES)]
    parts += [several(SPACES, 6), several(CONTROLS, 3), several(PUNCTUATION, 4), several(" ", 9)]
    parts += [word, word, word, marked, marked, anything, anything]

    def text():
        between = random.choice((["", " "], [" "], [""], [" ", " ", "\n"]))
        chosen = [long_word if random.random() < 0.01 else random.choice(parts) for _ in range(random.randint(0, 12))]
        return "".join(part() + random.choice(between) for part in chosen)

    return [text() for _ in range(n)]
