"""The command lines and configs of the documents that asked for this tool, as they stand there.

Each is a fact about what people type: it works, it works and says what it leaves alone, or it is
refused with the reason and what to type. `soup adapters X` is `git soup X` here.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from soup_git.errors import FatalError
from soup_git.training.config import load_config
from tests.training import tiny_model

BASE_SHA, DATA_SHA, ENV_HASH = "ab" * 32, "cd" * 32, "ef" * 32
PINS = f"--base-sha {BASE_SHA} --dataset-sha {DATA_SHA} --env-hash {ENV_HASH}"
MODEL, LLAMA = "meta-llama/Llama-3-8B", "meta-llama/Llama-3.1-8B"
BRANCH = f"branch chat-llama-v3 -c soup.yaml --base {LLAMA} --dataset data.jsonl"
LOCK = f"lock write --base-model {MODEL} {PINS} --output soup.lock"
CHECK = f"lock check --base-model {MODEL} {PINS}"
PR = (
    "pr 'Better politeness on EU support tickets' --base-sha {} --adapter ./candidate "
    "--eval ./eval_delta.json --samples ./sample_diffs.json --output ./PR.md"
)
BISECT = "bisect ./ckpt-0500 ./ckpt-1000 ./ckpt-1500 ./ckpt-2000 --eval-command "

# What is typed, one after the other; the exit code of the last, and what it says.
LINES: list[tuple[list[str], int, list[str]]] = [
    (["diff adapter-a/ adapter-b/ --top-k 10 --format markdown"], 0, ["| module | drift |"]),
    (["diff adapter-a/ adapter-b/ --format table"], 0, ["rank used"]),
    (["diff adapter-a/ adapter-b/ --format json"], 0, ['"schema": "soup.diff/1"']),
    (
        ["merge a/ b/ c/ -o merged/ --strategy ties --weights 0.4,0.3,0.3 --density 0.7 --seed 0"],
        0,
        ["ties (shared, density 0.7)", "--seed 0: ties draws nothing at random"],
    ),
    (["merge a/ b/ c/ -o merged/ --strategy dare --density 0.7 --seed 0"], 0, ["seed 0"]),
    (["merge a/ b/ c/ -o merged/ --strategy linear"], 0, ["linear (exact)"]),
    (["merge a/ b/ c/ -o merged/ --strategy svd --rank 8"], 0, ["svd (exact, rank 8)"]),
    ([BRANCH], 0, ["chat-llama-v3", "base_model is not pinned"]),
    ([BRANCH, "branches"], 0, ["chat-llama-v3"]),
    ([BRANCH, "checkout chat-llama-v3 -o restored-soup.yaml"], 0, []),
    (["checkout chat-llama-v3 -o restored-soup.yaml"], 128, ["hint: git soup branches"]),
    ([PR.format("HEAD")], 0, ["refs/soup/prs/better-politeness-on-eu-support-tickets"]),
    ([PR.format(BASE_SHA)], 128, ["names no commit here", "hint: git branch -a"]),
    ([LOCK], 0, [BASE_SHA, DATA_SHA, ENV_HASH]),
    ([LOCK, "lock show soup.lock"], 0, [BASE_SHA]),
    ([LOCK, CHECK], 0, []),
    ([LOCK, CHECK.replace(DATA_SHA, BASE_SHA)], 3, ["dataset drifted: "]),
    (
        [BISECT + "'soup eval custom --checkpoint {ckpt} --suite ./regression.yaml'"],
        128,
        ["no verdict on ./ckpt-0500: soup cannot be started", "hint: mend the command"],
    ),
    ([BISECT + "'test -d {ckpt}'"], 0, ["ALL_OK"]),
    (["init --template chat"], 0, ["Workspace ready"]),
]


@pytest.fixture
def documents(repo: Path, make_adapter, git) -> Path:
    """A repository that has what the lines name."""
    for seed, name in enumerate(
        ("adapter-a", "adapter-b", "a", "b", "c", "candidate", "ckpt-0500", "ckpt-1000",
         "ckpt-1500", "ckpt-2000")
    ):  # fmt: skip
        make_adapter(name, seed=seed)
    Path("data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    Path("soup.yaml").write_text(f"base: {LLAMA}\ndata:\n  train: data.jsonl\n")
    deltas = [
        {"metric": "judge_score", "baseline": 7.4, "candidate": 8.2},
        {"metric": "retry_rate", "baseline": "12.1%", "candidate": "4.6%"},
    ]
    Path("eval_delta.json").write_text(json.dumps(deltas))
    sample = {"prompt": "p", "baseline_output": "one", "candidate_output": "two"}
    Path("sample_diffs.json").write_text(json.dumps([sample]))
    git("add", "soup.yaml", "data.jsonl")
    git("commit", "-qm", "config")
    return repo


@pytest.mark.parametrize(("lines", "code", "said"), LINES, ids=[x[0][-1][:50] for x in LINES])
def test_a_line_of_the_documents(documents, soup, lines, code, said):
    before = Path("soup.yaml").read_text()
    for line in lines[:-1]:
        soup(*shlex.split(line))
    done = soup(*shlex.split(lines[-1]), check=False)
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    for words in said:
        assert words in text
    if code == 0 and "-o restored-soup.yaml" in lines[-1]:
        assert Path("restored-soup.yaml").read_text() == before
    if code == 0 and lines[-1].startswith("pr "):
        page = Path("PR.md").read_text()
        assert "+0.8" in page
        assert "retry" in page


@pytest.mark.parametrize("line", ["diff adapter-a/ adapter-b/ --top-k 10", "branches"])
def test_the_originals_group_of_verbs_gets_the_line_without_it(documents, soup, line):
    done = soup("adapters", *shlex.split(line), check=False)
    assert done.returncode == 129
    assert done.stderr.endswith(f"hint: git soup {line}\n")
    assert soup(*shlex.split(line)).returncode == 0  # the hint, typed
    assert "-h lists the verbs" in soup("adapters", check=False).stderr


def test_lines_that_ask_a_model(repo, soup, make_adapter, tmp_path_factory):
    """Blame's plan and the search by a suite, on a tiny model that is really loaded."""
    base = tiny_model.make_base(tmp_path_factory.mktemp("documents") / "base")
    shapes = {"self_attn.q_proj": (64, 64), "mlp.down_proj": (128, 64)}
    for seed, name in enumerate(("adapter", "lora_a", "lora_b", "lora_c")):
        make_adapter(name, seed=seed, base=str(base), modules=shapes, scale=0.01)
    row = {"prompt": "The quick", "completion": " brown fox"}
    Path("eval.jsonl").write_text(json.dumps(row) + "\n")
    Path("rows.jsonl").write_text(json.dumps({"prompt": "The", "expected": " quick"}) + "\n")
    Path("suite.yaml").write_text("tasks: [{name: t, prompts: rows.jsonl, scoring: loss}]\n")
    blame = "blame adapter/ --dataset eval.jsonl --layer model.layers.* --budget 5m --shards 4"
    planned = soup(*shlex.split(f"{blame} --plan-only"))
    assert "4" in planned.stdout
    done = soup(
        *shlex.split(
            "merge --strategy cmaes --adapter ./lora_a --adapter ./lora_b --adapter ./lora_c "
            "--eval ./suite.yaml --budget 1h --output ./merged --max-generations 1"
        )
    )
    assert "cmaes" in done.stdout
    assert Path("merged/adapter_model.safetensors").is_file()


