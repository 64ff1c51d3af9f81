"""Cleaning: each rule is broken by a document made for it."""

from __future__ import annotations

import pytest

from tokenry.text.cabrita.filters import STOP_WORDS, Rules, broken_rules, clean, repair_encoding
from tokenry.tokens.errors import InputError

GOOD = "\n".join(["Os documentos de teste dizem pouco, mas uma frase assim passa por todas as regras."] * 6)


def _words(count: int) -> str:
    return " ".join(["palavra de exemplo com"] * (count // 4 + 1))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("De um lado para o outro.", "words"),
        ("", "words"),
        (" ".join(["a de"] * 60), "word_length"),
        (" ".join(["de uma inconstitucionalissimamente longuíssima"] * 30), "word_length"),
        (GOOD + " ###" * 4, "symbols"),
        (GOOD + " e isto ..." * 20, "symbols"),
        ("\n".join(["- um item de lista com palavras"] * 19 + ["não é um item"]), "bullets"),
        ("\n".join(["uma frase que não acaba de dizer o que tem para dizer…", "outra que acaba em ponto."] * 9),
         "ellipses"),
        (GOOD + " 12345" * 25, "letters"),
        (" ".join(["gato cachorro pássaro peixe"] * 20), "different_stop_words"),
    ],
)  # fmt: skip
def test_each_rule_is_broken_by_its_document(text: str, rule: str) -> None:
    assert broken_rules(text) == (rule,)


def test_a_good_document_breaks_none() -> None:
    assert broken_rules(GOOD) == ()
    assert broken_rules("\n".join([GOOD] * 2), Rules(words=(5, 100))) == ("words",)
    assert broken_rules(GOOD, Rules(stop_words=STOP_WORDS["en"])) == ("different_stop_words",)


def test_different_tokens_are_counted_with_a_tokenizer() -> None:
    def tokenizer(text: str, **options: object) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}

    assert broken_rules(GOOD, tokenizer=tokenizer) == ("different_tokens",)
    assert broken_rules(GOOD, Rules(different_tokens=5), tokenizer=tokenizer) == ()


@pytest.mark.parametrize(
    ("broken", "repaired"),
    [
        ("informaÃ§Ã£o", "informação"),
        ("â€œaspasâ€\x9d e â€¦", "“aspas” e …"),
        ("Ã\xa0 tarde", "à tarde"),
        ("NÃO É Âmbar, çã", "NÃO É Âmbar, çã"),
        ("a\x00b\x1bc\td\ne", "abc\td\ne"),
    ],
)
def test_encodings_are_repaired(broken: str, repaired: str) -> None:
    assert repair_encoding(broken) == repaired


def test_cleaning_keeps_order_and_counts_why() -> None:
    cleaned = clean([GOOD, "curto", GOOD.replace("documentos", "informaÃ§Ãµes"), "12 34"])
    assert cleaned.kept == (GOOD, GOOD.replace("documentos", "informações"))
    assert cleaned.broken["words"] == 2
    with pytest.raises(InputError, match=r"No document is left after cleaning.*'words': 1"):
        clean(["curto"])
