"""Writes the goldens beside this file: tiny random models, and what transformers says of them.

    pip install torch==2.13.0 transformers==5.24.0
    python tests/goldens/make.py

Each folder is a model's directory as `save_pretrained` writes it, and golden.npz, inputs and outputs;
gguf_tokenizers.json and tokenizer_files.json hold small vocabularies, and what transformers' tokenizers
make of texts with them.
The tests need neither package.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers as hf
from make_rag import recorded
from tokenizers import normalizers, pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.tokenization_utils_base import generate_merges

HERE = Path(__file__).parent
VOCAB, LENGTH, FED, NEW = 48, 9, 6, 8
PAD, END = 0, 2
SPECIAL = {"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": END}


def randomised(model):
    """The model with all parameters drawn, those of norms and biases too, since 0 and 1 hide faults."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() > 1:
                value.copy_(noise / value.shape[-1] ** 0.5)
            else:
                value.copy_(0.2 * noise + ("weight" in name))
        for name, value in model.named_buffers():
            if "final_logits_bias" in name:
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()


def inputs(pad):
    """[3,LENGTH] tokens of three lengths, and their mask."""
    tokens = np.random.default_rng(0).integers(3, VOCAB, (3, LENGTH))
    mask = np.arange(LENGTH) < np.array([[LENGTH], [6], [3]])
    return np.where(mask, tokens, pad), mask


def torched(*arrays):
    return [torch.from_numpy(np.asarray(array).astype(np.int64)) for array in arrays]


def write(name, model, **arrays):
    model.save_pretrained(HERE / name)
    np.savez_compressed(HERE / name / "golden.npz", **arrays)


def mean(output, attention):
    counted = attention[..., None].float()
    pooled = (output.last_hidden_state * counted).sum(1) / counted.sum(1)
    return torch.nn.functional.normalize(pooled, dim=1)


@torch.no_grad()
def encoder(name, model, pooled):
    tokens, mask = inputs(PAD)
    ids, attention = torched(tokens, mask)
    embedded = pooled(model(ids, attention_mask=attention), attention)
    write(name, model, tokens=tokens, mask=mask, embedded=embedded.numpy())


@torch.no_grad()
def sequence(name, model, start, pad):
    tokens, mask = inputs(pad)
    drawn = np.random.default_rng(1).integers(3, VOCAB, (3, FED - 1))
    fed = np.concatenate([np.full((3, 1), start), drawn], axis=1)
    ids, attention, given = torched(tokens, mask, fed)
    logits = model(input_ids=ids, attention_mask=attention, decoder_input_ids=given).logits
    options = {"attention_mask": attention, "max_new_tokens": NEW, "do_sample": False}
    greedy = model.generate(ids, num_beams=1, **options)
    beam = model.generate(ids, num_beams=4, **options)
    write(
        name,
        model,
        tokens=tokens,
        mask=mask,
        fed=fed,
        logits=logits.numpy(),
        greedy=greedy.numpy(),
        beam=beam.numpy(),
    )


@torch.no_grad()
def language(name, model):
    tokens, mask = inputs(PAD)
    ids, attention = torched(tokens, mask)
    logits = model(ids, attention_mask=attention).logits
    flipped = [torch.flip(part, [1]) for part in (ids, attention)]
    options = {"attention_mask": flipped[1], "max_new_tokens": NEW, "do_sample": False}
    greedy = model.generate(flipped[0], **options)
    write(name, model, tokens=tokens, mask=mask, logits=logits.numpy(), greedy=greedy.numpy())


def sentence_transformer(name):
    """The files by which sentence-transformers tells its pooling."""
    steps = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, (kind, path) in enumerate(steps)
    ]
    (HERE / name / "modules.json").write_text(json.dumps(modules, indent=2) + "\n")
    pooling = {"word_embedding_dimension": 16} | {
        f"pooling_mode_{mode}": mode == "mean_tokens"
        for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    }
    (HERE / name / "1_Pooling").mkdir()
    (HERE / name / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2) + "\n")


BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
DECODER = BERT | {
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": END,
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
    "decoder_start_token_id": PAD,
    "pad_token_id": PAD,
    "eos_token_id": 1,
}


def bart():
    return hf.BartConfig(
        vocab_size=VOCAB,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=20,
        max_position_embeddings=30,
        scale_embedding=True,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )


