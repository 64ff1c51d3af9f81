"""What an encoder of pictures is judged by when it stands alone: segmentation, depth, classification.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.bench.vision.tasks import ClassificationTask as ClassificationTask
    from tokenry.bench.vision.tasks import DepthTask as DepthTask
    from tokenry.bench.vision.tasks import SegmentationTask as SegmentationTask

__getattr__, __dir__, __all__ = face(__name__)
