"""Messages about recipes name the setting, not Python's internals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tokenry.tokens.errors import InputError
from tokenry.train.recipe import exit_code, reason


@dataclass
class Settings:
    steps: int
    lr: float


def _raised(call: object) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is what is asked
        call()  # type: ignore[operator]
    return caught.value


def test_reasons(tmp_path: Path) -> None:
    assert reason(_raised(lambda: {"a": 1}["training"])) == "it lacks 'training'"
    assert reason(_raised(lambda: Settings(steps=1, lr=1.0, lrr=2))) == "there is no setting 'lrr'"
    assert reason(_raised(lambda: Settings())) == "it lacks 'steps' and 'lr'"
    assert reason(_raised(lambda: (tmp_path / "x.yaml").read_text())) == "No such file or directory"
    assert "line 1" in reason(_raised(lambda: yaml.safe_load("{")))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (InputError("It is wrong."), 1, "error: It is wrong."),
        (KeyboardInterrupt(), 130, "Interrupted. The same command goes on from the last checkpoint."),
    ],
)
def test_exit_codes(
    error: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        if error is not None:
            raise error

    assert exit_code(work) == code
    assert capsys.readouterr().err.strip() == said
