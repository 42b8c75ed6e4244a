"""The parts of an exported program for TRL on given models and numbers: `check_trl.py FOLDER`."""

import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1]).resolve()
sys.path.insert(0, str(folder))

import mopd_distributions as md  # noqa: E402
import torch  # noqa: E402
import train  # noqa: E402
from transformers import (  # noqa: E402
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from trl import DistillationConfig  # noqa: E402

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
ADAPTER = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "layers_to_transform": None, "use_dora": False}


def small(rows=40):
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=rows, **SMALL))


def refuses(function, *given):
    try:
        function(*given)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{function.__name__} takes it")


# Weight decay is of matrices: of no bias, normalisation or magnitude of DoRA.
config = DistillationConfig(output_dir=str(folder / "checkpoints"), weight_decay=0.5, bf16=False)
dora = train.adapted(small(), {**ADAPTER, "use_dora": True, "target_modules": ["q_proj", "down_proj"]})
for model, vectors in ((small(), ("bias", "norm")), (dora, ("lora_magnitude_vector",))):
    names = {id(value): name for name, value in model.named_parameters()}
    made, _ = train.optimizer(model, config, 2)
    decayed = {names[id(value)]: group["weight_decay"] for group in made.param_groups for value in group["params"]}
    assert set(decayed.values()) == {0.0, 0.5}
    for name, decay in decayed.items():
        assert decay == (0.0 if any(part in name for part in vectors) else 0.5), name

# An adapter at every target of every layer: there is none at an expert's matrices.
moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
for sparse in (1, 2):
    settings = Qwen3MoeConfig(vocab_size=40, decoder_sparse_step=sparse, **moe, **SMALL)
    train.adapted(Qwen3MoeForCausalLM(settings), {**ADAPTER, "target_modules": ["q_proj", "v_proj"]})
    said = refuses(train.adapted, Qwen3MoeForCausalLM(settings), {**ADAPTER, "target_modules": ["q_proj", "gate_proj"]})
    assert "gate_proj" in said, said
shared = Qwen2MoeForCausalLM(Qwen2MoeConfig(vocab_size=40, shared_expert_intermediate_size=16, **moe, **SMALL))
assert "up_proj" in refuses(train.adapted, shared, {**ADAPTER, "target_modules": ["q_proj", "up_proj"]})
some = {**ADAPTER, "layers_to_transform": [1], "target_modules": ["up_proj"]}
train.adapted(small(), some)

# Embeddings that are padded to other sizes, and one with fewer rows than the tokenizer has ids.
for rows in (40, 48, 64):
    alike = train.padded_alike(small(rows), 48, 37)
    assert alike.config.vocab_size == alike.get_output_embeddings().weight.shape[0] == 48, rows
assert "32 rows" in refuses(train.padded_alike, small(32), 48, 37)

# Texts that look like times stay texts, and a message may have several parts.
parts = [{"type": "text", "text": "2024-01-02"}]
prompts = ["2024-01-01", "a\u2028b", [{"role": "user", "content": "2024-01-01"}, {"role": "user", "content": parts}]]
for prompt in prompts:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt, "group": group}, ensure_ascii=False) + "\n" for group in range(2)))
    assert train.read_rows(path)[0]["prompt"] == prompt, prompt

# Distributions at a temperature of 0.5, by their definitions.
torch.manual_seed(1)
student, teacher = (torch.randn(5, 7, dtype=torch.float64) for _ in range(2))
tokens, ends = torch.tensor([0, 1, 2, 3, 4]), [2, 6]
found = md.Distributions({"student": student, "teacher": teacher}, tokens, ends, 0.5, 0.5, [], 0, 1)
cold, plain, of_teacher = (torch.log_softmax(logits, -1) for logits in (student / 0.5, student, teacher / 0.5))


def divergence(left, right, temperature=1.0):
    sides = {"left": {"role": left}, "right": {"role": right}}
    rest = {"support": {"support": "full"}, "mass": "raw", "temperature": temperature, "clip_each": None}
    return found.live({"live": "divergence", "divergence": "kl", **sides, **rest})


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


teachers = {"scorer": 0}
found.logits[md.role_name(teachers)] = teacher
likeliest = teacher.argmax(-1)
cases = {
    "nll": (found.live({"live": "likelihood", "of": "teacher"}), -plain.gather(-1, likeliest[:, None])[:, 0]),
    "end_logp": (found.live({"live": "end_logp"}), cold[:, ends].exp().sum(-1).log()),
    "teacher.end_logp": (
        found.signal({"signal": "end_logp", "role": "teacher"}),
        of_teacher[:, ends].exp().sum(-1).log(),
    ),
    "logp": (found.live({"live": "logp"}), cold.gather(-1, tokens[:, None])[:, 0]),
    "sampler.logp": (found.signal({"signal": "logp", "role": "sampler"}), cold.gather(-1, tokens[:, None])[:, 0]),
    "kl to the sampler": (divergence("student", "sampler"), torch.zeros(5, dtype=torch.float64)),
    "kl of the sampler to a teacher": (divergence("sampler", teachers), kl(cold, of_teacher)),
    "kl to a teacher": (divergence("student", "teacher"), kl(plain, torch.log_softmax(teacher, -1))),
    "kl at 2": (
        divergence("sampler", "teacher", 2.0),
        kl(torch.log_softmax(student, -1), torch.log_softmax(teacher, -1)),
    ),
}
for name, (got, expected) in cases.items():
    apart = (got - expected).abs().max().item()
    assert apart < 1e-12, (name, apart)
print(f"{len(cases)} quantities by their definitions")
