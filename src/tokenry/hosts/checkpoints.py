"""Models of other people, by folder or hub id: found without waiting, and read without running what they bring.

Whatever tokenry takes from a `from_pretrained` of transformers it takes here, so that weights are safetensors, Python
code is run only for a user who says so, nothing waits for a keyboard, and whatever is wrong is said in one sentence.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum, auto
from pathlib import Path
from threading import Thread
from typing import Any, Final, Self

from tokenry.tokens.errors import InputError, TokenryError, gist

_CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_GENERATION: Final = "generation_config.json"
_ADAPTER: Final = "adapter_config.json"
_ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
_PROCESSOR: Final = "processor_config.json"
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer_config.json")
_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".distcp")
"""How files end that are pickles: reading one can run anything."""
_PATIENCE: Final = 1.5
"""Seconds that the model hub has to answer; HF_HUB_ETAG_TIMEOUT says otherwise."""
_NAMED: Final = 3
"""Names in a message; the rest is counted."""
_TRUST: Final = "trust_remote_code=True, or --trust-remote-code on the command line"


@dataclass(frozen=True)
class Checkpoint:
    """A folder or a hub id that `from_pretrained` reads.

    Attributes:
        name: the folder or hub id.
        cached: the folder that the hub's cache keeps it in, while the hub does not answer.
        trust_remote_code: whether Python code that lies beside the weights may be run.
    """

    name: str
    cached: Path | None = None
    trust_remote_code: bool = False

    @classmethod
    def find(
        cls,
        name: str | Path,
        *,
        trust_remote_code: bool = False,
        what: str = "model",
        known: Iterable[str] = (),
    ) -> Self:
        """What a user means by a name; the model hub is asked once, and gets little time to answer.

        Args:
            name: a folder or a hub id.
            trust_remote_code: see the class.
            what: what is looked for, as messages call it.
            known: names that mean something to whoever asks, for a hint at one that is spelt nearly alike.

        Raises:
            InputError: there is no such folder and no such hub id, or the hub cannot be asked.
        """
        text = str(name)
        if os.path.isdir(text):  # which takes any text, also one that no path can be
            return cls(text, trust_remote_code=trust_remote_code)
        if os.path.exists(text):
            raise InputError(_no_folder(text))
        absent = f"There is no folder {text!r}"
        near = _near(text, known)
        if not _is_hub_id(text):
            raise InputError(f"{absent}{near or ': see how it is spelt.'}")
        answer, cached = _ask_hub(text), _in_cache(text)
        if answer is _Answer.UNKNOWN:
            login = ": see how it is spelt, and whether it wants a login (`hf auth login`)."
            raise InputError(
                f"{absent}, and no {what} of that name that you may read on {_endpoint()}{near or login}"
            )
        if answer is not _Answer.THERE and not cached:
            off = "is not asked, since HF_HUB_OFFLINE is set"
            silent = f"cannot be reached (it has {_patience():g} s; HF_HUB_ETAG_TIMEOUT changes that)"
            raise InputError(
                f"{absent}, no {what} of that name in the cache, and {_endpoint()} "
                f"{off if answer is _Answer.OFF else silent}{near or ': give the folder that it is in.'}"
            )
        return cls(text, None if answer is _Answer.THERE else cached, trust_remote_code)

    @property
    def place(self) -> str:
        """As messages say it."""
        return f"{'folder' if Path(self.name).is_dir() else 'hub id'} {self.name!r}"

    def config(self) -> Any:
        """The configuration.

        Raises:
            InputError: it cannot be read, or only by running code that it brings.
        """
        from transformers import AutoConfig

        with self._told("a model"):
            return AutoConfig.from_pretrained(self._source, **self._settings)

    def tokenizer(self, **settings: Any) -> Any:
        """The tokenizer.

        Args:
            **settings: for its `from_pretrained`.

        Raises:
            InputError: it cannot be read, or only by running code that it brings.
        """
        from transformers import AutoTokenizer

        with self._told("a tokenizer"):
            return AutoTokenizer.from_pretrained(self._source, **self._settings, **settings)

    def processor(self, kind: Any = None) -> Any:
        """The processor of pictures and text, of the class that the checkpoint names unless `kind` is one.

        Raises:
            InputError: it cannot be read, or only by running code that it brings.
        """
        from transformers import AutoProcessor

        with self._told("a processor"):
            return (kind or AutoProcessor).from_pretrained(self._source, **self._settings)

    def model(self, kind: Any, *, spare: str | None = None, **settings: Any) -> Any:
        """The model, in evaluation mode, with every parameter read from safetensors.

        Args:
            kind: its class, or an auto class of transformers.
            spare: pattern of the beginnings of parameters that may be missing, since whoever asks does not use them.
            **settings: for its `from_pretrained`: dtype, device_map, attn_implementation ...

        Raises:
            InputError: it cannot be read, or only from a pickle or by running code that it brings, or some of its
                parameters are in no file and would be random.
            UnsupportedError: it brings an adapter, and peft is not installed.
        """
        with self._told("a model"):
            self._require_safe_adapter()
            self._require_safe_names()
            self._require_generation()
            model, report = kind.from_pretrained(
                self._source,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **self._settings,
                **settings,
            )
        if wrong := sorted(report["mismatched_keys"]):
            name, found, wanted = wrong[0]
            raise InputError(
                f"The weights in {self.place} are of other sizes than its {_CONFIG} says ({name}: "
                f"{'x'.join(map(str, found))}, not {'x'.join(map(str, wanted))}; {len(wrong)} in all): the one or the "
                "other is another model's."
            )
        random = sorted(n for n in report["missing_keys"] if spare is None or not re.match(spare, n))
        if random:
            raise InputError(
                f"The weights in {self.place} have nothing for {len(random)} parameters of {type(model).__name__} "
                f"({_some(random)}), which would be random: save the whole model, or correct its config.json."
            )
        model.name_or_path = self.name
        return model.eval()

    def adapter(self) -> Path:
        """The folder of an adapter of peft, with its configuration and its weights in safetensors.

        Raises:
            InputError: it holds none, or its weights are a pickle.
        """
        with self._told("an adapter"):
            found = self.file(_ADAPTER)
            if found is None:
                raise InputError(
                    f"There is no adapter in {self.place}: it has no {_ADAPTER}, which peft's save_pretrained writes."
                )
            self._require_safe_adapter()
            weights = self.file(_ADAPTER_WEIGHTS)
            assert weights is not None  # required above
            if damaged := _damaged([weights]):
                raise InputError(f"Cannot load an adapter from {self.place}: {damaged}.")
            return found.parent

    def file(self, name: str) -> Path | None:
        """A file of the checkpoint on this machine, fetched if it has to be; None if there is none of that name."""
        from tokenry.hosts.upstream import cached_file

        if self._folder is not None:
            path = self._folder / name
            return path if path.is_file() else None
        found = cached_file(self.name, name, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found)

    @property
    def _settings(self) -> dict[str, bool]:
        return {
            "trust_remote_code": self.trust_remote_code,
            "local_files_only": self._folder is not None,
        }

    @property
    def _folder(self) -> Path | None:
        """Where it lies on this machine, if nothing has to be fetched."""
        return Path(self.name) if Path(self.name).is_dir() else self.cached

    @property
    def _source(self) -> str:
        """What is handed to `from_pretrained`: not everything that it calls leaves the network alone when told to."""
        return self.name if self._folder is None else str(self._folder)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Nothing asks a question meanwhile, and every error says in a sentence what could not be loaded, and why."""
        from tokenry.hosts.upstream import without_questions

        try:
            with nullcontext() if self.trust_remote_code else without_questions():
                yield
        except TokenryError:
            raise
        # What a folder of other people makes the libraries raise is of any kind.
        except Exception as error:
            raise InputError(f"Cannot load {what} from {self.place}: {self._why(error, what)}.") from error

    def _why(self, error: Exception, what: str) -> str:
        """What is wrong with a checkpoint that could not be read: what its files show, or what was said of it."""
        if "trust_remote_code" in str(error) and not self.trust_remote_code:
            return f"it needs Python code of its own, which is run only if you trust it and say so ({_TRUST})"
        folder = self._folder or _in_cache(self.name)
        seen = None if folder is None else _whats_wrong(folder, what)
        return seen or gist(error)

    def _require_safe_adapter(self) -> None:
        """Refuse an adapter in pickles: told what they may, transformers and peft read it where there is no other."""
        if self.file(_ADAPTER) is None:
            return
        if self.file(_ADAPTER_WEIGHTS) is None:
            raise InputError(
                f"The adapter in {self.place} has no {_ADAPTER_WEIGHTS}, and no pickle (adapter_model.bin) is read, "
                "since that can run anything: load it where you trust it and save it again with save_pretrained."
            )
        if self.file(_CONFIG) is None:
            return  # an adapter alone
        from tokenry.hosts.wrappers import peft_for

        peft_for(f"The adapter beside the weights in {self.place}")

    def _require_safe_names(self) -> None:
        """Refuse a configuration that names a pickle as its weights, or kernels on the hub, which would be run."""
        path = self.file(_CONFIG)
        values = None if path is None else _json(path)
        if not isinstance(values, dict):
            return  # what is wrong with it is told by those who read it
        weights = str(values.get("transformers_weights") or _WEIGHTS)
        index = weights if weights.endswith(".safetensors.index.json") else _INDEX
        found = self.file(index)
        for source, names in (
            (_CONFIG, [weights] if weights != index else []),
            (index, (_shard_names(found) if found else None) or []),
        ):
            if other := [name for name in names if not name.endswith(".safetensors")]:
                raise InputError(
                    f"The {source} in {self.place} names {other[0]!r} as its weights, and only safetensors are read, "
                    "since a pickle can run anything."
                )
        if not self.trust_remote_code and (kernel := next(_kernels(values), None)):
            raise InputError(
                f"The {_CONFIG} in {self.place} asks for the kernel {kernel!r} from the model hub, and code is run "
                f"only if you trust it and say so ({_TRUST})."
            )

    def _require_generation(self) -> None:
        """Refuse settings of `generate` that cannot be read: transformers goes on without them, to other answers."""
        path = self.file(_GENERATION)
        if path is not None and not isinstance(_json(path), dict):
            raise InputError(
                f"The {_GENERATION} in {self.place} is no JSON object, and what ends an answer may stand there: "
                "mend it, or remove it."
            )


