#!/bin/sh
# Three pull requests over one small real model: a better adapter, a worse one, a drifted one.
#
#     sh examples/pull_requests/make.sh FOLDER [BASE]
#
# FOLDER becomes the repository they live in. BASE is a base model made before, by
# `git soup demo --base-only BASE`; without one it is trained first (two minutes). The pages land
# beside this script.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
data=$("${PYTHON:-python3}" -c 'from importlib.resources import files; print(files("soup_git.training") / "demo_data")')
say() { printf '\n── %s\n' "$*" >&2; }
export HF_HUB_OFFLINE=1 DVC_NO_ANALYTICS=1 GIT_PAGER=cat

git init --quiet --initial-branch=main "$1"
cd "$1"
if [ $# -gt 1 ]; then mkdir models && cp -R "$2" models/base; else git soup demo --base-only models/base; fi
git config user.name Ana && git config user.email ana@example.org
mkdir data eval
cp "$data/support.jsonl" data/train.jsonl
cp "$data/support_eval.jsonl" eval/prompts.jsonl
echo /models/ > .gitignore
cat > soup.yaml <<'YAML'
base: models/base
task: sft
data:
  train: data/train.jsonl
  max_length: 256
training:
  max_steps: 60
  lr: 1e-2
  warmup_steps: 10
  batch_size: 8
  save_steps: 30
  threads: 1
  lora: {r: 8, alpha: 16}
output: adapters/chat
YAML
cat > eval/suite.yaml <<'YAML'
decoding:
  max_new_tokens: 48
tasks:
  - name: answers             # does the answer hold the fact that was asked for?
    prompts: prompts.jsonl
    scoring: contains
    gate:
      contains: {max_drop: 10%}
  - name: fit                 # how likely the expected answers are, in nats a token
    prompts: prompts.jsonl
    scoring: loss
YAML
git soup init --template chat --base models/base


# Train what the work tree says, commit it, and score it against main.
train() {
    message=$1
    shift
    dvc repro --quiet
    git add --all
    git commit --quiet --no-verify --message "$message"
    git soup eval HEAD --suite eval/suite.yaml "$@" >&2
}

say 'main: a support adapter that was trained for sixty steps.'
git add --all
git commit --quiet --message 'Start: config, data, pipeline'
train 'Train the support adapter'

say 'A better one: two hundred steps, and verify rebuilds it.'
sed -i.old 's/max_steps: 60/max_steps: 200/' soup.yaml && rm soup.yaml.old
git soup branch longer-training --switch
train 'Train for two hundred steps' --baseline main
git soup verify >&2
git soup compare main HEAD --prompts eval/prompts.jsonl --json --output ../longer.json

say 'A worse one: a learning rate ten times as high.'
git soup checkout main
sed -i.old 's/lr: 1e-2/lr: 1e-1/' soup.yaml && rm soup.yaml.old
git soup branch higher-learning-rate --switch
train 'Raise the learning rate' --baseline main
git soup compare main HEAD --prompts eval/prompts.jsonl --json --output ../higher.json

say 'A drifted one: trained well, and then rows were added behind its lock.'
git soup checkout main
sed -i.old 's/max_steps: 60/max_steps: 150/' soup.yaml && rm soup.yaml.old
git soup branch more-questions --switch
train 'Train for a hundred and fifty steps' --baseline main
head -n 12 "$data/polite.jsonl" >> data/train.jsonl
git commit --quiet --no-verify --all --message 'Add polite answers'
git soup compare main HEAD --prompts eval/prompts.jsonl --json --output ../more.json
git soup checkout --force main

say 'Their pages.'
page() {
    for kind in markdown:md json:json html:html; do
        git soup pr "$2" --base main --head "$1" --samples "../$3.json" --slug "$1" \
            --format "${kind%:*}" --output "$here/$1.${kind#*:}"
    done
}
page longer-training 'Train longer' longer
page higher-learning-rate 'Raise the learning rate' higher
page more-questions 'Answer more questions politely' more
git soup fsck
