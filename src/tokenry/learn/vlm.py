"""Training of the embedded vision-language model, in two stages.

1. *tower*: picture-caption contrast on [CLS] plus a per-patch objective on the layer that the language model reads.
2. *answers*: projector and language model learn to answer questions; the tower follows slowly and keeps its per-patch
   objective. Several questions share one picture: they lie behind it in one sequence, each sees the picture and itself
   only and has the positions it would have alone, so the loss is that of separate sequences at a fraction of the cost.

Run ``python -m tokenry.learn.vlm recipes/embedded_vlm.yaml``; run it again after an interruption and it continues.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Bool, Float, Int, UInt8
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from tokenry.data.pack import load_pack
from tokenry.data.scenes import (
    KINDS,
    Question,
    Scene,
    Split,
    make_scene,
    patch_class_names,
    patch_classes,
)
from tokenry.data.textures import SIDE
from tokenry.learn.contrast import CaptionContrast
from tokenry.learn.loop import (
    Batch,
    Figures,
    LoopSettings,
    Objective,
    latest_checkpoint,
    load_checkpoint,
    train,
)
from tokenry.learn.patch_labels import PatchLabels, PatchPlaces
from tokenry.models.caption_head import HEAD_FILE, CaptionHead, caption, caption_words
from tokenry.models.embedded import PATCH, build_config, build_processor, build_tokenizer
from tokenry.tokens.errors import TokenryError

IGNORE = -100
DRILLED = ("where", "exists", "relation")  # kinds that must find an object by its name
_POINTING_LAYER, _POINTING_HEAD = 1, 0
_NAMING_SCALE = (
    20.0  # a cosine of a third then tells one of 300 words; the rest of a token is free for other things
)


@dataclass(frozen=True)
class Stage:
    """Batch size, loss weights and loop settings of one stage.

    Attributes:
        batch: pictures a step.
        loop: schedule and optimiser.
        patch_weight: of the per-patch loss.
        contrast_weight: of the picture-caption contrast (tower only).
        naming_weight: of the loss that aligns visual tokens with names (answers only).
        pointing_weight: of the loss that lets one attention head look where a named object is (answers only).
        place_weight: of the loss by which a patch token must say where it is (answers only).
        questions: of different kinds asked about each picture (answers only).
        drill: rounds of further questions that mention objects by name, the hardest to learn (answers only).
    """

    batch: int
    loop: LoopSettings
    patch_weight: float = 1.0
    contrast_weight: float = 1.0
    naming_weight: float = 0.0
    pointing_weight: float = 0.0
    place_weight: float = 0.0
    questions: int = 7
    drill: int = 0


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the trained model.

    Attributes:
        output: folder for checkpoints and the exported model.
        seed: initialisation and data.
        model: keyword arguments of :func:`tokenry.models.embedded.build_config`.
        tower: the first stage.
        answers: the stages of the second kind, one after the other, each with a schedule of its own.
        validate: validation pictures asked about at each checkpoint.
    """

    output: Path
    tower: Stage
    answers: tuple[Stage, ...]
    seed: int = 0
    model: Mapping[str, int] = field(default_factory=dict)
    validate: int = 64

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a recipe from YAML.

        Raises:
            TokenryError: if the file is missing, is not YAML, or has missing or unknown keys.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            tower = Stage(**(content["tower"] | {"loop": LoopSettings(**content["tower"]["loop"])}))
            answers = tuple(
                Stage(**(one | {"loop": LoopSettings(**one["loop"])})) for one in content["answers"]
            )
            return cls(**(content | {"tower": tower, "answers": answers, "output": Path(content["output"])}))
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise TokenryError(f"{path} is not a recipe for the embedded model: {error!r}") from error


# ------------------------------------------------------------------------------------------------------- batches


@cache
def _tokenizer() -> Any:
    return build_tokenizer()


@cache
def _ids(text: str) -> tuple[int, ...]:
    return tuple(_tokenizer()(text, add_special_tokens=False)["input_ids"])