def untied_t5():
    model = randomised(
        hf.T5ForConditionalGeneration(
            hf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
        )
    )
    # As the checkpoints of version 1.1 have it, which transformers 5 would make tied.
    drawn = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(1))
    model.lm_head.weight = torch.nn.Parameter(drawn / 4)
    model.config.tie_word_embeddings = False
    return model


def rag(name, question_encoder, generator, count):
    config = hf.RagConfig.from_question_encoder_generator_configs(
        question_encoder, generator, n_docs=count
    )
    randomised(hf.RagTokenForGeneration(config=config)).save_pretrained(HERE / name)
    np.savez_compressed(HERE / name / "golden.npz", **recorded(HERE / name))


TEXTS = (
    *(
        "",
        " ",
        "hello world, look",
        "  Hello,  WORLD!!\n\n\tIt's 12 of 1234567 and I'LL see   9",
        "naïve",
    ),
    *(
        "cafe\u0301 \u00bd \u2167 \u0663\u0664",
        "日本語 Привет नमस्ते عالم",
        "😀👩\u200d👧 \u00a0x\u3000y",
    ),
    *(
        "def f(x):\r\n    return x**2  # the other\n",
        "<s>the<end>\n <tool> there <end><end> the ",
        "▁ the▁▁",
    ),
)
ENGLISH = (
    "the other there then hello world, the 12 of 2024  and I'll see 1234 words;  it's a world of words\n"
    "    return the world    # there are 12 others\n\n  café naïve "
)


