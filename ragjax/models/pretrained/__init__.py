"""Foreign weights, in and out: Hugging Face directories, sentence-transformers and GGUF files."""

from ragjax.models.pretrained.loading import Pretrained as Pretrained
from ragjax.models.pretrained.rag import load as load
from ragjax.models.pretrained.rag import load_rag as load_rag
from ragjax.models.pretrained.rag_model import PretrainedRag as PretrainedRag
from ragjax.models.pretrained.saving import save as save