def _exchange_one(words: list[int], rng: np.random.Generator) -> list[int]:
    """The caption with one word replaced by another of its sort: object, letter or colour."""
    objects = len(load_pack().objects)
    place = int(rng.integers(len(words)))
    bounds = (1, 1 + objects, 27 + objects, len(caption_words()))
    low, high = next((a, b) for a, b in pairwise(bounds) if a <= words[place] < b)
    other = int(rng.integers(low, high - 1))
    other += other >= words[place]
    return [*words[:place], other, *words[place + 1 :]]


def _pixels_and_labels(scenes: list[Scene]) -> Batch:
    labels = np.stack([patch_classes(scene).reshape(-1) for scene in scenes])
    return {
        "pixels": torch.from_numpy(np.stack([scene.pixels for scene in scenes])),
        "labels": torch.from_numpy(labels.astype(np.int64)),
    }


def tower_batch(step: int, *, size: int, seed: int) -> Batch:
    """Scenes, patch labels, captions and captions with one wrong word, for one step."""
    rng = np.random.default_rng((seed, step))
    scenes = [make_scene("train", step * size + i, seed) for i in range(size)]
    captions = [caption(scene) for scene in scenes]
    words = np.zeros((2, size, max(map(len, captions))), dtype=np.int64)
    for row, ids in enumerate(captions):
        words[0, row, : len(ids)] = ids
        words[1, row, : len(ids)] = _exchange_one(ids, rng)
    return _pixels_and_labels(scenes) | {
        "words": torch.from_numpy(words[0]),
        "negatives": torch.from_numpy(words[1]),
    }


def _questions(scene: Scene, number: int, drill: int) -> list[Question]:
    rounds = [scene.ask(number)] + [scene.ask(3, DRILLED, variant) for variant in range(1, 1 + drill)]
    unique = {question.text: question for round_ in rounds for question in round_}
    return list(unique.values())


def answer_batch(
    step: int, *, size: int, seed: int, questions: int, drill: int = 0, split: Split = "train"
) -> Batch:
    """Scenes with their questions packed behind them, for one step.

    Returns:
        ``pixels``, ``labels`` as for the tower; ``ids``, ``positions``, ``segment`` (which question; -1 padding),
        ``target`` (next token of an answer, else -100) and ``kind``, all [size, length].
    """
    scenes = [make_scene(split, step * size + i, seed) for i in range(size)]
    eos = _tokenizer().eos_token_id
    rows: list[dict[str, list[int]]] = []
    for scene in scenes:
        row: dict[str, list[int]] = {"ids": [], "positions": [], "segment": [], "target": [], "kind": []}
        for number, question in enumerate(_questions(scene, questions, drill)):
            asked, answer = _ids(question.text), _ids(question.answer)
            length = len(asked) + len(answer)
            row["ids"] += asked + answer
            row["positions"] += range(length)
            row["segment"] += [number] * length
            row["target"] += [IGNORE] * (len(asked) - 1) + [*answer, eos]
            row["kind"] += [KINDS.index(question.kind)] * length
        rows.append(row)
    fill = {"ids": 0, "positions": 0, "segment": -1, "target": IGNORE, "kind": -1}
    width = max(len(row["ids"]) for row in rows)
    packed = {
        key: torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])
        for key, value in fill.items()
    }
    return _pixels_and_labels(scenes) | packed


# ---------------------------------------------------------------------------------------------------- objectives


