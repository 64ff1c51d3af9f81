"""Wrong calls of the public interface: each is told in a sentence of tokenry's own, none in Python's words."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tokenry as tk
from tests.bench.conftest import make_model
from tests.text.transplant import tiny
from tests.tokens.conftest import unchecked
from tokenry.catalog import cards
from tokenry.catalog.registry import catalogued
from tokenry.data.questions.examples import load_scenes
from tokenry.reduce.divprune import DivPrune

__all__ = ["unchecked"]

SOURCES = Path(tk.__file__).parent
NAMES = "|".join(map(re.escape, sorted({*(card.slug for card in cards()), *catalogued("transplant")})))
BEGINS = re.compile(rf"[^a-z]|({NAMES})\b|\w+(_\w+|=)")
"""A capital, a digit, a quotation mark ...; the name of a system; a name as it is written in code."""
ENDS = re.compile(r"[.?)]$")


# ------------------------------------------------------------------------------------------------- what is written


def own_errors() -> set[str]:
    """Names of the classes below `TokenryError`, wherever they are."""
    bases = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    found = {"TokenryError"}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def ends_of(message: ast.expr) -> tuple[str, str] | None:
    """How a message begins and ends, with "{}" for what is only known later; None for one that is not written here."""
    match message:
        case ast.Constant(value=str(text)):
            return text, text
        case ast.JoinedStr(values=[first, *_] as values):
            texts = [one.value if isinstance(one, ast.Constant) else "{}" for one in (first, values[-1])]
            return texts[0], texts[1].replace("{}", "{}.")
        case ast.BinOp(left=left, right=right):
            sides = [ends_of(side) for side in (left, right)]
            return (sides[0] or ("{}", ""))[0], (sides[1] or ("", "{}."))[1]
    return None


def test_every_message_is_a_sentence() -> None:
    """A placeholder may stand at either end: an error of another library often ends a message.

    What is said of an item goes on from where the item is, and is no sentence by itself.
    """
    classes, wrong = own_errors() - {"ItemError"}, []
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] not in classes:
                continue
            found = ends_of(node.args[0]) if node.args else None
            if found is not None and not (BEGINS.match(found[0]) and ENDS.search(found[1])):
                wrong.append(f"{path.relative_to(SOURCES)}:{node.lineno}: {ast.unparse(node.args[0])}")
    assert not wrong, "\n".join(wrong)


# ------------------------------------------------------------------------------------------------------ what is said


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Any:
    vlm, processor = make_model()
    tokenizer = tiny.byte_level()
    return SimpleNamespace(
        vlm=vlm,
        processor=processor,
        examples=load_scenes("test", 1),
        tokenizer=tokenizer,
        lm=tiny.llama(tokenizer).eval(),
        ids=tokenizer("the cat", return_tensors="pt"),
        bytes=tk.text.ByteVocab.from_tokenizer(tokenizer),
        out=tmp_path_factory.mktemp("out"),
    )


def enter(model: Any, *methods: Any, **settings: Any) -> None:
    with tk.reduced(model, *methods, **settings):
        pass


def compare(g: Any, **changes: Any) -> Any:
    usual = {
        "model": g.vlm, "processor": g.processor, "data": g.examples, "methods": ["divprune"], "budgets": ["50%"],
        "out": g.out,
    }  # fmt: skip
    return tk.compare(**(usual | changes))


WRONG: dict[str, Callable[[Any], object]] = {
    "a method that is a number": lambda g: enter(g.vlm, 3),
    "no method": lambda g: enter(g.vlm, None),
    "an empty list of methods": lambda g: enter(g.vlm, []),
    "a list with a number": lambda g: enter(g.vlm, ["divprune", 3], budget=4),
    "a method's class": lambda g: enter(g.vlm, DivPrune, budget=4),
    "a method that does not exist": lambda g: enter(g.vlm, "fastvlm"),
    "a setting that does not exist": lambda g: enter(g.vlm, "divprune", budget=4, nope=1),
    "a budget in words": lambda g: enter(g.vlm, "divprune", budget="half"),
    "a budget of nothing": lambda g: enter(g.vlm, "divprune", budget=0),
    "no budget": lambda g: enter(g.vlm, "divprune", budget=None),
    "positions that do not exist": lambda g: enter(g.vlm, "divprune", budget=4, positions="left"),
    "no model": lambda g: enter(None, "divprune", budget=4),
    "a model's name": lambda g: enter("embedded", "divprune", budget=4),
    "reducer(3)": lambda g: tk.reducer(3),
    "reducer() with a setting": lambda g: tk.reducer("divprune", budget=3, x=1),
    "Budget.of(nan)": lambda g: tk.Budget.of(float("nan")),
    "Budget.of([])": lambda g: tk.Budget.of([]),
    "Budget.of(object)": lambda g: tk.Budget.of(object()),
    "a token selected twice": lambda g: tk.Reduction.select(torch.tensor([[0, 0]]), 3),
    "check a name": lambda g: tk.check("embedded", {}),
    "check without inputs": lambda g: tk.check(g.vlm, {}),
    "decoder for a name": lambda g: tk.decoder("smollm2"),
    "decoder that does not exist": lambda g: tk.decoder(g.lm, "nope"),
    "decoder that is a number": lambda g: tk.decoder(g.lm, 3),
    "generate from nothing": lambda g: tk.generate(g.lm, None, max_new_tokens=2),
    "generate from text": lambda g: tk.generate(g.lm, "the cat", max_new_tokens=2),
    "generate from floats": lambda g: tk.generate(g.lm, torch.zeros(1, 3), max_new_tokens=2),
    "generate with a number": lambda g: tk.generate(g.lm, g.ids, decoder=3, max_new_tokens=2),
    "compare on nothing": lambda g: compare(g, data=[]),
    "compare on None": lambda g: compare(g, data=None),
    "compare on a name": lambda g: compare(g, data="scenes"),
    "compare on texts": lambda g: compare(g, data=["what is it?"]),
    "compare one method": lambda g: compare(g, methods="divprune"),
    "compare a number": lambda g: compare(g, methods=[3]),
    "compare at one budget": lambda g: compare(g, budgets="50%"),
    "compare without seeds": lambda g: compare(g, seeds=0),
    "compare no questions": lambda g: compare(g, limit=0),
    "compare answers of no tokens": lambda g: compare(g, max_new_tokens=0),
    "compare a model's name": lambda g: compare(g, model="embedded"),
    "compare by a metric that does not exist": lambda g: compare(g, metric="bleu"),
    "tune to more than all": lambda g: tk.tune(g.vlm, g.processor, g.examples, 1.5, out=g.out),
    "tune to a negative loss": lambda g: tk.tune(g.vlm, g.processor, g.examples, max_drop=-1, out=g.out),
    "tune by what does not exist": lambda g: tk.tune(g.vlm, g.processor, g.examples, by="speed", out=g.out),
    "transplant a name": lambda g: tk.transplant("smollm2", g.tokenizer, g.tokenizer, "retok"),
    "transplant to a number": lambda g: tk.transplant(g.lm, g.tokenizer, 3, "retok"),
    "transplant by a number": lambda g: tk.transplant(g.lm, g.tokenizer, g.tokenizer, 3),
    "transplant by what does not exist": lambda g: tk.transplant(g.lm, g.tokenizer, g.tokenizer, "nope"),
    "encode a text": lambda g: g.bytes.encode("text"),
    "encode a list": lambda g: g.bytes.encode_pretoken([1]),
    "decode a text": lambda g: g.bytes.decode("text"),
    "decode what is no id": lambda g: g.bytes.decode([10**9]),
    "bytes of a number": lambda g: tk.text.ByteVocab.from_tokenizer(3),
    "a byte model of names": lambda g: tk.predict.byte_model("a", "b"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_call_is_told_in_a_sentence(call: str, given: Any) -> None:
    with pytest.raises(tk.TokenryError) as error:
        WRONG[call](given)
    said = str(error.value)
    assert BEGINS.match(said), said
    assert ENDS.search(said), said
