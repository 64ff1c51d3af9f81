"""Modules, and names in them, as version 0.1 had them: for one release they give those of today, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

_MOVED: Final[dict[str, str]] = dict(
    line.split()
    for line in """
    bench.arms bench.reducers.arms
    bench.canvas bench.charts.canvas
    bench.choose bench.reducers.choose
    bench.columns bench.reducers.columns
    bench.compare bench.reducers.compare
    bench.data bench.reducers.data
    bench.decoding bench.decoders.compare
    bench.decoding_log bench.decoders.log
    bench.decoding_report bench.decoders.report
    bench.demo bench.reducers.demo
    bench.export bench.reducers.export
    bench.headline bench.reducers.headline
    bench.measure bench.reducers.measure
    bench.metrics bench.reducers.metrics
    bench.overlay bench.reducers.overlay
    bench.page bench.reducers.page
    bench.plots bench.reducers.plots
    bench.prompts bench.reducers.prompts
    bench.report bench.reducers.report
    bench.results bench.reducers.results
    bench.running bench.reducers.running
    bench.single bench.reducers.single
    bench.summary bench.reducers.summary
    bench.table bench.reducers.table
    bench.transplant bench.vocabularies.transplant
    bench.tune bench.reducers.tune
    bench.vocab bench.vocabularies.compare
    checkpoints hosts.checkpoints
    data.choices data.questions.choices
    data.code_tasks data.text.code_tasks
    data.corpora data.text.corpora
    data.examples data.questions.examples
    data.fashion_mnist data.images.fashion_mnist
    data.files tokens.files
    data.manpages data.text.manpages
    data.markup data.text.markup
    data.metrics data.questions.metrics
    data.pack data.scenes.pack
    data.pictures data.images.pictures
    data.prompts data.text.prompts
    data.question_columns data.questions.columns
    data.question_files data.questions.files
    data.question_layouts data.questions.layouts
    data.reviews data.text.reviews
    data.roff data.text.roff
    data.sources data.text.sources
    data.stamps data.images.stamps
    data.symbols data.text.symbols
    data.textures data.scenes.textures
    data.vqa_answers data.questions.vqa_answers
    embed.clustered_rag embed.crag.pipeline
    embed.clusters embed.crag.clusters
    embed.summarise embed.crag.summarise
    hosts.attachment hosts.reducing.hooks
    hosts.calibrate predict.lm.calibrate
    hosts.check reduce.check
    hosts.choosing hosts.reducing.apply
    hosts.chunk hosts.reducing.call
    hosts.generate predict.lm.generate
    hosts.items hosts.reducing.items
    hosts.layout hosts.reducing.layout
    hosts.load models.load
    hosts.memory hosts.reducing.ledger
    hosts.moving hosts.reducing.item_io
    hosts.oracle hosts.reducing.oracle
    hosts.outputs hosts.reducing.outputs
    hosts.plan hosts.reducing.plan
    hosts.probes hosts.reducing.attention
    hosts.session hosts.reducing.session
    hosts.speculate predict.lm.speculate
    hosts.trial predict.lm.requirements
    hosts.turn hosts.reducing.turns
    hosts.warm_up predict.lm.token_recycling.warm_up
    learn.acm models.adaptive.acm.training
    learn.cabrita text.cabrita.training
    learn.classification train.classification
    learn.contrast models.vlm.embedded.contrast
    learn.cubert text.cubert.training
    learn.duo models.adaptive.duo_llm.training
    learn.dupmae embed.dupmae.training
    learn.encoder_data train.rows
    learn.flash predict.lm.flash.training
    learn.ftp models.language.ftp.training
    learn.language train.language
    learn.lexinvariant models.language.lexinvariant.training
    learn.loop train.loop
    learn.masked_lm train.masked_lm
    learn.masking train.masking
    learn.mrt5 models.mrt5.training
    learn.octopus predict.octopus_v4.training
    learn.patch_labels models.vlm.embedded.patch_labels
    learn.ppd predict.lm.ppd.training
    learn.recipe train.recipe
    learn.resuming train.resuming
    learn.signals train.signals
    learn.transplant text.transplant.training
    learn.vlm models.vlm.embedded
    learn.vlm.batches models.vlm.embedded.batches
    learn.vlm.objectives models.vlm.embedded.objectives
    learn.vlm.recipe models.vlm.embedded.training
    learn.vlm.training models.vlm.embedded.training
    learn.words models.language.word_models
    learn.zett text.zett.training
    learn.zett_batches text.zett.batches
    models.acm models.adaptive.acm.layer
    models.acm_convert models.adaptive.acm.conversion
    models.acm_layers models.adaptive.acm.sites
    models.byte2word models.language.byte2word
    models.caption_head models.vlm.embedded.caption_head
    models.conditional models.adaptive.conditional
    models.controller train.rate_control
    models.deletion models.mrt5.gates
    models.duo models.adaptive.duo_llm.model
    models.duo_oracle models.adaptive.duo_llm.oracle
    models.duo_routing models.adaptive.duo_llm.routing
    models.embedded models.vlm.embedded.model
    models.flash predict.lm.flash.drafter
    models.ftp models.language.ftp.model
    models.functional_adapter predict.octopus_v4.adapter
    models.functional_tokens predict.octopus_v4.tokens
    models.hat models.language.hat
    models.learn_your_tokens models.language.learn_your_tokens
    models.lexinvariant models.language.lexinvariant.model
    models.mrt5_blocks models.mrt5.blocks
    models.ppd predict.lm.ppd.prompts
    models.ragged models.language.ragged
    models.tokenformer models.language.tokenformer
    models.writing models.language.word_generation
    predict.lm.byte_model predict.lm.byte_probabilities.byte_model
    predict.lm.cache predict.lm.byte_probabilities.cache
    predict.lm.covers predict.lm.byte_probabilities.covers
    predict.lm.drawing predict.lm.byte_probabilities.base
    predict.lm.ensemble predict.lm.byte_probabilities.ensemble
    predict.lm.fim predict.lm.byte_probabilities.fim
    predict.lm.healing predict.lm.byte_probabilities.healing
    predict.lm.pairs predict.lm.byte_probabilities.pairs
    predict.lm.ppd_tree predict.lm.ppd.tree
    predict.lm.shapes predict.lm.byte_probabilities.shapes
    predict.lm.validity predict.lm.byte_probabilities.validity
    predict.octopus predict.octopus_v4
    predict.octopus.dispatch predict.octopus_v4.dispatch
    predict.octopus.graph predict.octopus_v4.graph
    predict.octopus.router predict.octopus_v4.router
    reduce.diverse reduce.shared.diverse
    reduce.matching reduce.shared.matching
    reduce.outliers reduce.shared.outliers
    text.auxiliary text.string_vectors
    text.boundaries text.dynamic_tokenization.boundaries
    text.embedding_cache text.dynamic_tokenization.embedding_cache
    text.filters text.cabrita.filters
    text.large_vocabulary text.dynamic_tokenization.large_vocabulary
    text.lexicon text.lib.ranked
    text.merge_queue text.dynamic_tokenization.merge_queue
    text.supertokens text.transplant.tokenadapt.supertokens
    text.plain hosts.plain_text
    upstream hosts.upstream
    wrappers hosts.wrappers
    """.strip().splitlines()
)

_NAMES: Final[tuple[str, ...]] = (
    "data.questions: data.questions.reading Asked=AskedRecord asked",
    "data.scenes: data.scenes.scenes Box Cell DIRECTIONS Item KINDS MAX_COUNT PLACES Question"
    " SIGN_COLOURS Scene Sign TEXTURES patch_class_names patch_classes reserved_words sign_words"
    " split_of",
    "data.scenes: data.scenes.compose make_scene",
    "data.scenes: data.scenes.style CELLS Split",
    "embed.crag: embed.crag.method ClusterSummary Knowledge break_even changed header one_line reduction summarised"
    " text_key",
    "embed.dupmae: embed.dupmae.encoder Representation sparse_scores spread",
    "models.mrt5: models.mrt5.model MrT5Encoder MrT5EncoderOutput",
    "models.pretrained: models.load load_smollm2",
    "models.vlm.embedded.model: models.load load_embedded",
    "predict.lm.flash: predict.lm.flash.proposer likeliest_tree static_tree",
    "predict.lm.ppd: predict.lm.ppd.proposer PlannedRows Search",
    "predict.lm.token_recycling: predict.lm.token_recycling.proposer template",
    "reduce.registry: reduce method=reducer methods=reducers",
    "reduce.shared.diverse: reduce.shared.diverse chosen=index_mask",
    "reduce.shared.outliers: reduce.shared.outliers stands_out=is_outlier",
    "text.cabrita: text.cabrita.vocabulary Pair Pieces",
    "text.cubert: text.cubert.tokenizer CodeToken Kind SPECIAL_TOKENS join lex parts sentences split token_parts"
    " untokenize",
    "text.dynamic_tokenization: text.dynamic_tokenization.model Key Scope",
    "text.lib: text.lib.learning Context",
    "tokens.reduction: tokens best=top_mask",
    "tokens.view: tokens Needs Stage",
)
"""Modules that no longer have some of their names: where these are today, a line a home."""


def former_names(module: str) -> Callable[[str], Any]:
    """`__getattr__` of a module that still finds names which have left it (PEP 562).

    Args:
        module: its `__name__`; what it had is told in this module's table.
    """
    today: dict[str, tuple[str, str]] = {}
    for line in _NAMES:
        of, _, rest = line.partition(":")
        if f"tokenry.{of}" == module:
            home, *names = rest.split()
            today |= {
                old: (f"tokenry.{home}", new or old) for old, _, new in (n.partition("=") for n in names)
            }

    def get(name: str) -> Any:
        if name not in today:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, new = today[name]
        value = getattr(import_module(home), new)
        warnings.warn(
            f"{module}.{name} is now {home}.{new}; the old name goes with the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        return value

    return get


class _Alias(Loader):
    """Hands out a module that exists under another name."""

    def __init__(self, name: str) -> None:
        self._module = import_module(name)
        self._spec = self._module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of today."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; it keeps saying where it comes from."""
        module.__spec__ = self._spec


class _Moved(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module of today for a name of version 0.1."""
        room, _, old = fullname.partition(".")
        if room != "tokenry" or old not in _MOVED:
            return None
        name = f"{room}.{_MOVED[old]}"
        warnings.warn(
            f"{fullname} has moved to {name}; the old name goes with the next release. Names "
            "that are meant to stay are those of the rooms, such as `tokenry.predict`.",
            DeprecationWarning,
            stacklevel=2,
        )
        return ModuleSpec(fullname, _Alias(name))


def install() -> None:
    """Let old names be imported, once."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        # First: an old package's path would lead to a second copy of a module that is there under its new name.
        sys.meta_path.insert(0, _Moved())
