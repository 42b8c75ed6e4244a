#!/usr/bin/env python3
"""Writes decoders of any shape with random weights, as `save_pretrained` would: for measurements, because speed and memory do not
depend on the values.

    tools/benches/random_checkpoint.py FOLDER... --tokenizer TOKENIZER [--layers 30] [--width 576] [--vocabulary 49152] [--seed 0]

TOKENIZER is a folder with a tokenizer.json; it is copied, with the other files of a tokenizer beside it. The embedding may have
more rows than the tokenizer has ids. Several folders get different weights of one shape: the first by `--seed`, each next one by the
following number. Needs numpy. The defaults are the shape of SmolLM2-135M.
"""
import argparse
import json
import pathlib
import shutil

import numpy

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]


def tensors(sizes, random):
    def matrix(outputs, inputs):
        return (random.standard_normal((outputs, inputs), dtype=numpy.float32) * sizes.deviation).astype(numpy.float32)

    head = sizes.width // sizes.heads
    made = {"model.embed_tokens.weight": matrix(sizes.vocabulary, sizes.width)}
    for layer in range(sizes.layers):
        name = f"model.layers.{layer}."
        made[name + "self_attn.q_proj.weight"] = matrix(sizes.heads * head, sizes.width)
        made[name + "self_attn.k_proj.weight"] = matrix(sizes.key_value_heads * head, sizes.width)
        made[name + "self_attn.v_proj.weight"] = matrix(sizes.key_value_heads * head, sizes.width)
        made[name + "self_attn.o_proj.weight"] = matrix(sizes.width, sizes.heads * head)
        made[name + "mlp.gate_proj.weight"] = matrix(sizes.hidden, sizes.width)
        made[name + "mlp.up_proj.weight"] = matrix(sizes.hidden, sizes.width)
        made[name + "mlp.down_proj.weight"] = matrix(sizes.width, sizes.hidden)
        made[name + "input_layernorm.weight"] = numpy.ones(sizes.width, numpy.float32)
        made[name + "post_attention_layernorm.weight"] = numpy.ones(sizes.width, numpy.float32)
    made["model.norm.weight"] = numpy.ones(sizes.width, numpy.float32)
    return made


def special_ids(tokenizer):
    """The ids of the tokens that begin and end a text, if the tokenizer has the usual ones."""
    text = json.loads((tokenizer / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in text.get("added_tokens", [])}
    ids.update({token: id for token, id in dict(text["model"].get("vocab", {})).items() if token not in ids}
               if isinstance(text["model"].get("vocab"), dict) else {})
    find = lambda names: next((ids[name] for name in names if name in ids), None)
    end = find(["<|im_end|>", "<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>"])
    begin = find(["<|im_start|>", "<s>", "<bos>", "<|begin_of_text|>"])
    if end is None:
        raise SystemExit(f"{tokenizer} has none of the usual tokens that end a text")
    return {"bos_token_id": end if begin is None else begin, "eos_token_id": end}


def save(tensors, file):
    """Writes the safetensors format without its package, which a machine may lack: a length, a header in JSON, the numbers."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            out.write(tensor.tobytes())


def write(folder, sizes, seed):
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (sizes.tokenizer / name).exists():
            shutil.copy(sizes.tokenizer / name, folder / name)
    ids = special_ids(sizes.tokenizer)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": sizes.vocabulary, "hidden_size": sizes.width, "intermediate_size": sizes.hidden,
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.key_value_heads,
        "head_dim": sizes.width // sizes.heads, "max_position_embeddings": sizes.context, "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0, "rope_scaling": None, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "initializer_range": sizes.deviation, "torch_dtype": "float32", **ids,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(ids) + "\n")
    save(tensors(sizes, numpy.random.default_rng(seed)), folder / "model.safetensors")


def parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--tokenizer", required=True, type=pathlib.Path)
    for name, value in [("layers", 30), ("width", 576), ("heads", 9), ("key-value-heads", 3), ("hidden", 1536),
                        ("vocabulary", 49152), ("context", 2048), ("seed", 0)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--deviation", type=float, default=0.02)
    return parser


if __name__ == "__main__":
    arguments = parser().parse_args()
    for index, folder in enumerate(arguments.folders):
        write(folder, arguments, arguments.seed + index)
