"""What other people hand over is found at once, read without being run, and refused in a sentence if it is broken."""

from __future__ import annotations

import ast
import io
import json
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, dynamic_module_utils

import tokenry as tk
from tests.bench.conftest import make_model, model_folder
from tests.predict.toys import bpe, random_merges
from tokenry.hosts import checkpoints
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.models.load import load
from tokenry.models.pretrained import require_model
from tokenry.tokens import InputError

__all__ = ["model_folder"]

SOURCES = Path(tk.__file__).parent
READERS = {
    "checkpoints.py",
    "wrappers.py",
}  # the second: peft's, of a folder that the first has looked through


def test_nothing_is_read_from_a_checkpoint_past_the_reader() -> None:
    found = [
        f"{path.relative_to(SOURCES)}:{node.lineno}"
        for path in sorted(SOURCES.rglob("*.py"))
        if path.name not in READERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "from_pretrained"
    ]
    assert not found


# --- code ------------------------------------------------------------------------------------------------------------

CODE = """
from pathlib import Path
from transformers import CLIPImageProcessor, LlamaConfig, LlamaForCausalLM, LlavaProcessor, PreTrainedTokenizerFast

Path({marker!r}).touch()

class Config(LlamaConfig):
    model_type = "strange"

class Model(LlamaForCausalLM):
    config_class = Config

class Processor(LlavaProcessor):
    pass

class Words(PreTrainedTokenizerFast):
    pass

class Pictures(CLIPImageProcessor):
    pass

def generate(model, **kwargs):
    return "generated"
"""


def rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def own_model(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    rewrite(folder / "config.json", lambda c: c.update(model_type="strange", auto_map=classes))


def own_processor(folder: Path) -> None:
    classes = {"AutoProcessor": "own.Processor"}
    rewrite(folder / "processor_config.json", lambda c: c.update(processor_class="Strange", auto_map=classes))


def own_tokenizer(folder: Path) -> None:
    classes = {"AutoTokenizer": ["own.Words", "own.Words"]}
    rewrite(folder / "tokenizer_config.json", lambda c: c.update(tokenizer_class="Strange", auto_map=classes))


def own_pictures(folder: Path) -> None:
    own = {"image_processor_type": "Strange", "auto_map": {"AutoImageProcessor": "own.Pictures"}}
    rewrite(folder / "processor_config.json", lambda c: c["image_processor"].update(own))


def own_generate(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "own.py", folder / "custom_generate" / "generate.py")
    asked = {"custom_generate": str(folder), "trust_remote_code": True}
    rewrite(folder / "generation_config.json", lambda c: c.update(asked))


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        (own_model, True),
        (own_processor, True),
        (own_pictures, True),
        (own_tokenizer, False),  # a class of transformers stands in
        (own_generate, False),
    ],
)
def test_code_of_a_folder_is_run_if_the_user_says_so_and_never_for_a_yes_on_the_keyboard(
    change: Callable[[Path], None], needed: bool, model_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    marker, folder = tmp_path / "was-run", tmp_path / change.__name__
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    shutil.copytree(model_folder, folder)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    change(folder)
    if needed:
        with pytest.raises(
            InputError, match=r"^Cannot load .* needs Python code .* \(trust_remote_code=True.*\)\.$"
        ):
            load(folder)
    else:
        model, _ = load(folder)
        assert model.generate(input_ids=torch.tensor([[4, 5]]), max_new_tokens=1).shape == (1, 3)
    assert not marker.exists()
    load(folder, trust_remote_code=True)
    assert marker.exists()


class Forgetful:
    """What does not tell its parts whether code may be run; some processors of transformers do not."""

    @classmethod
    def from_pretrained(cls, folder: str, **told: Any) -> Any:
        return AutoConfig.from_pretrained(folder)


def test_a_part_that_is_not_told_whether_code_may_be_run_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, folder = tmp_path / "was-run", tmp_path / "model"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    own_model(folder)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    with pytest.raises(InputError, match="needs Python code"):
        Checkpoint(str(folder)).processor(Forgetful)
    assert not marker.exists()


def test_kernels_of_the_hub_are_code_too(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    for implementation in ("some/kernel", {"": "sdpa", "text_config": "some/kernel"}):
        asked = {"experts_implementation": implementation}
        rewrite(folder / "config.json", lambda c, asked=asked: c["text_config"].update(asked))
        with pytest.raises(InputError, match=r"asks for the kernel 'some/kernel'.*--trust-remote-code"):
            load(folder)


# --- broken folders --------------------------------------------------------------------------------------------------


class Bomb:
    """What runs something where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(Bomb(folder / "was-run"), folder / "pytorch_model.bin")


def sound_pickles(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(make_model()[0].state_dict(), folder / "pytorch_model.bin")


def names_pickles(folder: Path) -> None:
    rewrite(folder / "config.json", lambda c: c.update(transformers_weights="adapter_model.bin"))
    torch.save(Bomb(folder / "was-run"), folder / "adapter_model.bin")


def shards_of_pickles(folder: Path, index: str = "model.safetensors.index.json") -> None:
    weights = make_model()[0].state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    places = dict.fromkeys(weights, "pytorch_model.bin")
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def named_shards_of_pickles(folder: Path) -> None:
    shards_of_pickles(folder, "x.safetensors.index.json")
    rewrite(folder / "config.json", lambda c: c.update(transformers_weights="x.safetensors.index.json"))


def pickled_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    torch.save(Bomb(folder / "was-run"), folder / "adapter_model.bin")


def cut(folder: Path, file: str = "model.safetensors") -> None:
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])


def in_pieces(folder: Path) -> list[Path]:
    (folder / "model.safetensors").unlink()
    make_model()[0].save_pretrained(folder, max_shard_size="300KB")
    return sorted(folder.glob("model-*"))


def larger(folder: Path) -> None:
    rewrite(folder / "config.json", lambda c: c["text_config"].update(hidden_size=96))


def deeper(folder: Path) -> None:
    rewrite(folder / "config.json", lambda c: c["text_config"].update(num_hidden_layers=5))


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def without(*patterns: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for pattern in patterns:
            for file in folder.glob(pattern):
                file.unlink()

    return change


def config(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(text) and None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (only_pickles, r"its weights are a pickle \(pytorch_model.bin\).*save it again, as safetensors"),
        (sound_pickles, r"its weights are a pickle \(pytorch_model.bin\)"),
        (names_pickles, "names 'adapter_model.bin' as its weights, and only safetensors are read"),
        (shards_of_pickles, "index.json .* names 'pytorch_model.bin' as its weights, and only safetensors"),
        (named_shards_of_pickles, "x.safe.* names 'pytorch_model.bin' as its weights, and only safetensors"),
        (pickled_adapter, "no pickle .* is read"),
        (cut, r"model.safetensors is cut off or damaged \("),
        (lambda f: cut(f, in_pieces(f)[1].name), r"model-00002-of-\d+.safetensors is cut off or damaged"),
        (lambda f: in_pieces(f)[1].unlink(), r"1 are missing \(model-00002-of-"),
        (without("model.safetensors"), "it has a config.json and no weights"),
        (without("config.json", "model*"), "it holds a tokenizer and no model"),
        (emptied, "it is empty"),
        (config("{'a': 1"), "config.json is no JSON"),
        (config("[1]"), "config.json is no configuration: it holds no object"),
        (
            config('{"model_type": ["llava"]}'),
            r"its kind is \['llava'\], which this transformers does not know",
        ),
        (config('{"model_type": "strange"}'), "its kind is 'strange', which this transformers does not know"),
        (larger, r"are of other sizes than its config.json says \(\S+: 296x48, not 296x96; \d+ in all\)"),
        (
            deeper,
            r"have nothing for 9 parameters of Llava.*\(\S+layers.4.*and 6 more\), which would be random",
        ),
        (without("processor*"), "it has no processor_config.json"),
        (without("tokenizer*"), "it has no tokenizer.json"),
        (lambda f: (f / "processor_config.json").write_text("{"), "processor_config.json is no JSON"),
        (
            lambda f: (f / "tokenizer_config.json").write_text("[]"),
            "tokenizer_config.json is no configuration",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{}"), r"'\w+' is missing\.$"),
        (lambda f: (f / "generation_config.json").write_text("{"), "what ends an answer may stand there"),
    ],
)
def test_a_broken_folder_is_refused_in_one_sentence(
    change: Callable[[Path], Any], words: str, model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    change(folder)
    with pytest.raises(InputError, match=words) as refused:
        load(folder)
    said = str(refused.value)
    assert repr(str(folder)) in said
    assert "\n" not in said
    assert said.endswith(".")
    assert not (folder / "was-run").exists()


def test_what_is_no_folder_of_a_model_is_named(tmp_path: Path) -> None:
    packed = tmp_path / "model.gguf"
    packed.write_bytes(b"GGUF")
    with pytest.raises(InputError, match="is a GGUF file"):
        load(packed)
    with pytest.raises(InputError, match="is a file: name the folder that it is in"):
        load(__file__)
    (tmp_path / "llava-7b").mkdir()
    with pytest.raises(InputError, match=f"did you mean '{tmp_path / 'llava-7b'}'?"):
        load(tmp_path / "llava-7")


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the model hub, which is not switched off."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)
    return tmp_path / "hub"


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> list[str]:
    asked: list[str] = []

    def metadata(url: str, **_: Any) -> Any:
        asked.append(url)
        return answer()

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    return asked


def unreachable() -> None:
    raise ConnectionError("no route")


def hanging() -> None:
    time.sleep(5)


@pytest.mark.parametrize("answer", [unreachable, hanging])
def test_an_unknown_name_is_answered_at_once_where_the_hub_does_not_answer(
    answer: Callable[[], None], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(monkeypatch, answer)
    started = time.perf_counter()
    with pytest.raises(InputError, match=r"cannot be reached .*: did you mean 'embedded'\?"):
        load("embeded")
    assert time.perf_counter() - started < 2
    assert len(asked) == 1


def test_what_the_hub_says_is_told_apart(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> None:
        raise RepositoryNotFoundError("404", response=_response())

    answering(monkeypatch, unknown)
    with pytest.raises(InputError, match="no model of that name that you may read"):
        require_model("gpt-22")
    asked = answering(monkeypatch, lambda: None)
    assert Checkpoint.find("gpt2") == Checkpoint("gpt2")
    assert asked == ["https://huggingface.co/gpt2/resolve/main/config.json"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="is not asked, since HF_HUB_OFFLINE is set"):
        require_model("gpt2")
    for impossible in ("", "./nowhere", "/no/where/at/all", "a/b/c", "nul\0", 5000 * "x"):
        with pytest.raises(InputError, match=re.escape(f"There is no folder {impossible!r}: ")):
            require_model(impossible)
    assert len(asked) == 1


def test_what_is_in_the_cache_is_used_while_the_hub_does_not_answer(
    cache: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(monkeypatch, unreachable)
    kept, revision = cache / "models--some--model", 40 * "0"
    shutil.copytree(model_folder, kept / "snapshots" / revision)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(revision)
    model, processor = load("some/model")
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert len(processor.tokenizer) > 0
    assert len(asked) == 1
    cut(kept / "snapshots" / revision)
    with pytest.raises(InputError, match=r"from hub id 'some/model': model\.safetensors is cut off"):
        load("some/model")


def _response() -> Any:
    httpx = pytest.importorskip(type(huggingface_hub.get_session()).__module__.partition(".")[0])
    return httpx.Response(404, request=httpx.Request("HEAD", "https://huggingface.co"))


# --- language models -------------------------------------------------------------------------------------------------


def test_language_models_and_tokenizers_are_read_in_the_same_way(tmp_path: Path) -> None:
    from tokenry.text.vocabulary import load_tokenizer

    tokenizer = bpe(random_merges(b"abc", 7, random.Random(0)), b"abc")
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    saved = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    saved.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load(tmp_path, reads="text")
    assert torch.equal(model.lm_head.weight, saved.lm_head.weight)
    with pytest.raises(InputError, match="holds a tokenizer and no processor of pictures"):
        load(tmp_path, reads="pictures")
    rewrite(tmp_path / "config.json", lambda c: c.update(num_hidden_layers=2))
    with pytest.raises(InputError, match="which would be random"):
        load(tmp_path, reads="text")
    assert Checkpoint(str(tmp_path)).model(AutoModelForCausalLM, spare=r"model\.layers\.1\.") is not None
    only_pickles(tmp_path)
    with pytest.raises(InputError, match="its weights are a pickle"):
        load(tmp_path, reads="text")
    own_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="--trust-remote-code"):
        load_tokenizer(tmp_path)
    assert checkpoints._patience() == 1.5
