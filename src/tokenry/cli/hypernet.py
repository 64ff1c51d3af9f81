"""`tokenry vocab hypernet`: train the hypernetwork that predicts a model's rows for any vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli import options
from tokenry.cli.terminal import knowing, say, screen


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("hypernet")(train_hypernet)


def train_hypernet(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a language model, or 'smollm2'.")],
    on: Annotated[
        list[str], typer.Option("--on", help="A file, a folder, or the name of a corpus. Repeatable.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the hypernetwork.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps over sampled tokenizers.")] = 190_000,
    identity_steps: Annotated[int, typer.Option(min=1, help="Steps of the warm-up before.")] = 10_000,
    lr: Annotated[float, typer.Option(min=0, help="Peak learning rate after the warm-up.")] = 6e-5,
    identity_lr: Annotated[float, typer.Option(min=0, help="Peak learning rate of the warm-up.")] = 3e-4,
    batch: Annotated[int, typer.Option(min=1, help="Texts a step.")] = 128,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a text.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the hypernetwork.")] = 3,
    size: Annotated[int, typer.Option(min=1, help="Tokens of a sampled vocabulary.")] = 32_768,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Bytes of each named corpus to use.", show_default="all")
    ] = None,
    languages: Annotated[
        bool, typer.Option("--languages", help="Learn a vector for each corpus's language.")
    ] = False,
    every: Annotated[int, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints.")] = 500,
    precision: Annotated[str, typer.Option(help="bf16, fp16 or no.")] = "bf16",
    seed: Annotated[int, typer.Option(help="Of weights, texts and tokenizers.")] = 0,
) -> None:
    """Train a hypernetwork on a model (ZeTT), for `tokenry vocab transplant --method zett --hypernet FOLDER`.

    The defaults are the paper's and take days on an accelerator. The same command continues an interrupted training
    from its last checkpoint, in FOLDER/checkpoints.
    """
    from tokenry.data.text.sources import gather
    from tokenry.models.load import load
    from tokenry.text.zett import SamplerSettings
    from tokenry.text.zett.batches import ZettTraining
    from tokenry.text.zett.training import train_hypernetwork
    from tokenry.text.zett.transfer import save_hypernetwork

    settings = ZettTraining(
        layers=layers,
        identity_steps=identity_steps,
        identity_lr=identity_lr,
        steps=steps,
        lr=lr,
        warmup=min(10_000, max(1, steps // 19)),
        batch=batch,
        length=length,
        sampler=SamplerSettings(size=size),
        precision=precision,
        checkpoint_every=every,
        seed=seed,
    )
    options.check_writable(out)
    corpora = gather(on, limit=limit)
    texts = {
        language: [text for one in corpora if one.language == language for text in one.documents]
        for language in dict.fromkeys(one.language for one in corpora)
    }
    everything = [text for documents in texts.values() for text in documents]
    loaded, tokenizer = load(model, reads="text")
    checkpoints = out / "checkpoints"
    with knowing(f"Checkpoints are in {checkpoints}; the same command goes on there."):
        hypernet = train_hypernetwork(
            loaded,
            tokenizer,
            texts if languages else everything,
            checkpoints,
            settings,
            console=screen(),
        )
    save_hypernetwork(hypernet, out)
    say(
        f"Saved to {out}. Use it with: tokenry vocab transplant MODEL --to TOKENIZER --method zett --hypernet {out}"
    )
