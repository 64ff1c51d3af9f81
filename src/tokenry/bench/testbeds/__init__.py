"""Is a model a test bed? Lines that it has to meet before a verdict on a method is read off it.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.bench.testbeds.asking import BedArm as BedArm
    from tokenry.bench.testbeds.asking import BedLab as BedLab
    from tokenry.bench.testbeds.bed import Bed as Bed
    from tokenry.bench.testbeds.bed import open_bed as open_bed
    from tokenry.bench.testbeds.bed import scene_bed as scene_bed
    from tokenry.bench.testbeds.controls import LeastByCls as LeastByCls
    from tokenry.bench.testbeds.controls import Oracle as Oracle
    from tokenry.bench.testbeds.lines import LINES as LINES
    from tokenry.bench.testbeds.lines import Line as Line
    from tokenry.bench.testbeds.lines import Verdict as Verdict
    from tokenry.bench.testbeds.probes import Probed as Probed
    from tokenry.bench.testbeds.probes import probe_bed as probe_bed
    from tokenry.bench.testbeds.ranks import Rank as Rank
    from tokenry.bench.testbeds.ranks import rank_agreement as rank_agreement
    from tokenry.bench.testbeds.report import BedReport as BedReport
    from tokenry.bench.testbeds.report import accuracies as accuracies
    from tokenry.bench.testbeds.report import judge_bed as judge_bed
    from tokenry.bench.testbeds.report import measure_bed as measure_bed

__getattr__, __dir__, __all__ = face(__name__)
