"""Networks that are trained whole: backbones, language models, the embedded vision-language model."""
