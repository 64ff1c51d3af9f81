"""Train the prompt tokens in ``src/tokenry/predict/lm/ppd/smollm2``, for Parallel Prompt Decoding with SmolLM2.

    python recipes/ppd_smollm2.py --out src/tokenry/predict/lm/ppd/smollm2

What they learn from is what SmolLM2-135M-Instruct itself writes, greedily, in answer to five kinds of requests about
handbooks and source code, since that is what they meet in decoding. Requests and answers have fixed lengths, so that no
text needs padding. About half of the time goes into writing the answers; all of it takes less than 30 minutes on two
cores. An interrupted run goes on from its folder.

Source: arXiv 2405.18628. Model: Apache-2.0; the prompt tokens are under the same licence.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenry.data.text.corpora import load_corpus
from tokenry.models.load import load
from tokenry.predict.lm.ppd.prompts import PromptTokens
from tokenry.predict.lm.ppd.training import (
    PromptTokenDistillation,
    TruncatedTexts,
    WholeTexts,
    acceptance_table,
    prompt_settings,
)
from tokenry.predict.lm.ppd.tree import best_trees
from tokenry.tokens.files import whole_file
from tokenry.train.loop import train

REQUESTS = (  # corpus, what is asked about a piece of it; the last kind is no request: the text just goes on
    ("debian-docs", "Summarize the following text in a few sentences.\n\n{text}"),
    ("debian-docs", "Write a list of ten facts about the following.\n\n{text}"),
    ("python", "Add comments to this Python code.\n\n```python\n{text}\n```"),
    ("python", "Explain what this code does, step by step.\n\n{text}"),
    ("debian-docs", None),
)
LENGTH = 96  # of a request, and of an answer, in tokens


def requests(tokenizer: Any, count: int) -> list[list[int]]:
    """Requests of equal length, `count` of each kind, about different texts."""
    found: list[list[int]] = []
    for kind, (corpus, request) in enumerate(REQUESTS):
        documents = load_corpus(corpus, limit=8_000_000).documents
        before, after = [], []
        if request is not None:
            message = [{"role": "user", "content": request}]
            chat = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            before, after = (tokenizer(part)["input_ids"] for part in chat.split("{text}"))
        room = LENGTH - len(before) - len(after)
        pieces = (
            tokenizer(text[start : start + 1500])["input_ids"]
            for text in documents[kind :: len(REQUESTS)]
            for start in range(0, len(text), 6000)
        )
        whole = [piece[-room:] for piece in pieces if len(piece) >= room]
        if len(whole) < count:
            raise SystemExit(f"{corpus} has {len(whole)} pieces of {room} tokens, fewer than {count}.")
        chosen = whole[:: len(whole) // count][:count]
        found += [[*before, *piece, *after] for piece in chosen]
    return found


def answers(model: Any, asked: Sequence[Sequence[int]], batch: int = 40) -> Tensor:
    """Requests with what the model answers."""
    found = []
    for start in range(0, len(asked), batch):
        ids = torch.tensor(asked[start : start + batch])
        mask = torch.ones_like(ids)
        found.append(
            model.generate(ids, attention_mask=mask, max_new_tokens=LENGTH, do_sample=False, pad_token_id=0)
        )
        print(f"answered {start + len(ids)} of {len(asked)}", flush=True)
    return torch.cat(found)


def main() -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the prompt tokens")
    parser.add_argument("--work", type=Path, default=Path("ppd-smollm2-training"), help="folder of the run")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--texts", type=int, default=64, help="to learn from, of each kind")
    parser.add_argument("--held-out", type=int, default=8, help="to measure on, of each kind")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--points", type=int, default=32)
    s = parser.parse_args()

    model, tokenizer = load("smollm2", dtype=torch.bfloat16)
    end = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = None  # all answers get the same length
    s.work.mkdir(parents=True, exist_ok=True)
    kept = s.work / f"answers-{s.texts}-{s.held_out}.safetensors"
    if not kept.exists():
        written = answers(model, requests(tokenizer, s.texts + s.held_out))
        with whole_file(kept) as scratch:
            save_file({"ids": written}, scratch)
    ids = load_file(kept)["ids"]
    measured = torch.arange(len(ids)) % (s.texts + s.held_out) >= s.texts
    prompts = PromptTokens.from_words(model, tokenizer, s.prompts)
    objective = PromptTokenDistillation(model, prompts, teacher="text")
    batches = TruncatedTexts(WholeTexts(ids[~measured], s.batch), s.points, least=LENGTH, ahead=s.prompts + 1)
    train(objective, batches, prompt_settings(s.steps), s.work / "run", title="prompt tokens", workers=0)

    def until_end(text: list[int]) -> list[int]:
        return text[: text.index(end, LENGTH) + 1] if end in text[LENGTH:] else text

    texts = [until_end(text) for text in ids[measured].tolist()]
    texts = [text for text in texts if len(text) > LENGTH + s.prompts]
    prompts.acceptance = acceptance_table(model, prompts, texts, first=LENGTH, teacher="text")
    prompts.about = {
        "model": "SmolLM2-135M-Instruct",
        "texts": "the model's own answers to requests about debian-docs and the Python standard library",
        "recipe": "recipes/ppd_smollm2.py",
        "settings": {name: value for name, value in vars(s).items() if not isinstance(value, Path)},
        "licence": "Apache-2.0, as the model",
    }
    prompts.save(s.out)
    for limit in (8, 16, 24):
        print(f"{limit} rows: {best_trees(prompts.acceptance, limit).tau():.3f} tokens per pass expected")


if __name__ == "__main__":
    main()