class PixelNorm(nn.Module):
    """uint8 pixels to what the processor would hand the model."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        image_processor = build_processor().image_processor
        for name, value in (("mean", image_processor.image_mean), ("std", image_processor.image_std)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def forward(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


class TowerObjective(Objective):
    """Stage 1: contrast on the pooled [CLS], patch labels on the features that LLaVA reads."""

    def __init__(self, model: LlavaForConditionalGeneration, stage: Stage) -> None:
        super().__init__()
        width = model.config.vision_config.hidden_size
        self.stage = stage
        self.layer = model.config.vision_feature_layer
        self.norm = PixelNorm()
        self.tower = model.model.vision_tower
        self.patches = PatchLabels(width, len(patch_class_names()))
        self.contrast = CaptionContrast(CaptionHead(width))

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Weighted sum of the two losses."""
        seen = self.tower(self.norm(batch["pixels"]), output_hidden_states=True)
        patch_loss, patch_accuracy = self.patches(seen.hidden_states[self.layer][:, 1:], batch["labels"])
        contrast, matched = self.contrast(seen.pooler_output, batch["words"], batch["negatives"])
        loss = self.stage.patch_weight * patch_loss + self.stage.contrast_weight * contrast
        return loss, {
            "patch": patch_loss,
            "patch_acc": patch_accuracy,
            "contrast": contrast,
            "matched": matched,
        }


def packed_mask(segment: Int[Tensor, "b t"], prefix: int) -> Bool[Tensor, "b 1 s s"]:
    """Who may look at whom when questions are packed behind a shared prefix: causal, and not across questions."""
    batch, length = segment.shape
    shared = segment.new_full((batch, prefix), -2)
    owner = torch.cat([shared, segment], dim=1)
    same = owner[:, :, None] == owner[:, None, :]
    visible = same | (owner[:, None, :] == -2)
    causal = torch.ones(prefix + length, prefix + length, dtype=torch.bool, device=segment.device).tril()
    return (visible & causal)[:, None]


def class_tokens() -> list[int]:
    """The token that names each patch class: the first word of an object's name; none for the rest."""
    objects = [item.name for item in load_pack().objects]
    others = len(patch_class_names()) - len(objects)
    return [IGNORE] * others + [_ids(name)[0] for name in objects]


