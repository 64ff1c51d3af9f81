"""Prompts that come with tokenry, and a user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenry.data.text.prompts import Prompt, load_prompts, read_prompts
from tokenry.tokens.errors import InputError, UnknownNameError

CLASSES = ["prose", "code", "list-making", "summarise", "edit-code"]


def test_five_classes_of_short_prompts() -> None:
    loaded = load_prompts()
    assert list(loaded) == CLASSES
    assert loaded == load_prompts()
    for prompts in loaded.values():
        assert len(prompts) >= 4
        assert (
            len({prompt.name for prompt in prompts})
            == len({prompt.messages for prompt in prompts})
            == len(prompts)
        )
        for prompt in prompts:
            ((role, text),) = prompt.messages
            assert role == "user"
            assert text == text.strip()
            assert (
                40 < len(text) < 1800
            )  # at three characters a token and 128 new tokens, fewer than 750 in all


def test_code_to_edit_is_code() -> None:
    for prompt in load_prompts(["edit-code"])["edit-code"]:
        code = prompt.messages[0][1].split("```python\n")[1].split("```")[0]
        compile(code, prompt.name, "exec")


def test_classes_by_name() -> None:
    assert list(load_prompts(["code", "prose", "code"])) == ["code", "prose"]
    with pytest.raises(UnknownNameError, match="'poems'; there are prose, code"):
        load_prompts(["poems"])


def test_messages_for_a_chat_template() -> None:
    assert Prompt.of("a", "Hello").chat == [{"role": "user", "content": "Hello"}]


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_json_lines(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    path = written(
        tmp_path / "p.jsonl",
        {"prompt": "One\u2028line", "class": "b"},
        "",
        {"prompt": chat, "class": "a", "name": "why"},
        {"prompt": "Three", "class": "b"},
    )
    found = read_prompts(path)
    assert list(found) == ["b", "a"]
    assert [(p.name, p.messages[0][1]) for p in found["b"]] == [("1", "One\u2028line"), ("4", "Three")]
    assert found["a"] == (Prompt("why", (("system", "Be brief."), ("user", "Why?"))),)
    assert list(read_prompts(path.rename(tmp_path / "p.json"))) == ["b", "a"]


def test_plain_text(tmp_path: Path) -> None:
    def texts(*lines: str) -> list[str]:
        (prompts,) = read_prompts(written(tmp_path / "p.txt", *lines)).values()
        return [prompt.messages[0][1] for prompt in prompts]

    assert texts("One", "  Two ") == ["One", "Two"]
    assert texts("", "One", "more", "", "  ", "Two") == ["One\nmore", "Two"]
    assert texts('{"a": 1}') == ['{"a": 1}']


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"caf\xe9", "is not UTF-8"),
        (b'{"prompt": "a"}\n{"prompt": ', "Line 2 of .* is no JSON"),
        (b'{"text": "a"}', 'Line 1 of .* has no field "prompt"'),
        (b'{"prompt": "a"}\n["b"]', 'Line 2 of .* has no field "prompt"'),
        (b'{"prompt": "  "}', "with some text in each"),
        (b'{"prompt": 3}', "is a text or a list of messages"),
        (b'{"prompt": []}', "is a text or a list of messages"),
        (b'{"prompt": [{"role": "me", "content": "a"}]}', "roles: system, user"),
        (b'{"prompt": [{"role": "assistant", "content": "a"}]}', "nothing to answer"),
        (b'{"prompt": "a", "class": 3}', "are texts, got 3"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_prompts(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.txt cannot be read"):
        read_prompts(tmp_path / "nothing.txt")
