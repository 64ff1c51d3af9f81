"""DupMAE: an encoder whose [CLS], and whose other tokens, are worth searching with."""

from tokenry.embed.dupmae.encoder import DupmaeEncoder
from tokenry.embed.dupmae.training import DupmaeObjective, DupmaeSettings
from tokenry.tokens.moved import former_names

__all__ = ["DupmaeEncoder", "DupmaeObjective", "DupmaeSettings"]

__getattr__ = former_names(__name__)
