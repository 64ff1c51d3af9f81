"""TokenFormer: does a model that grew by appended key-value tokens match one trained large from the start?"""

from __future__ import annotations

import torch

from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.models.language.tokenformer import TokenFormerConfig, TokenFormerForCausalLM
from tokenry.text.measure import bits_per_byte
from tokenry.text.training import train_bpe
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack
from tokenry.train.loop import LoopSettings


def experiment(study: Study) -> Outcome:
    """Train small, grow twofold with keys of zero, train on; against fresh large models of equal steps and FLOPs."""
    s = study.settings
    corpus = load_corpus(s["corpus"], limit=s["bytes"])
    train_on, held_out = corpus.split(s["held_out"])
    tokenizer = train_bpe(train_on.documents, s["vocabulary"])
    ids = pack(tokenizer, train_on.documents)
    texts = [text[: s["measured_characters"]] for text in held_out.documents[: s["measured_documents"]]]

    def fresh(tokens: int, seed: int) -> TokenFormerForCausalLM:
        torch.manual_seed(seed)
        return TokenFormerForCausalLM(
            TokenFormerConfig(
                vocab_size=s["vocabulary"],
                hidden_size=s["width"],
                num_hidden_layers=s["layers"],
                num_attention_heads=s["heads"],
                max_position_embeddings=s["context"],
                qkv_tokens=tokens,
                proj_tokens=tokens,
                ffn_tokens=4 * tokens,
            )
        )

    def trained(model: TokenFormerForCausalLM, steps: int, name: str, seed: int) -> TokenFormerForCausalLM:
        # a continued training sees other stretches than the first one did
        batches = TokenBatches(ids, s["context"], s["batch"], seed=seed + (1 if "grown" in name else 0))
        schedule = LoopSettings(
            steps=steps,
            lr=s["lr"],
            warmup=max(1, steps // 20),
            betas=(0.9, 0.95),
            weight_decay=s["weight_decay"],
        )
        return study.train(CausalLanguageModel(model), batches, schedule, f"{name}-{seed}").model.eval()

    def bits(model: TokenFormerForCausalLM) -> float:
        return bits_per_byte(model, tokenizer, texts, window=s["context"])

    small_n, large_n = s["tokens"], 2 * s["tokens"]
    cost = {n: _flops(fresh(n, 0), s["context"]) for n in (small_n, large_n)}
    equal_steps = s["grown_steps"] + round(s["small_steps"] * cost[small_n] / cost[large_n])
    rows: dict[str, list[float]] = {}
    for seed in study.seeds:
        small = trained(fresh(small_n, seed), s["small_steps"], "small", 10 * seed)
        found = {"small": bits(small)}
        found["just grown, tau rescaled"] = bits(_copy(small).grow(small_n, tau="rescale", seed=seed))
        grown = small.grow(small_n, seed=seed)
        found["just grown, tau kept"] = bits(grown)
        found["grown"] = bits(trained(grown, s["grown_steps"], "grown", 10 * seed))
        found["fresh, steps after growth"] = bits(
            trained(fresh(large_n, seed), s["grown_steps"], "fresh-short", 10 * seed)
        )
        found["fresh, FLOPs of all steps"] = bits(
            trained(fresh(large_n, seed), equal_steps, "fresh-long", 10 * seed)
        )
        for name, value in found.items():
            rows.setdefault(name, []).append(value)

    def ratio(a: str, b: str) -> list[float]:
        return [x / y for x, y in zip(rows[a], rows[b], strict=True)]

    def change(a: str) -> list[float]:
        return [x - y for x, y in zip(rows[a], rows["small"], strict=True)]

    return Outcome(
        metric=f"bits per byte of held-out documents ({s['corpus']})",
        ours=Arm.of("grown twofold after a small start", tuple(rows["grown"])),
        baseline=Arm.of("large from the start, equal FLOPs", tuple(rows["fresh, FLOPs of all steps"])),
        measurements={
            "grown over fresh at equal steps": Measurement.of(ratio("grown", "fresh, steps after growth")),
            "grown over fresh at equal FLOPs": Measurement.of(ratio("grown", "fresh, FLOPs of all steps")),
            "change by growth, tau kept": Measurement.of([abs(x) for x in change("just grown, tau kept")]),
            "change by growth, tau rescaled": Measurement.of(change("just grown, tau rescaled")),
        },
        tables={
            "bits per byte": {
                name: {"bits per byte": round(Measurement.of(v).value, 4)} for name, v in rows.items()
            }
        },
        details={
            "steps": {
                "small": s["small_steps"],
                "grown": s["grown_steps"],
                "fresh, FLOPs of all steps": equal_steps,
            },
            "forward FLOPs per token": {f"{n} tokens": cost[n] for n in cost},
        },
        data=corpus.provenance,
    )


def _copy(model: TokenFormerForCausalLM) -> TokenFormerForCausalLM:
    copy = TokenFormerForCausalLM(type(model.config)(**model.config.to_diff_dict()))
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def _flops(model: TokenFormerForCausalLM, context: int) -> int:
    """Of one token's forward pass: twice the weights (the head is the embedding), and attention to half a context."""
    config = model.config
    return int(2 * model.num_parameters() + 2 * config.num_hidden_layers * config.hidden_size * context)
