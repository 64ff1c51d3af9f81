"""What every test gets: types and shapes of tokenry's own signatures are checked on every call."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test may ask a model hub
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that puts the suite into the background has Ctrl-C ignored, and so would all processes that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

from jaxtyping import install_import_hook

from tests import typechecking

install_import_hook(["tokenry", "reproductions"], f"{typechecking.__name__}.{typechecking.checked.__name__}")
