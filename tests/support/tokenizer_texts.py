"""Texts on which tokenizers part: scripts, digits, code, white space, signs, control characters, special tokens, and mixtures."""

import random

WORDS = [
    *(
        "Hello",
        " The",
        "THE",
        "don't",
        "I'll",
        "we've",
        "you're",
        "she'd",
        "it's",
        "I'm",
        "DON'T",
        "it’s",
        "'tis",
        "O'Neill",
    ),
    *("naïve", "café", "cafe\u0301", "Ångström", "straße", "İstanbul", "ﬁne", "snake_case", "camelCase", "x2", "H2O"),
]
NUMBERS = [
    *("0", "7", "42", "1234567890", "3.14", "-17", "1,000,000", "2026-11-30", "12:45:07", "0x1F", "1e-5", "€5", "5%"),
    *("²", "½", "Ⅷ", "①", "1️⃣", "٣٤", "१२", "一二三", "𝟘𝟙"),
]
SPACES = [
    *(" ", "  ", "   ", "     ", "\t", "\t\t", " \t ", "\n", "\n\n", "\n\n\n", "\r\n", "\n  ", "\n    ", "\n\t", " \n"),
    *("\u00a0", "\u2009", "\u3000", "\u200b", "\u2028", "\x0b", "\x0c", "\x85"),
]
CODE = [
    *(
        "def f(x):\n    return x ** 2\n",
        "for (int i = 0; i < 10; ++i) {\n\ta[i] = 0;\n}",
        "p->next",
        "# note",
        "/* c */",
    ),
    *(
        '"q"',
        "`code`",
        '<div class="a">',
        "&amp;",
        "$HOME",
        "C:\\dir",
        "a && b || !c",
        "[[1, 2], [3, 4]]",
        "{{x}}",
        "λx.x",
    ),
]
SIGNS = [".", ",", "...", "?!", "()", "--", "—", "…", "“q”", "¿", "§", "\\n", "_", "~", "^", "!" * 17, "=" * 40]
SCRIPTS = [
    *("日本語", "中文字", "한국어", "こんにちは、世界。", "ไทย", "हिन्दी", "русский", "ελληνικά", "שלום", "مرحبا", "ﷺ"),
    *("தமிழ்", "አማርኛ", "𝔘", "𐍈"),
]
EMOJI = ["🙂", "👍🏽", "👨‍👩‍👧‍👦", "🇩🇪", "❤️"]
RARE = [
    *("\U000f0000", "\U00100000", "\ufffd", "\ufeff", "\u0301", "\u200d", "\u202e", "\x00", "\x04", "\x06", "\x12"),
    *("\x1b", "\x7f"),
]
SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<|im_start|>user\nHi 5<|im_end|>\n"),
    *("<|unknown|>", "<|im_end|", " <|im_end|> "),
]
KINDS = (WORDS, NUMBERS, SPACES, CODE, SIGNS, SCRIPTS, EMOJI, RARE, SPECIAL)


def texts(mixtures: int = 300, seed: int = 0) -> list[str]:
    """Every piece alone, twice, before and behind a digit and a word; then rows of up to twelve pieces of all kinds."""
    pieces = [piece for kind in KINDS for piece in kind]
    beside = [made for one in pieces for made in (one, one + one, f"{one}7", f"7{one}", f"{one}word", f"word{one}")]
    dice = random.Random(seed)
    mixed = ["".join(dice.choice(dice.choice(KINDS)) for _ in range(dice.randint(2, 12))) for _ in range(mixtures)]
    return [*beside, *mixed]
