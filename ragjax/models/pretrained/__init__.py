"""Foreign weights, in and out: Hugging Face directories, sentence-transformers and GGUF files."""

from ragjax.models.pretrained.loading import Pretrained as Pretrained
from ragjax.models.pretrained.loading import load as load
from ragjax.models.pretrained.loading import save as save
