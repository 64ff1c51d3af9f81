"""Future Token Prediction: are its states smoother, and do they say more about the text, at equal next-token loss?"""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.manpages import ManPage, each_manpage, manpages_provenance
from tokenry.models.language.ftp.model import FTPConfig, FTPForCausalLM
from tokenry.models.language.ftp.training import FutureTokenPrediction, adjacent_cosine, with_positions
from tokenry.text.measure import bits_per_byte
from tokenry.text.training import train_bpe
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack
from tokenry.train.loop import LoopSettings


def experiment(study: Study) -> Outcome:
    """FTP against a GPT of as many parameters on manual pages: next token, adjacent cosine, section of the page."""
    s = study.settings
    long = (page for page in each_manpage("en") if len(page.description) >= s["least_characters"])
    pages = list(islice(long, s["pages"]))
    held_out = pages[:: s["every"]]
    train_on = [page for i, page in enumerate(pages) if i % s["every"]]
    texts = [page.text for page in train_on]
    tokenizer = train_bpe(texts, s["vocabulary"])
    ids = pack(tokenizer, texts)
    shared = dict(
        vocab_size=s["vocabulary"],
        n_positions=s["context"],
        n_embd=s["width"],
        n_head=s["heads"],
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    schedule = LoopSettings(steps=s["steps"], lr=s["lr"], warmup=max(1, s["steps"] // 20))
    scored = [page.text[: s["measured_characters"]] for page in held_out[: s["measured_pages"]]]
    rows: dict[str, list[dict[str, float]]] = {"ftp": [], "gpt": []}
    for seed in study.seeds:
        batches = TokenBatches(ids, s["context"], s["batch"], seed=seed)
        torch.manual_seed(seed)
        ftp = FTPForCausalLM(
            FTPConfig(
                n_layer=s["layers"],
                horizon=s["horizon"],
                slots=s["slots"],
                decoder_layers=s["decoder_layers"],
                gamma=s["gamma"],
                **shared,
            )
        )
        torch.manual_seed(seed)
        gpt = GPT2LMHeadModel(GPT2Config(n_layer=_layers_like(ftp, s), **shared))
        arms: dict[str, PreTrainedModel] = {
            "ftp": study.train(
                FutureTokenPrediction(ftp),
                with_positions(batches, s["asked"], seed),
                schedule,
                f"ftp-{seed}",
            ).model,
            "gpt": study.train(CausalLanguageModel(gpt), batches, schedule, f"gpt-{seed}").model,
        }
        for name, model in arms.items():
            body = model.base_model
            sample = TokenBatches(pack(tokenizer, scored), s["context"], 8, seed=0)(0)["input_ids"]
            with torch.no_grad():
                cosine = float(adjacent_cosine(body(input_ids=sample).last_hidden_state))
            rows[name].append(
                {
                    "bits per byte": bits_per_byte(model, tokenizer, scored, window=s["context"]),
                    "adjacent cosine": cosine,
                    "section, % right": 100 * _probe(body, tokenizer, train_on, held_out, s),
                    "million parameters": model.num_parameters() / 1e6,
                }
            )
    pairs = list(zip(rows["ftp"], rows["gpt"], strict=True))

    def differences(what: str) -> Measurement:
        return Measurement.of([a[what] - b[what] for a, b in pairs])

    return Outcome(
        metric="mean cosine of adjacent states on held-out manual pages",
        ours=Arm.of("FTP", tuple(a["adjacent cosine"] for a in rows["ftp"])),
        baseline=Arm.of(
            "GPT with as many parameters, equal steps", tuple(b["adjacent cosine"] for b in rows["gpt"])
        ),
        measurements={
            "adjacent cosine over GPT": differences("adjacent cosine"),
            "points of section probe over GPT": differences("section, % right"),
            "bits per byte over GPT": Measurement.of(
                [a["bits per byte"] / b["bits per byte"] for a, b in pairs]
            ),
        },
        tables={
            "seed 0": {
                name: {key: round(value, 4) for key, value in found[0].items()}
                for name, found in rows.items()
            }
        },
        data=manpages_provenance("en"),
    )


def _layers_like(ftp: FTPForCausalLM, settings: Any) -> int:
    """How many layers a GPT needs for about as many parameters."""
    beyond = ftp.num_parameters() - ftp.encoder.wte.weight.numel() - ftp.encoder.wpe.weight.numel()
    return max(1, round(beyond / (12 * settings["width"] ** 2)))


def _probe(
    body: Any, tokenizer: Any, train_on: list[ManPage], held_out: list[ManPage], settings: Any
) -> float:
    """Share of held-out pages whose section a linear probe names, from the states alone."""
    x, y = _described(body, tokenizer, train_on, settings["probe_tokens"])
    x_test, y_test = _described(body, tokenizer, held_out, settings["probe_tokens"])
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x, x_test = ((part - mean) / spread for part in (x, x_test))
    targets = torch.nn.functional.one_hot(y, int(y.max()) + 1).double()
    bias = targets.mean(0)
    weights = torch.linalg.solve(
        x.T @ x + settings["ridge"] * torch.eye(x.shape[1]).double(), x.T @ (targets - bias)
    )
    return float(((x_test @ weights + bias).argmax(1) == y_test).double().mean())


@torch.no_grad()
def _described(
    body: Any, tokenizer: Any, pages: list[ManPage], tokens: int
) -> tuple[Float[Tensor, "p d"], Int[Tensor, " p"]]:
    """The mean state over the beginning of each description, and the section (its first digit)."""
    means = []
    for page in pages:
        ids = tokenizer(page.description, return_tensors="pt", add_special_tokens=False)["input_ids"][
            :, :tokens
        ]
        means.append(body(input_ids=ids).last_hidden_state[0].mean(0))
    sections = torch.tensor([int(page.section[0]) for page in pages])
    return torch.stack(means).double(), sections
