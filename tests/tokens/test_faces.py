"""Faces of packages: the same names in a fresh process as later, each of them there."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import tokenry as tk
from tokenry.tokens.faces import face

ROOMS = [m.name for m in pkgutil.iter_modules(tk.__path__) if m.ispkg and m.name != "cli"]
FACES = [
    name
    for name in ("tokenry", *(m.name for m in pkgutil.walk_packages(tk.__path__, "tokenry.") if m.ispkg))
    if hasattr(import_module(name), "__all__")
]


def test_every_room_is_a_name_of_tokenry() -> None:
    assert set(ROOMS) <= set(tk.__all__)


@pytest.mark.parametrize("name", FACES)
def test_everything_a_face_offers_is_there(name: str) -> None:
    offered = import_module(name)
    assert set(offered.__all__) <= set(dir(offered))
    for one in offered.__all__:
        assert getattr(offered, one) is not None


@pytest.mark.parametrize("name", [name for name in FACES if hasattr(import_module(name), "__getattr__")])
def test_no_face_offers_what_one_of_its_modules_is_called(name: str) -> None:
    """Importing the module would put it in the place of what was offered."""
    module = import_module(name)
    within = {m.name for m in pkgutil.iter_modules(module.__path__)} & set(module.__all__)
    assert [one for one in within if getattr(module, one) is not import_module(f"{name}.{one}")] == []


def test_rooms_are_there_in_a_fresh_process_and_nothing_heavy_is() -> None:
    """Each in its own namespace: what one room imports must not be what makes another appear."""
    program = f"""
import sys, tokenry as tk
heavy = [name for name in ("torch", "transformers", "numpy", "PIL") if name in sys.modules]
assert not heavy, f"import tokenry has imported {{heavy}}"
for room in {ROOMS!r}:
    for name in [n for n in sys.modules if n.partition(".")[0] == "tokenry"]:
        del sys.modules[name]
    import tokenry as tk
    assert dir(getattr(tk, room)), room
    heavy = [name for name in ("torch", "transformers") if name in sys.modules]
    assert not heavy, f"tk.{{room}} has imported {{heavy}}"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)


def test_a_face_is_what_its_package_imports_for_type_checkers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "shop"
    home.mkdir()
    (home / "__init__.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "from tokenry.tokens.faces import face\n"
        "if TYPE_CHECKING:\n"
        "    from shop import cellar as cellar\n"
        "    from shop.goods import nail as nail\n"
        "    from shop.goods import screw as bolt\n"
        "__getattr__, __dir__, __all__ = face(__name__)\n"
    )
    (home / "goods.py").write_text("nail, screw = 1, 2\n")
    (home / "cellar.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    shop = import_module("shop")
    assert "shop.goods" not in sys.modules
    assert shop.__all__ == ["bolt", "cellar", "nail"]
    assert (shop.nail, shop.bolt, shop.cellar) == (1, 2, import_module("shop.cellar"))
    with pytest.raises(AttributeError, match="module 'shop' has no attribute 'hammer'"):
        shop.hammer  # noqa: B018
    for name in ("shop", "shop.goods", "shop.cellar"):
        monkeypatch.delitem(sys.modules, name)


def test_names_of_the_last_release_are_found_with_a_warning() -> None:
    get, _, _ = face("tokenry.hosts", {"reduced": "reduced", "load_model": "models.load:load_model"})
    with pytest.warns(DeprecationWarning, match=r"tokenry\.hosts\.reduced is now tokenry\.reduced"):
        assert get("reduced") is tk.reduced
    with (
        pytest.warns(DeprecationWarning, match=r"load_model is now tokenry\.load"),
        pytest.raises(tk.InputError),
    ):
        get("load_model")("./nowhere")
