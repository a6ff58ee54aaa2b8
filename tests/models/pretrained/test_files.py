"""What is read of a model's files, what is written, and what is refused."""

import contextlib
import json
import shutil
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from command_line import the_sentence

from ragjax.errors import UserError
from ragjax.models.pretrained import load, save
from ragjax.models.pretrained.bart import BartModule
from ragjax.models.pretrained.checkpoint import write_checkpoint
from ragjax.models.pretrained.gguf_file import open_gguf
from ragjax.models.pretrained.gguf_header import read_header
from ragjax.models.pretrained.llama import Llama, LlamaModule
from ragjax.models.pretrained.parameters import tensors_of
from ragjax.models.pretrained.text_encoder import Pooling, TextEncoderModule

GOLDENS = Path(__file__).parents[2] / "goldens"
WHOLE = sorted(
    folder.name
    for folder in GOLDENS.iterdir()
    if (folder / "golden.npz").exists() and not folder.name.startswith("rag")
)
TENSORS = "model.safetensors"


@pytest.fixture
def copied(tmp_path):
    """A function that copies a golden, to spoil it."""

    def copy(name):
        return Path(shutil.copytree(GOLDENS / name, tmp_path / name))

    return copy


def change_config(path, **fields):
    config = json.loads((path / "config.json").read_text()) | fields
    config = {name: value for name, value in config.items() if value is not ...}
    (path / "config.json").write_text(json.dumps(config))


def change_tensors(path, change):
    tensors = safetensors.numpy.load_file(path / TENSORS)
    change(tensors)
    safetensors.numpy.save_file(tensors, path / TENSORS)


def refused(path, **options):
    with pytest.raises(UserError) as error:
        load(path, **options)
    return the_sentence(f"ragjax: {error.value}\n")


# ---- in and out


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_saved_is_what_was_loaded(name, tmp_path):
    model = load(GOLDENS / name)
    save(tmp_path / "out", model)
    again = load(tmp_path / "out")
    assert again.module == model.module
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    # the tensors are those of the file that was read, under their names
    before = safetensors.numpy.load_file(GOLDENS / name / TENSORS)
    after = safetensors.numpy.load_file(tmp_path / "out" / TENSORS)
    assert set(after) <= set(before)
    for key, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[key])
    assert not [key for key in set(before) - set(after) if "pooler" not in key]


def test_other_parameters_can_be_saved(tmp_path):
    model = load(GOLDENS / "bert")
    save(tmp_path / "out", model, jax.tree.map(lambda leaf: leaf + 1, model.params))
    jax.tree.map(
        lambda one, other: np.testing.assert_array_equal(one, other + 1),
        load(tmp_path / "out").params,
        model.params,
    )