class _Answer(Enum):
    """What the model hub says of a name."""

    THERE = auto()
    UNKNOWN = auto()
    SILENT = auto()
    OFF = auto()


def _ask_hub(name: str) -> _Answer:
    """Whether the hub has a model, found out with the first request that transformers would make for it.

    A request of its own thread: neither looking up the hub's address nor a proxy keeps to a time-out.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return _Answer.OFF
    answers: list[_Answer] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(name, _CONFIG), timeout=_patience())
            answers.append(_Answer.THERE)
        except EntryNotFoundError:  # an adapter has no config.json
            answers.append(_Answer.THERE)
        except RepositoryNotFoundError:  # or one that this user may not read
            answers.append(_Answer.UNKNOWN)
        except Exception:  # whatever the network, a proxy or a mirror do
            answers.append(_Answer.SILENT)

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_patience())
    return answers[0] if answers else _Answer.SILENT


def _patience() -> float:
    try:
        return float(os.environ["HF_HUB_ETAG_TIMEOUT"])
    except (KeyError, ValueError):
        return _PATIENCE


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _is_hub_id(name: str) -> bool:
    """Whether a name could be one on the model hub; gpt2 is, as all from its first year are."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        hf_hub_url(name, _CONFIG)
    except HFValidationError:
        return False
    return True