class AnswerObjective(Objective):
    """Stage 2: answer the questions, and keep the patch tokens local."""

    class_token: Tensor

    def __init__(self, model: LlavaForConditionalGeneration, patches: PatchLabels, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.norm = PixelNorm()
        self.model = model
        self.patches = patches
        self.places = PatchPlaces(model.config.vision_config.hidden_size, (SIDE // PATCH, SIDE // PATCH))
        self.register_buffer("class_token", torch.tensor(class_tokens()), persistent=False)

    def naming_loss(self, visual: Float[Tensor, "b n d"], labels: Int[Tensor, "b n"]) -> Float[Tensor, ""]:
        """Cross-entropy of naming what a visual token shows by its cosine with the word embeddings.

        Places are found by what the tower knows about positions; objects are found by name only once a name and the
        visual tokens that show it are alike. Left to the answers, that takes most of the training.
        """
        target = self.class_token[labels]
        shown = target != IGNORE
        words = F.normalize(self.model.get_input_embeddings().weight.float(), dim=-1)
        cosine = F.normalize(visual[shown].float(), dim=-1) @ words.T
        return F.cross_entropy(_NAMING_SCALE * cosine, target[shown])

    def pointing_loss(self, attention: Float[Tensor, "b heads s s"], batch: Batch) -> Float[Tensor, ""]:
        """Minus the log of the attention that an object's name pays to the patches that show the object.

        The name of an object that is not shown is to look at the beginning of the text.
        """
        tokens = batch["labels"].shape[1]
        looks = attention[:, _POINTING_HEAD, 1 + tokens :].float()
        named = self.class_token[batch["labels"]][:, None, :] == batch["ids"][:, :, None]
        shown = named.any(-1) & (batch["segment"] >= 0)
        absent = (
            ~shown & (batch["kind"] == KINDS.index("exists")) & torch.isin(batch["ids"], self.class_token)
        )
        patches = (looks[:, :, 1 : 1 + tokens] * named).sum(-1)
        mass = torch.where(absent, looks[:, :, 0], patches)[shown | absent]
        return -(mass + 1e-4).log().mean()

    def logits(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "b t vocabulary"], Float[Tensor, "b n width"], Float[Tensor, "b n d"]]:
        """Next-token logits on the packed questions, the tower's features, and what the projector makes of them."""
        inner, config = self.model.model, self.model.config
        seen = inner.vision_tower(self.norm(batch["pixels"]), output_hidden_states=True)
        features = seen.hidden_states[config.vision_feature_layer][:, 1:]
        embed = inner.language_model.embed_tokens
        start = embed(batch["ids"].new_full((len(features), 1), config.text_config.bos_token_id))
        text = embed(batch["ids"])
        visual = inner.multi_modal_projector(features).to(text.dtype)
        prefix = 1 + visual.shape[1]
        visible = packed_mask(batch["segment"], prefix)
        # a finite floor keeps rows of padding, which see nothing but the prefix, free of NaN
        mask = torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, -1e4)
        head = torch.arange(prefix, device=visible.device).expand(len(features), -1)
        hidden = inner.language_model(
            inputs_embeds=torch.cat([start, visual, text], dim=1),
            attention_mask=mask,
            position_ids=torch.cat([head, batch["positions"] + prefix], dim=1),
            use_cache=False,
        ).last_hidden_state
        return self.model.lm_head(hidden[:, prefix:]).float(), features, visual

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of the answers plus the weighted patch, naming and pointing losses."""
        attention: list[Tensor] = []
        layer = self.model.model.language_model.layers[_POINTING_LAYER].self_attn
        hook = layer.register_forward_hook(lambda _module, _inputs, output: attention.append(output[1]))
        try:
            logits, features, visual = self.logits(batch)
        finally:
            hook.remove()
        asked = batch["target"] != IGNORE
        picked, target = logits[asked], batch["target"][asked]
        loss = F.cross_entropy(picked, target)
        patch_loss, patch_accuracy = self.patches(features, batch["labels"])
        figures = {
            "answer": loss,
            "token_acc": (picked.argmax(-1) == target).float().mean(),
            "patch_acc": patch_accuracy,
        }
        total = loss + self.stage.patch_weight * patch_loss
        if self.stage.naming_weight:
            figures["naming"] = self.naming_loss(visual, batch["labels"])
            total = total + self.stage.naming_weight * figures["naming"]
        if self.stage.place_weight:
            figures["place"] = self.places(features)
            total = total + self.stage.place_weight * figures["place"]
        if self.stage.pointing_weight:
            figures["pointing"] = self.pointing_loss(attention[0], batch)
            total = total + self.stage.pointing_weight * figures["pointing"]
        return total, figures

    @torch.no_grad()
    def exact(self, batch: Batch) -> dict[str, tuple[int, int]]:
        """Kind -> (answered exactly, asked).

        Under teacher forcing the greedy answer equals the reference exactly where every one of its tokens, the end
        included, is the most likely one.
        """
        logits, _, _ = self.logits(batch)
        wrong = (logits.argmax(-1) != batch["target"]) & (batch["target"] != IGNORE)
        score: dict[str, tuple[int, int]] = {}
        for row in range(len(wrong)):
            segment = batch["segment"][row]
            for number in range(int(segment.max()) + 1):
                here = segment == number
                kind = KINDS[int(batch["kind"][row][here][0])]
                right, asked = score.get(kind, (0, 0))
                score[kind] = (right + int(not wrong[row][here].any()), asked + 1)
        return score


# -------------------------------------------------------------------------------------------------------- running


def validate(
    objective: AnswerObjective, pictures: int, split: Split = "val", seed: int = 0
) -> dict[str, float]:
    """Exact match by question kind, and "all", on held-out pictures."""
    device = next(objective.parameters()).device
    total: dict[str, tuple[int, int]] = {}
    for step in range(-(-pictures // 32)):
        batch = answer_batch(step, size=32, seed=seed, questions=len(KINDS), split=split)
        for kind, (right, asked) in objective.exact({k: v.to(device) for k, v in batch.items()}).items():
            before = total.get(kind, (0, 0))
            total[kind] = (before[0] + right, before[1] + asked)
    rates = {kind: right / asked for kind, (right, asked) in sorted(total.items())}
    return {"all": sum(r for r, _ in total.values()) / sum(a for _, a in total.values())} | rates


def export(
    model: LlavaForConditionalGeneration, head: CaptionHead, target: Path, notes: Mapping[str, Any]
) -> None:
    """Write model (half precision), processor, caption head and ``training.json`` as one folder.

    Plain transformers load it; the last two are ours.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    half = LlavaForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(temporary)
    build_processor().save_pretrained(temporary)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, temporary / HEAD_FILE, metadata={"words": json.dumps(caption_words())})
    (temporary / "training.json").write_text(json.dumps(dict(notes), indent=1, default=str) + "\n")
    for path in temporary.iterdir():
        path.chmod(0o644)  # safetensors creates files that their owner alone can read
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)


