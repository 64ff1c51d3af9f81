"""Where methods plug in to other people's models. The only room that knows transformers' internals.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.hosts.cost import Cost as Cost
    from tokenry.hosts.cost import decoder_flops as decoder_flops
    from tokenry.hosts.cost import encoder_flops as encoder_flops
    from tokenry.hosts.cost import kv_bytes as kv_bytes
    from tokenry.hosts.host import Host as Host
    from tokenry.hosts.pictures import Pictures as Pictures
    from tokenry.hosts.pictures import pixels_of as pixels_of
    from tokenry.hosts.position_tables import interpolated_positions as interpolated_positions
    from tokenry.hosts.prompt import question_inputs as question_inputs
    from tokenry.hosts.reducing.session import Session as Session
    from tokenry.hosts.trace import ItemTrace as ItemTrace
    from tokenry.hosts.vision import Encoded as Encoded
    from tokenry.hosts.vision import encode_pictures as encode_pictures
    from tokenry.hosts.vision import visual_kinds as visual_kinds

_MOVED = {
    "Calibration": "predict.Calibration",
    "CheckReport": "reduce.CheckReport",
    "DECODERS": "predict.lm.registry.DECODERS",
    "calibrate": "predict.calibrate",
    "check": "check",
    "decoder": "decoder",
    "encode": "reduce.encode",
    "generate": "generate",
    "load_model": "models.load:load_model",
    "reduced": "reduced",
}

__getattr__, __dir__, __all__ = face(__name__, moved=_MOVED)