def _in_cache(name: str) -> Path | None:
    """The folder in which the hub's cache keeps the files of a model; None if it has none."""
    from huggingface_hub import try_to_load_from_cache

    for file in (_CONFIG, _ADAPTER, *_TOKENIZERS):
        if isinstance(found := try_to_load_from_cache(name, file), str):
            return Path(found).parent
    return None


def _near(name: str, known: Iterable[str]) -> str:
    """A question after what is spelt nearly alike: a known name, or a folder beside the one that is not there."""
    beside = Path(os.path.dirname(name))
    try:
        folders = [str(folder) for folder in beside.iterdir() if folder.is_dir()]
    except (OSError, ValueError):
        folders = []
    found = get_close_matches(name, [*known, *folders], 1, cutoff=0.75)
    return f": did you mean {found[0]!r}?" if found else ""


def _no_folder(name: str) -> str:
    if name.endswith(".gguf"):
        return (
            f"{name!r} is a GGUF file, and models are read from folders: load it with transformers' "
            "from_pretrained(folder, gguf_file=...) and save it with save_pretrained."
        )
    return f"{name!r} is a file: name the folder that it is in, with {_CONFIG} and {_WEIGHTS}."


def _whats_wrong(folder: Path, what: str) -> str | None:
    """What keeps a folder from being loaded, as its files show it; None if they look sound."""
    files = sorted(p.name for p in folder.iterdir())
    if what == "a tokenizer" and not any(n.startswith(("tokenizer", "vocab")) for n in files):
        return f"it holds no tokenizer: there is no {_TOKENIZERS[0]}, which tokenizer.save_pretrained writes"
    if not files:
        return "it is empty"
    broken = [n for n in files if n.endswith(".json") and _json(folder / n) is None]
    if broken:
        return f"{broken[0]} is no JSON ({_json_error(folder / broken[0])})"
    if wrong := [n for n in files if n.endswith("config.json") and not isinstance(_json(folder / n), dict)]:
        return f"{wrong[0]} is no configuration: it holds no object"
    if what == "a processor":
        parts = {"processor": _PROCESSOR, "token": _TOKENIZERS[0]}
        lacking = [name for part, name in parts.items() if not any(part in file for file in files)]
        return (
            f"it has no {' and no '.join(lacking)}, which processor.save_pretrained writes"
            if lacking
            else None
        )
    if what != "a model":
        return None
    if _CONFIG not in files:
        return _without_config(files)
    kind = _json(folder / _CONFIG).get("model_type")
    if kind is not None and not _is_known(kind):
        return f"its kind is {kind!r}, which this transformers does not know"
    if _WEIGHTS not in files and _INDEX not in files:
        return _without_weights(files)
    return _shards(folder) if _WEIGHTS not in files else _damaged([folder / _WEIGHTS])