# -- configs --------------------------------------------------------------------------------------

HEAD = f"base: {LLAMA}\ndata: {{train: d.jsonl}}\n"
LORA = "lora: {r: 64, alpha: 16}, quantization: 4bit"
PAIRS = f"base: {LLAMA}\ntask: {{}}\ndata: {{{{train: p.jsonl, format: dpo}}}}\n"
SFT = f"base: {LLAMA}\ntask: sft\ndata: {{train: d.jsonl, format: alpaca}}\n"

# As keys and values stand there; what is said of each that is refused, nothing where all is taken.
CONFIGS: list[tuple[str, list[str]]] = [
    (
        (
            f"{HEAD}training:\n  lora:\n    init_strategy: pissa\n"
            "    rank_pattern: {q_proj: 8, v_proj: 16}\n    alpha_pattern: {q_proj: 16}\n"
            "  relora_steps: 500\n  relora_warmup_ratio: 0.1\n  relora_prune_ratio: 0.9\n"
            "  relora_reset_optimizer: true\n"
        ),
        ["excludes init_strategy: pissa", "init_strategy: random, or leave relora_steps out"],
    ),
    (
        (
            f"{HEAD}training:\n  lora:\n    init_strategy: pissa\n"
            "    rank_pattern: {q_proj: 8, v_proj: 16}\n    alpha_pattern: {q_proj: 16}\n"
        ),
        [],
    ),
    (
        (
            f"{HEAD}training: {{relora_steps: 500, relora_warmup_ratio: 0.1, relora_prune_ratio: 0.9, "
            "relora_reset_optimizer: true}\n"
        ),
        [],
    ),
    (
        (
            f"{HEAD}task: moe_lora_routing\ntraining:\n"
            "  mole: {num_task_adapters: 8, hidden_dim: 4096, temperature: 1.0, top_k: 2}\n"
        ),
        ["task: should be ", "training.mole: unknown key; leave it out"],
    ),
    (
        f"{SFT}training:\n  {{epochs: 3, lr: 2e-5, batch_size: auto, {LORA}}}\noutput: ./output\n",
        [],
    ),
    (f"{SFT}backend: mlx\n", ["backend: unknown key; leave it out: TRL trains"]),
    (
        (
            f"base: {LLAMA}\ntask: pretrain\ndata: {{train: c.jsonl, format: plaintext, "
            "max_length: 4096}\ntraining: {epochs: 1, lr: 1e-5, quantization: 4bit}\n"
        ),
        [],
    ),
    (
        (
            f"base: HuggingFaceTB/SmolLM2-135M\ntask: distill\nmodality: text\n"
            f"data: {{train: c.jsonl, max_length: 2048, chat_template: chatml}}\n"
            f"training: {{teacher_model: {LLAMA}, distill_divergence: forward_kl, "
            "distill_temperature: 2.0, epochs: 3, lr: 5e-5, quantization: 4bit}\n"
        ),
        ["modality: unknown key; leave it out: texts are what is trained on"],
    ),
    (
        (
            "base: BAAI/bge-base-en-v1.5\ntask: classifier\ndata: {train: c.jsonl, max_length: 256}\n"
            "training: {num_labels: 3, classifier_kind: single_label, label_names: [ham, spam, promo], "
            "epochs: 5, lr: 2e-5, batch_size: 32}\n"
        ),
        [],
    ),
    (
        f"{HEAD}training: {{moe_lora: true, moe_aux_loss_coeff: 0.01}}\n",
        ["that is training.lora.target_parameters here", "router_aux_loss_coef"],
    ),
    (
        f"{SFT}training: {{quantization_aware: true}}\n",
        ["quantization_aware: unknown key; that is training.quantization"],
    ),
    (
        f"{HEAD}training: {{rope_scaling_type: yarn, yarn_factor: 4.0}}\n",
        ["that is rope_scaling in the config.json of a copy of the base here"],
    ),
    (
        f"base: {LLAMA}\ndata: {{train: d.jsonl, train_on_responses_only: true}}\n",
        ["that is training.assistant_only_loss here"],
    ),
    (
        (
            f"base: {LLAMA}\ntask: grpo\ndata: {{train: p.jsonl, format: chatml}}\ntraining:\n"
            "  {reward_fn: accuracy, num_generations: 8, grpo_variant: dapo, grpo_fp16: true, "
            "rollout_backend: art, mask_truncated_completions: true, replay_buffer_size: 2048}\n"
        ),
        [
            "that is training.precision: fp16 here",
            "rollout_backend: unknown key; leave it out: ",
            "that is training.trl.mask_truncated_completions here",
        ],
    ),
    (
        (
            f"base: {LLAMA}\ntask: prm\ndata: {{train: p.jsonl, format: prm}}\n"
            "training: {epochs: 3, lr: 1e-5}\n"
        ),
        [],
    ),
    (PAIRS.format("dpo") + f"training: {{epochs: 3, dpo_beta: 0.1, {LORA}}}\n", []),
    (PAIRS.format("bco") + "training: {bco_beta: 0.1}\n", []),
    (PAIRS.format("preference") + "training: {preference_loss: dpo}\n", []),
    (
        PAIRS.format("preference") + "training: {preference_loss_weights: {dpo: 0.7, bco: 0.3}}\n",
        [],
    ),
    (PAIRS.format("orpo") + f"training: {{epochs: 3, orpo_beta: 0.1, {LORA}}}\n", []),
    (
        PAIRS.format("simpo")
        + f"training: {{epochs: 3, simpo_gamma: 0.5, cpo_alpha: 1.0, {LORA}}}\n",
        [],
    ),
    (PAIRS.format("ipo") + f"training: {{epochs: 3, ipo_tau: 0.1, {LORA}}}\n", []),
    (PAIRS.format("reward_model") + "output: ./output_rm\n", []),
    (
        (
            f"base: {LLAMA}\ntask: kto\ndata: {{train: k.jsonl, format: kto}}\n"
            f"training: {{epochs: 3, kto_beta: 0.1, {LORA}}}\n"
        ),
        [],
    ),
    (
        (
            f"base: {LLAMA}\ntask: grpo\ndata: {{train: r.jsonl, format: sharegpt, max_length: 4096}}\n"
            f"training: {{epochs: 3, lr: 1e-5, grpo_beta: 0.1, num_generations: 4, "
            f"reward_fn: accuracy, {LORA}}}\n"
        ),
        [],
    ),
    (
        (
            f"base: {LLAMA}\ntask: sft\ndata: {{train: t.jsonl, format: tool-calling}}\n"
            "training: {epochs: 3, lr: 2e-5, quantization: 4bit}\n"
        ),
        [],
    ),
    (
        (
            f"base: {LLAMA}\ntask: ppo\ndata: {{train: p.jsonl, format: chatml}}\n"
            "training: {reward_model: ./output_rm, ppo_epochs: 4}\n"
        ),
        ["ppo is gone from TRL; task rloo", "ppo_epochs: unknown key; leave it out: PPO is gone"],
    ),
    (
        f"{SFT}training: {{quantization: none, use_galore: true, galore_rank: 128}}\n",
        ["use_galore: unknown key; leave it out: an adapter's factors have a low rank already"],
    ),
    (
        f"base: {LLAMA}\ndata: {{train: d.jsonl, streaming: true, buffer_size: 8192, shards: 4}}\n",
        ["data.streaming: unknown key; leave it out: rows are read once"],
    ),
    (f"{HEAD}training: {{lora: {{r: 64, alpha: 16, use_dora: true}}}}\n", []),
    (f"{HEAD}training: {{lr: 2e-5, loraplus_lr_ratio: 16.0, lora: {{r: 64, alpha: 16}}}}\n", []),
    (f"{HEAD}training: {{lora: {{r: 64, alpha: 16, use_rslora: true}}}}\n", []),
    (f"{HEAD}training: {{lora: {{r: 256, alpha: 1, use_vera: true}}}}\n", []),
    (f"{HEAD}training: {{lora: {{r: 64, alpha: 16, use_olora: true}}}}\n", []),
    (f"{HEAD}training: {{neftune_alpha: 5.0}}\n", []),
    (f"{HEAD}training: {{packing: true}}\n", []),
    (
        (
            f"{HEAD}training: {{loss_watchdog: true, loss_watchdog_threshold: 3.0, "
            "loss_watchdog_patience: 5}\n"
        ),
        [],
    ),
    (
        f"{HEAD}training: {{batch_size: auto, auto_batch_size_strategy: probe}}\n",
        ["auto_batch_size_strategy: unknown key; leave it out: batch_size: auto probes"],
    ),
]


@pytest.mark.parametrize(("text", "said"), CONFIGS)
def test_a_config_of_the_documents(text, said):
    if not said:
        load_config(text)
        return
    with pytest.raises(FatalError) as caught:
        load_config(text)
    for words in said:
        assert words in str(caught.value)
    assert caught.value.hint