def byte_level():
    """Tokens and merges of bytes, learnt from a few words, with two tokens that are not merged."""
    learnt = tokenizers.Tokenizer(tokenizers.models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learnt.train_from_iterator([ENGLISH], trainer)
    model = json.loads(learnt.to_str())["model"]
    vocab = model["vocab"]
    # A word that no merges make, which only Llama 3 takes whole.
    tokens = [*sorted(vocab, key=vocab.__getitem__), "Ġlook", "<s>", "<end>", "<tool>"]
    return tokens, [tuple(merge) for merge in model["merges"]]


def sentencepiece():
    """Tokens, and their scores, as SentencePiece keeps them: of the merges the first are the highest."""
    given = ["<unk>", "<s>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merged = (
        "▁t",
        "he",
        "▁the",
        "re",
        "or",
        "▁w",
        "ld",
        "orld",
        "▁world",
        "ll",
        "hello",
        "▁▁",
        "he▁",
    )
    letters = "▁etaonrhdlswIcif,.12"
    tokens = [*given, *merged, "lo", "llo", *letters, "<tool>"]
    scores = [0.0 if token in given else -float(number) for number, token in enumerate(tokens)]
    return tokens, scores


def gguf_tokenizers(path):
    """What is in a GGUF file, and the ids of texts by its tokenizer.ggml.pre."""
    tokens, merges = byte_level()
    vocab = {token: number for number, token in enumerate(tokens)}
    pieces, scores = sentencepiece()
    numbers = {piece: number for number, piece in enumerate(pieces)}

    def gpt2(*before):
        made = hf.GPT2Tokenizer(vocab=vocab, merges=merges, unk_token=None, eos_token="<end>")
        made = made.backend_tokenizer
        made.pre_tokenizer = pre_tokenizers.Sequence([*before, made.pre_tokenizer])
        return made

    llama3 = gpt2()
    llama3.model = tokenizers.models.BPE(vocab, merges, ignore_merges=True)
    llama3.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                tokenizers.Regex(GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"]), "isolated"
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    options = {"vocab": vocab, "merges": merges, "unk_token": None}
    options |= {"pad_token": "<end>", "eos_token": "<end>"}
    joined = generate_merges(numbers, dict(zip(pieces, scores, strict=True)), pieces[:259])
    llama = hf.LlamaTokenizer(vocab=numbers, merges=joined, eos_token="<end>").backend_tokenizer
    # As the tokenizer.json of Llama 2 has it: a space before each text, also one that begins with a
    # space, which LlamaTokenizer's own Metaspace would not add.
    llama.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    llama.pre_tokenizer = None
    made = {
        "gpt-2": gpt2(),
        "smollm": gpt2(pre_tokenizers.Digits(individual_digits=True)),
        "llama-bpe": llama3,
        "qwen2": hf.Qwen2Tokenizer(**options).backend_tokenizer,
        "llama": llama,
    }
    for tokenizer in made.values():
        special = [tokenizers.AddedToken(token, normalized=False) for token in ("<s>", "<end>")]
        tokenizer.add_special_tokens(special)
        tokenizer.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
    golden = {
        **{"tokens": tokens, "merges": [" ".join(merge) for merge in merges]},
        **{"pieces": pieces, "scores": scores, "texts": TEXTS},
        "ids": {
            name: [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
            for name, tokenizer in made.items()
        },
    }
    path.write_text(json.dumps(golden, ensure_ascii=False) + "\n", "utf-8")


def tokenizer_files(path):
    """The files of tokenizers without a tokenizer.json, and the ids of texts by transformers' own."""
    words = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdehilorstuwé東京.,'"]
    words += [*(f"##{letter}" for letter in "abcdehilorstuwé"), "hello", "world", "big"]
    tokens, merges = byte_level()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    byte_words = [*special, *(token for token in tokens if token not in special)]
    files = {
        "vocab.txt": "".join(f"{word}\n" for word in words),
        "vocab.json": json.dumps({token: number for number, token in enumerate(byte_words)}),
        "merges.txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges),
    }
    cases = {
        "bert": ("BertTokenizer", ["vocab.txt"], {}),
        "bert, cased": ("BertTokenizer", ["vocab.txt"], {"do_lower_case": False}),
        "bart": ("BartTokenizer", ["vocab.json", "merges.txt"], {}),
    }
    golden = {"files": files, "texts": [*TEXTS, "Héllo [MASK] wörld <mask>, 東京!"], "cases": {}}
    for name, (kind, needed, settings) in cases.items():
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory)
            for file in needed:
                (folder / file).write_text(files[file], "utf-8")
            config = {"model_type": name.partition(",")[0]}
            (folder / "config.json").write_text(json.dumps(config))
            settings = {"tokenizer_class": kind} | settings
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
            made = hf.AutoTokenizer.from_pretrained(folder)
            ids = [made(text)["input_ids"] for text in golden["texts"]]
        golden["cases"][name] = {"files": needed, "settings": settings, "ids": ids}
    path.write_text(json.dumps(golden, ensure_ascii=False) + "\n", "utf-8")


def main():
    for folder in HERE.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    first = lambda output, _: output.last_hidden_state[:, 0]  # noqa: E731
    encoder("bert", randomised(hf.BertModel(hf.BertConfig(**BERT))), first)
    pooler = lambda output, _: output.pooler_output  # noqa: E731
    projected = hf.DPRConfig(**BERT, projection_dim=10)
    encoder("dpr_question", randomised(hf.DPRQuestionEncoder(projected)), pooler)
    encoder("dpr_context", randomised(hf.DPRContextEncoder(hf.DPRConfig(**BERT))), pooler)
    encoder("sentence_transformer", randomised(hf.BertModel(hf.BertConfig(**BERT))), mean)
    sentence_transformer("sentence_transformer")
    sequence("bart", randomised(hf.BartForConditionalGeneration(bart())), 2, 1)
    sequence("t5", randomised(hf.T5ForConditionalGeneration(hf.T5Config(**T5))), PAD, PAD)
    sequence("t5_untied", untied_t5(), PAD, PAD)
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    language("llama", randomised(hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER))))
    scaled = hf.LlamaConfig(
        **DECODER, rope_parameters=llama3, tie_word_embeddings=True, attention_bias=True
    )
    language("llama_scaled", randomised(hf.LlamaForCausalLM(scaled)))
    language("qwen2", randomised(hf.Qwen2ForCausalLM(hf.Qwen2Config(**DECODER))))
    qwen3 = hf.Qwen3Config(**DECODER, head_dim=6, tie_word_embeddings=True)
    language("qwen3", randomised(hf.Qwen3ForCausalLM(qwen3)))
    rag("rag", hf.DPRConfig(**BERT), bart(), 3)
    # RAG-Sequence there asks for the bos, which T5Config has not.
    generator = hf.T5Config(**T5 | {"d_model": 20}, bos_token_id=None)
    rag("rag_t5", hf.DPRConfig(**BERT, projection_dim=12), generator, 2)
    gguf_tokenizers(HERE / "gguf_tokenizers.json")
    tokenizer_files(HERE / "tokenizer_files.json")


if __name__ == "__main__":
    main()
