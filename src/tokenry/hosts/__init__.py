"""Where methods plug in to other people's models. The only room that knows transformers' internals."""

from __future__ import annotations

from tokenry.hosts.cost import Cost, decoder_flops, encoder_flops, kv_bytes
from tokenry.hosts.host import Host
from tokenry.hosts.prompt import question_inputs
from tokenry.hosts.reducing.session import Session
from tokenry.hosts.trace import ItemTrace
from tokenry.hosts.vision import Encoded, encode_pictures, visual_kinds
from tokenry.tokens.faces import lazy

__all__ = [
    "Cost",
    "Encoded",
    "Host",
    "ItemTrace",
    "Session",
    "decoder_flops",
    "encode_pictures",
    "encoder_flops",
    "kv_bytes",
    "question_inputs",
    "visual_kinds",
]

_MOVED = {
    "DECODERS": "predict.lm.generate.DECODERS",
    "Calibration": "predict.Calibration",
    "CheckReport": "reduce.CheckReport",
    "calibrate": "predict.calibrate",
    "check": "check",
    "decoder": "decoder",
    "encode": "reduce.encode",
    "generate": "generate",
    "load_model": "models.load_model",
    "reduced": "reduced",
}

__getattr__, __dir__ = lazy(__name__, {}, moved=_MOVED)
