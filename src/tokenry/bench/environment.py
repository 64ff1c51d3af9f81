"""What a result depends on besides the method: model, machine, versions. Two results compare only if these agree."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Self

import torch

from tokenry.hosts.upstream import attention_kernel
from tokenry.hosts.wrappers import device_of, fingerprint
from tokenry.reduce import Reducer
from tokenry.tokens import InputError

_PACKAGES = ("tokens", "reduce", "hosts", "data")


def circumstances() -> dict[str, Any]:
    """Machine and versions as JSON values."""
    return {
        "machine": _machine(),
        "threads": torch.get_num_threads(),
        "code": code_version(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": metadata.version("transformers"),
            "tokenry": metadata.version("tokenry"),
        },
    }


def facts(model: Any, name: str | None = None) -> dict[str, Any]:
    """Model and circumstances as JSON values."""
    return {
        "model": name or model.name_or_path or type(model).__name__,
        "class": type(model).__name__,
        "fingerprint": fingerprint(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": attention_kernel(model.config.get_text_config()),
        "device": _device_name(device_of(model)),
    } | circumstances()


@cache
def code_version(packages: tuple[str, ...] = _PACKAGES) -> str:
    """tokenry's version with a hash of the code that decides a result, by default what is kept of a picture."""
    found = hashlib.sha256()
    root = Path(str(resources.files("tokenry")))
    for path in sorted(p for package in packages for p in (root / package).rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode())
        found.update(path.read_bytes())
    return f"{metadata.version('tokenry')}+{found.hexdigest()[:8]}"


def foreign_code(methods: tuple[Reducer, ...]) -> list[str]:
    """A hash of the source of every method that is not tokenry's own (empty text where there is no source)."""
    return [source_digest(type(m)) for m in methods if not type(m).__module__.startswith("tokenry.")]


@cache
def source_digest(cls: type) -> str:
    """A hash of a class's source (of an empty text where there is none), as it was when first asked for.

    The file may be edited while the code that was loaded from it goes on running.
    """
    source = ""
    with suppress(OSError, TypeError):
        source = inspect.getsource(cls)
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def load_average() -> float | None:
    """One-minute load average per core; None where the platform has none. Above 1, timings are of a busy machine."""
    if not hasattr(os, "getloadavg"):
        return None
    return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)


@contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Run with that many CPU threads, and put the old number back.

    Raises:
        InputError: fewer than one thread.
    """
    if threads is None:
        yield
        return
    if threads < 1:
        raise InputError(f"At least one thread is needed, got {threads}.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class PeakMemory:
    """Peak memory between ``with`` and its end: of the CUDA allocator, or of the process' resident set (Linux).

    Attributes:
        bytes: the peak, None where the platform does not tell.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self.bytes: float | None = None

    def __enter__(self) -> Self:
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        self._known = self._cuda is not None or _reset_peak()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._cuda is not None:
            self.bytes = float(torch.cuda.max_memory_allocated(self._cuda))
        elif self._known:
            self.bytes = _peak()


def _reset_peak() -> bool:
    """Ask the kernel to forget the process' peak; whether it did."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> float | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024.0 * float(lines[0][1]) if lines else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _machine() -> str:
    """The processor and its number of cores, no host name."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"