def build(recipe: Recipe) -> tuple[LlavaForConditionalGeneration, TowerObjective, AnswerObjective]:
    """A freshly initialised model and the objectives of both kinds of stage, which share it."""
    torch.manual_seed(recipe.seed)
    config = build_config(build_processor(), **recipe.model)
    # eager attention trains faster than SDPA at these sizes on a CPU; what is exported does not remember it
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    tower = TowerObjective(model, recipe.tower)
    return model, tower, AnswerObjective(model, tower.patches, recipe.answers[0])


def run(recipe: Recipe, console: Console | None = None) -> Path:
    """Train (or continue), export, and return the folder of the finished model."""
    console = console or Console()
    model, tower, answers = build(recipe)
    target, log = recipe.output / "model", recipe.output / "validation.jsonl"
    settings = {name: value for name, value in asdict(recipe).items() if name != "output"}

    def check_and_export(number: int, step: int) -> None:
        rates = validate(answers, recipe.validate)
        console.print(
            f"stage {number} step {step}: " + "  ".join(f"{k} {rate:.1%}" for k, rate in rates.items())
        )
        figures = {"stage": number, "step": step, "validation": rates}
        with log.open("a") as stream:
            stream.write(json.dumps(figures) + "\n")
        export(model, tower.contrast.head, target, figures | {"recipe": settings})

    make: Callable[[int], Batch] = partial(tower_batch, size=recipe.tower.batch, seed=100 * recipe.seed + 1)
    _train_or_load(tower, make, recipe.tower, recipe.output / "1-tower", console)
    for number, stage in enumerate(recipe.answers, start=2):
        answers.stage = stage
        make = partial(
            answer_batch,
            size=stage.batch,
            seed=100 * recipe.seed + number,
            questions=stage.questions,
            drill=stage.drill,
        )
        hook = partial(check_and_export, number)
        _train_or_load(answers, make, stage, recipe.output / f"{number}-answers", console, hook)

    notes = target / "training.json"
    done = {"stage": 1 + len(recipe.answers), "step": recipe.answers[-1].loop.steps}
    if not notes.is_file() or not done.items() <= json.loads(notes.read_text()).items():
        check_and_export(done["stage"], done["step"])  # died before the last export
    console.print(f"the trained model is in {target}")
    return target


def _train_or_load(
    objective: Objective,
    make: Callable[[int], Batch],
    stage: Stage,
    folder: Path,
    console: Console,
    on_checkpoint: Callable[[int], None] | None = None,
) -> None:
    """Train a stage from where it stands; a finished one only hands over its weights."""
    newest = latest_checkpoint(folder)
    if newest is not None and newest.name == f"step-{stage.loop.steps:07d}":
        load_checkpoint(newest, objective)
        return
    title = folder.name.replace("-", " ")
    train(objective, make, stage.loop, folder, title=title, on_checkpoint=on_checkpoint, console=console)


def main() -> None:
    """Command line: train the embedded model from a recipe."""
    parser = argparse.ArgumentParser(
        description="Train the embedded vision-language model; run again to continue."
    )
    parser.add_argument("recipe", type=Path)
    run(Recipe.load(parser.parse_args().recipe))


if __name__ == "__main__":
    main()