def test_bfloat16_weights_keep_their_bits(tmp_path):
    model = load(GOLDENS / "qwen3", dtype=jnp.bfloat16)
    save(tmp_path / "out", model)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    again = load(tmp_path / "out", dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(again.params))
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_several_files_are_read_and_written(tmp_path):
    model = load(GOLDENS / "llama")
    tensors = safetensors.numpy.load_file(GOLDENS / "llama" / TENSORS)
    arrays = {name: jnp.asarray(tensor) for name, tensor in tensors.items()}
    path = tmp_path / "sharded"
    write_checkpoint(path, dict(model.config), arrays, shard_bytes=5000)
    files = sorted(file.name for file in path.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((path / f"{TENSORS}.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    jax.tree.map(np.testing.assert_array_equal, load(path).params, model.params)
    (path / files[1]).unlink()
    assert files[1] in refused(path)


def test_the_tokenizer_and_the_pooling_go_along(copied, tmp_path):
    path = copied("sentence_transformer")
    (path / "tokenizer.json").write_text("{}")
    save(tmp_path / "out", load(path))
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    module = load(tmp_path / "out").module
    assert isinstance(module, TextEncoderModule)
    assert module.pooling == Pooling("mean", unit=True)


def test_nothing_is_overwritten(tmp_path):
    with pytest.raises(UserError, match="exists"):
        save(tmp_path, load(GOLDENS / "bert"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("outer", ["rag.", ""])
def test_a_rag_model_has_two_parts(copied, tmp_path, outer):
    path = copied("rag")

    def rename(tensors):
        for name in list(tensors):
            tensors[outer + name.removeprefix("rag.")] = tensors.pop(name)

    change_tensors(path, rename)
    question, generator = (load(path, part) for part in ("question_encoder", "generator"))
    assert isinstance(question.module, TextEncoderModule)
    assert isinstance(generator.module, BartModule)
    for name, part in (("dpr", question), ("bart", generator)):
        assert part.kind == name
        save(tmp_path / name, part)
        alone = load(tmp_path / name)
        jax.tree.map(np.testing.assert_array_equal, alone.params, part.params)
    assert "question_encoder or generator" in refused(path)
    assert "'rag'" in refused(path, part="reader")
    assert "no part 'generator'" in refused(GOLDENS / "bart", part="generator")


def test_a_bert_within_another_model_is_found(copied):
    path = copied("bert")
    before = load(path).params

    def within(tensors):
        for name in list(tensors):
            tensors[f"bert.{name}"] = tensors.pop(name)
        tensors["cls.predictions.bias"] = np.zeros(48, np.float32)

    change_tensors(path, within)
    jax.tree.map(np.testing.assert_array_equal, load(path).params, before)


# ---- GGUF


def write_gguf(path, model, kind, facts=(), names=lambda name: name, change=lambda written: None):
    """A GGUF file of a golden of the Llama family."""
    config = model.config
    written = gguf.GGUFWriter(path, names(config["model_type"]))
    written.add_vocab_size(config["vocab_size"])
    written.add_context_length(config["max_position_embeddings"])
    written.add_embedding_length(config["hidden_size"])
    written.add_block_count(config["num_hidden_layers"])
    written.add_feed_forward_length(config["intermediate_size"])
    written.add_head_count(config["num_attention_heads"])
    written.add_head_count_kv(config["num_key_value_heads"])
    written.add_layer_norm_rms_eps(config["rms_norm_eps"])
    written.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if config.get("head_dim"):
        written.add_key_length(config["head_dim"])
    for name, value in facts:
        written.add_string(name, value)
    tensors = safetensors.numpy.load_file(model.source / TENSORS)
    parts = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[config["model_type"].upper()], config["num_hidden_layers"]
    )
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        if config["model_type"] == "llama":
            for part, heads in (
                ("q_proj", "num_attention_heads"),
                ("k_proj", "num_key_value_heads"),
            ):
                if part in name:  # as llama.cpp's converter orders the rows
                    halves = tensor.reshape(config[heads], 2, -1, *tensor.shape[1:])
                    tensor = np.swapaxes(halves, 1, 2).reshape(tensor.shape)
        shape = gguf.GGMLQuantizationType.F32 if tensor.ndim == 1 else kind
        written.add_tensor(
            f"{parts.get_name(stem)}.{last}", gguf.quantize(tensor, shape), raw_dtype=shape
        )
    change(written)
    written.write_header_to_file()
    written.write_kv_data_to_file()
    written.write_tensors_to_file()
    written.close()
    return path


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_a_gguf_file_gives_the_same_model(name, tmp_path):
    model = load(GOLDENS / name)
    path = write_gguf(tmp_path / "model.gguf", model, gguf.GGMLQuantizationType.F32)
    again = load(path)
    assert again.module == model.module
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    save(tmp_path / "out", again)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "out").params, model.params)


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """A model whose rows are long enough for the blocks of quantised weights, which hold 32 numbers."""
    path = tmp_path_factory.mktemp("wide") / "llama"
    config = json.loads((GOLDENS / "llama" / "config.json").read_text())
    config |= {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    module = LlamaModule(Llama.from_config(config, "", ()))
    tokens = jnp.ones((1, 2), jnp.int32)
    params = jax.jit(module.init)(jax.random.PRNGKey(0), tokens, tokens > 0)["params"]
    write_checkpoint(path, config, tensors_of(params))
    return load(path)


@pytest.mark.parametrize(("kind", "bits"), [("F16", 10), ("Q8_0", 7), ("Q4_1", 3), ("Q4_0", 3)])
def test_quantised_weights_are_near_the_originals(kind, bits, wide, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", wide, gguf.GGMLQuantizationType[kind])
    for one, other in zip(
        jax.tree.leaves(load(path).params), jax.tree.leaves(wide.params), strict=True
    ):
        apart = np.abs(one - other).max() / np.abs(other).max()
        assert apart <= 2.0**-bits
        assert (apart > 0) == (other.ndim > 1)  # norms are not quantised


def test_a_spoilt_gguf_file_is_refused(tmp_path):
    model = load(GOLDENS / "qwen3")
    whole = write_gguf(tmp_path / "model.gguf", model, gguf.GGMLQuantizationType.F32)
    data = whole.read_bytes()
    for length in np.linspace(0, len(data) - 400, 12, dtype=int):
        whole.write_bytes(data[:length])
        assert "model.gguf" in refused(whole)
    write_gguf(whole, model, gguf.GGMLQuantizationType.F32, names=lambda name: "gpt2")
    assert "'gpt2'" in refused(whole)
    scaled = [("qwen3.rope.scaling.type", "yarn")]
    write_gguf(whole, model, gguf.GGMLQuantizationType.F32, scaled)
    assert "yarn" in refused(whole)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        # what tells how Llama 3.1 and later stretch their rotations
        (lambda file: file.add_tensor("rope_freqs.weight", np.ones(4, np.float32)), "rope_freqs"),
        (lambda file: file.add_tensor("more", np.ones(4, np.int8)), "I8"),
        (lambda file: file.add_uint32("qwen3.attention.key_length", 0), "0 as its"),
        (lambda file: file.add_string("qwen3.attention.key_length", "six"), "'six' as its"),
        (lambda file: file.add_uint32("general.alignment", 0), "general.alignment"),
    ],
)
def test_a_gguf_file_that_can_not_be_computed_with_is_refused(change, told, tmp_path):
    model = load(GOLDENS / "qwen3")
    model.config.pop("head_dim")  # another one is written
    path = tmp_path / "model.gguf"
    write_gguf(path, model, gguf.GGMLQuantizationType.F32, change=change)
    assert told in refused(path)


def test_tensors_of_a_gguf_file_lie_where_its_alignment_says(tmp_path):
    model = load(GOLDENS / "qwen3")
    path, kind = tmp_path / "model.gguf", gguf.GGMLQuantizationType.F32
    write_gguf(path, model, kind, change=lambda file: file.add_custom_alignment(256))
    again = load(path).params
    jax.tree.map(np.testing.assert_array_equal, again, model.params)
    # what was read stays, whatever becomes of the file
    path.write_bytes(bytes(len(path.read_bytes())))
    jax.tree.map(np.testing.assert_array_equal, again, model.params)


def test_weights_of_a_gguf_file_begin_right_behind_its_header(tmp_path):
    """Wherever that ends: the length of a text moves its end over all places."""
    model, path = load(GOLDENS / "qwen3"), tmp_path / "model.gguf"
    for length in range(32):
        text = ("general.description", "x" * length)
        write_gguf(path, model, gguf.GGMLQuantizationType.F32, [text])
        wanted = {one.name: one.data_offset for one in gguf.GGUFReader(path).tensors}
        found = {name: one.start for name, one in read_header(path).tensors.items()}
        assert found == wanted


def test_any_spoilt_byte_of_a_gguf_file_is_refused_or_read(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, load(GOLDENS / "qwen3"), gguf.GGMLQuantizationType.F32)
    whole, drawn = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        spoilt = bytearray(whole)
        for at in drawn.integers(2500, size=2):  # of the header
            spoilt[at] = drawn.choice([0, 255, drawn.integers(256)])
        path.write_bytes(spoilt)
        with contextlib.suppress(UserError):
            checkpoint = open_gguf(path)
            for name, shape in checkpoint.shapes.items():
                assert checkpoint.read(name).shape == shape


# ---- what is refused


def test_what_is_no_model_is_refused(tmp_path, copied):
    assert "does not exist" in refused(tmp_path / "nowhere")
    assert "config.json" in refused(tmp_path)
    path = copied("bert")
    (path / TENSORS).unlink()
    assert TENSORS in refused(path)
    (path / "pytorch_model.bin").write_bytes(b"")
    assert "pickle" in refused(path)
    (path / "config.json").unlink()
    assert "pickle" in refused(path)


def test_truncated_tensors_are_refused(copied):
    path = copied("bart")
    data = (path / TENSORS).read_bytes()
    for length in np.linspace(0, len(data) - 1, 12, dtype=int):
        (path / TENSORS).write_bytes(data[:length])
        assert TENSORS in refused(path)


def test_tensors_that_do_not_fit_are_named(copied):
    path = copied("t5")
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    change_tensors(path, lambda tensors: tensors.update({name: tensors[name][:-1]}))
    assert name in refused(path)
    assert "[17, 16]" in refused(path)
    change_tensors(path, lambda tensors: tensors.pop(name))
    assert f"lacks {name}" in refused(path)
    path = copied("llama")
    change_tensors(path, lambda tensors: tensors.update({"model.extra.weight": np.zeros(3)}))
    assert "model.extra.weight" in refused(path)


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("bert", {"model_type": "gpt2"}, "'gpt2'"),
        ("bert", {"hidden_act": "swish9"}, "'swish9'"),
        ("bert", {"hidden_size": ...}, "hidden_size"),
        ("bert", {"num_hidden_layers": True}, "num_hidden_layers"),
        ("bert", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("bart", {"activation_function": 3}, "activation_function"),
        ("bart", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("t5", {"feed_forward_proj": "gated-silu"}, "gated-silu"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        (
            "llama",
            {"rope_parameters": ..., "rope_scaling": {"type": "linear", "factor": 2}},
            "linear",
        ),
        ("llama_scaled", {"rope_parameters": {"rope_type": "llama3"}}, "factor"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window"),
    ],
)
def test_a_config_that_is_not_supported_is_refused(copied, name, fields, told):
    path = copied(name)
    change_config(path, **fields)
    assert told in refused(path)


def test_scaled_rotations_as_earlier_versions_wrote_them(copied):
    path = copied("llama_scaled")
    wanted = load(path)
    rope = wanted.config["rope_parameters"]
    theta = rope.pop("rope_theta")
    change_config(path, rope_parameters=..., rope_theta=theta, rope_scaling=rope)
    found = load(path).module
    assert found == wanted.module


def test_a_text_longer_than_the_positions_is_refused():
    for name, length in (("bert", 21), ("bart", 31), ("llama", 65)):
        model = load(GOLDENS / name)
        tokens = jnp.ones((1, length), jnp.int32)
        given = (tokens, tokens > 0, tokens)[: 3 if name == "bart" else 2]
        with pytest.raises(UserError, match=f"{length - 1} positions"):
            jax.eval_shape(model.module.apply, {"params": model.params}, *given)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("[", "modules.json"),
        ('[{"type": "a.Transformer"}]', "modules.json"),
        ('[{"type": "a.Transformer", "path": ""}, {"type": "b.Dense", "path": "1"}]', "'Dense'"),
    ],
)
def test_steps_that_are_not_supported_are_refused(copied, steps, told):
    path = copied("sentence_transformer")
    (path / "modules.json").write_text(steps)
    assert told in refused(path)


def test_a_pooling_mode_that_is_not_supported_is_refused(copied):
    path = copied("sentence_transformer")
    modes = {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    assert "pooling_mode_max_tokens" in refused(path)


def test_a_hub_that_can_not_be_reached_is_told(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert "owner/name" in refused("owner/name")
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, allow_patterns: GOLDENS / name[6:]
    )
    assert load("owner/bert").kind == "bert"


@pytest.mark.parametrize(
    ("modes", "told"),
    [
        (("cls_token", "mean_tokens"), "by pooling_mode_cls_token, pooling_mode_mean_tokens; only"),
        (("max_tokens",), "by pooling_mode_max_tokens; only"),
        ((), "by nothing; only"),
    ],
)
def test_pooling_that_is_not_supported_is_refused(copied, modes, told):
    path = copied("sentence_transformer")
    config = {f"pooling_mode_{mode}": True for mode in modes}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert told in refused(path)