def _without_config(files: Sequence[str]) -> str:
    if _ADAPTER in files:
        return (
            "it holds an adapter and no model: name the model that it was trained on, and this with --adapter"
        )
    if "model_index.json" in files:
        return "it holds a pipeline of diffusers, not a model that writes text"
    if any(n.startswith("tokenizer") for n in files):
        return f"it holds a tokenizer and no model: there is no {_CONFIG}"
    return f"it has no {_CONFIG}, so it is no model that transformers saved (it holds {_some(files)})"


def _without_weights(files: Sequence[str]) -> str:
    if pickled := [n for n in files if n.endswith(_PICKLED)]:
        return (
            f"its weights are a pickle ({pickled[0]}), which is not read, since that can run anything: load it where "
            "you trust it and save it again, as safetensors, with model.save_pretrained(folder)"
        )
    return f"it has a {_CONFIG} and no weights ({_WEIGHTS})"


def _shards(folder: Path) -> str | None:
    """What is wrong with weights in several files."""
    shards = _shard_names(folder / _INDEX)
    if shards is None:
        return f"{_INDEX} does not say which file holds which weights (weight_map)"
    if missing := [name for name in shards if not (folder / name).is_file()]:
        return (
            f"of the {len(shards)} files that {_INDEX} names, {len(missing)} are missing ({_some(missing)})"
        )
    return _damaged([folder / name for name in shards])


def _shard_names(index: Path) -> list[str] | None:
    """The files that an index says the weights are in; None if it does not."""
    named = _json(index)
    places = named.get("weight_map") if isinstance(named, dict) else None
    return sorted({str(name) for name in places.values()}) if isinstance(places, dict) else None


def _damaged(files: Iterable[Path]) -> str | None:
    """Which of some safetensors files cannot be opened: they are shorter or longer than they say."""
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file.name} is cut off or damaged ({gist(error)})"
    return None


def _kernels(values: Any, *, implements: bool = False) -> Iterator[str]:
    """What a configuration names as an implementation, of all or by part, where that is a repository on the hub."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _kernels(value, implements=implements or key.endswith("implementation"))
    elif implements and isinstance(values, str) and "/" in values:
        yield values


def _is_known(kind: Any) -> bool:
    from transformers import CONFIG_MAPPING

    return isinstance(kind, str) and kind in CONFIG_MAPPING


def _json(path: Path) -> Any:
    """What a JSON file holds; None if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _json_error(path: Path) -> str:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return gist(error)
    return "it holds nothing"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
