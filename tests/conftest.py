"""What every test gets: types and shapes of tokenry's own signatures are checked on every call."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test may ask a model hub

from jaxtyping import install_import_hook

from tests import typechecking

install_import_hook("tokenry", f"{typechecking.__name__}.{typechecking.checked.__name__}")
