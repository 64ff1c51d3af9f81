"""TokenAdapt (arXiv 2505.09738): rows from old pieces and nearest neighbours, and vocabularies with supertokens."""

from tokenry.text.transplant.tokenadapt.method import TokenAdapt
from tokenry.text.transplant.tokenadapt.supertokens import train_supertokens

__all__ = ["TokenAdapt", "train_supertokens"]
