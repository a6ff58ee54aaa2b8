"""Records what transformers says of a directory that holds a RAG model; see make.py."""

import itertools
from pathlib import Path

import numpy as np
import torch
import transformers as hf

KINDS = {"sequence": hf.RagSequenceForGeneration, "token": hf.RagTokenForGeneration}
SMOOTHING = (0.0, 0.1)
BATCH, QUESTION, SOURCE, LABELS, LENGTH = 3, 6, 10, 6, 9


def inputs(config, seed):
    """A question, its contexts, and labels that begin with decoding's start; all are padded."""
    random, generator, count = np.random.default_rng(seed), config.generator, config.n_docs
    width = config.question_encoder.projection_dim or config.question_encoder.hidden_size

    def texts(rows, length, vocab, pad):
        tokens = random.integers(3, vocab, (rows, length))
        mask = np.arange(length) < random.integers(3, length + 1, (rows, 1))
        return np.where(mask, tokens, pad), mask.astype(np.int64)

    question, question_mask = texts(BATCH, QUESTION, config.question_encoder.vocab_size, 0)
    pad, start = generator.pad_token_id, generator.decoder_start_token_id
    contexts, contexts_mask = texts(BATCH * count, SOURCE, generator.vocab_size, pad)
    labels = random.integers(3, generator.vocab_size, (BATCH, LABELS))
    labels[:, 0] = start
    labels[1, 4:] = pad
    labels[2, 2:] = pad  # one target, of which RAG-Sequence there loses log p(d|x)
    begun = np.insert(labels, 1, 0 if generator.bos_token_id is None else generator.bos_token_id, 1)
    return {
        "input_ids": question,
        "attention_mask": question_mask,
        "retrieved_doc_embeds": random.normal(size=(BATCH, count, width)).astype(np.float32),
        "context_input_ids": contexts,
        "context_attention_mask": contexts_mask,
        "labels": labels,
        "labels_with_bos": begun,  # bos first in all rows
    }


def recorded(path: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs, losses, logits, gradients and generated ids of both kinds of RAG."""
    told = {}
    for kind, architecture in KINDS.items():
        model = architecture.from_pretrained(path).eval()
        given = inputs(model.config, seed)
        told |= given
        contexts = {
            name: torch.from_numpy(given[name])
            for name in ("context_input_ids", "context_attention_mask")
        }

        def scores(model=model, given=given):
            """As the model computes them when it retrieves, with gradients."""
            question, mask, embeds = (
                torch.from_numpy(given[name])
                for name in ("input_ids", "attention_mask", "retrieved_doc_embeds")
            )
            query = model.rag.question_encoder(question, attention_mask=mask)[0]
            return query, torch.bmm(query[:, None], embeds.transpose(1, 2))[:, 0]

        def losses(labels, smoothing, model=model, contexts=contexts, scores=scores, **options):
            model.config.label_smoothing = smoothing
            told = model(
                **contexts, doc_scores=scores()[1], labels=torch.from_numpy(labels), **options
            )
            return told.loss, told.logits

        with torch.no_grad():
            told["query"], told["doc_scores"] = (part.numpy() for part in scores())
            for name, smoothing in itertools.product(("labels", "labels_with_bos"), SMOOTHING):
                for excludes in (False, True):
                    options = {"exclude_bos_score": excludes} if kind == "sequence" else {}
                    for reduced in (False, True):
                        loss, logits = losses(
                            given[name], smoothing, reduce_loss=reduced, **options
                        )
                        key = f"{kind}/{name}/{smoothing}/{excludes}/{reduced}"
                        told[key] = loss.numpy()
                if name == "labels":
                    told["logits"] = logits.numpy()
            if kind == "token":
                logits = torch.from_numpy(told["logits"])
                told["marginal"] = model.marginalize(logits, scores()[1]).numpy()
        for smoothing in SMOOTHING:
            model.zero_grad()
            losses(given["labels"], smoothing, reduce_loss=True)[0].backward()
            named = [(name, part.grad) for name, part in model.named_parameters()]
            named = [(name, part) for name, part in named if part is not None]
            told[f"{kind}/gradient_names"] = np.array([name for name, _ in named])
            told[f"{kind}/gradients/{smoothing}"] = np.array([part.norm() for _, part in named])
        model.config.label_smoothing = 0.0
        with torch.no_grad():
            doc_scores = scores()[1]
            for beams, forced in itertools.product((1, 4), (False, True)):
                # RAG-Sequence looks for the bos in what it has written.
                bos = model.config.generator.bos_token_id
                first = bos if kind == "sequence" and bos is not None else 5
                options = {"forced_bos_token_id": first} if forced else {}
                if kind == "token":  # its cache breaks where encoder and decoder differ in layers
                    options["use_cache"] = False
                ids = model.generate(
                    **contexts,
                    doc_scores=doc_scores,
                    num_beams=beams,
                    max_length=LENGTH,
                    num_return_sequences=min(beams, 2),
                    **options,
                )
                told[f"{kind}/ids/{beams}/{forced}"] = ids.numpy()
    return told
