#!/bin/sh
# Two people, one adapter, one bare remote: git's own commands, after `git soup init` and `add`.
#
#     sh examples/two_people.sh FOLDER
#
# FOLDER is made, and holds everything: the remote, DVC's remote, Ana's clone and Ben's.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir "$1"
cd "$1"
top=$(pwd)
learn() { "${PYTHON:-python3}" "$here/fake_training.py" adapters/support "$@"; }
say() { printf '\n── %s\n' "$*"; }
export GIT_PAGER=cat GIT_EDITOR=true

say 'Ana tracks her adapter, and shares it.'
git init --quiet --bare --initial-branch=main remote.git
git clone --quiet remote.git ana 2>/dev/null
cd ana
git config user.name Ana && git config user.email ana@example.org
git soup init
dvc remote add --quiet --default storage "$top/storage"
learn
git soup add adapters/support
git add --all
git commit --quiet --message 'Support adapter, first version'
if git push --quiet origin main; then exit 1; fi
say 'The weights go first, then the commit.'
dvc push --quiet
git push --quiet origin main

say 'Ben clones it; one command brings the weights.'
cd "$top"
git clone --quiet remote.git ben
cd ben
git config user.name Ben && git config user.email ben@example.org
git soup init
dvc pull --quiet
test -s adapters/support/adapter_model.safetensors

say 'Both train on. Ben looks at what he changed before he commits it.'
learn --tune 'layers.[23].*'
git soup add adapters/support
git diff --cached
git commit --quiet --message 'Refund questions'
dvc push --quiet
git push --quiet origin main

cd "$top/ana"
learn --tune 'layers.[01].*'
learn --tune 'layers.2.mlp.*'
git soup add adapters/support
git commit --quiet --message 'Opening hours'

say 'Ana pulls: a three-way merge, module by module, from the version they both started with.'
git pull --quiet --no-rebase --no-edit origin main
git log --oneline --graph
git diff --stat HEAD~1 HEAD
git soup fsck

say 'Who last changed the middle of it, and what did Ben change? git knows.'
git blame -s -L '/layers.2.mlp/,+2' adapters/support/adapter.manifest
git log --max-count 1 --author Ben --patch --ext-diff
dvc push --quiet --all-commits
git push --quiet origin main

say 'An experiment: stashed, brought back, rebased, and thrown away.'
git switch --quiet --create experiment HEAD~1
learn --tune 'layers.3.self_attn.*'
git soup add adapters/support
git stash --quiet
git soup checkout
git stash pop --quiet --index
git commit --quiet --message 'Holidays'
git rebase --quiet main
git soup fsck
git worktree add --quiet ../side-by-side main
cmp ../side-by-side/adapters/support/adapter_model.safetensors adapters/support/adapter_model.safetensors && exit 1
git worktree remove --force ../side-by-side

say 'Holidays are good: picked to main, and reverted again.'
git switch --quiet main
git cherry-pick experiment
git soup checkout
git revert --no-edit HEAD
git soup checkout
git soup fsck
git fsck --no-dangling

say 'Since when has layer 3 other values? git bisect reads the manifest.'
was=$(git show main~3:adapters/support/adapter.manifest | grep layers.3.self_attn.v_proj.lora_A)
git bisect start main~1 main~3 >bisect.log 2>&1
git bisect run grep -qF "$was" adapters/support/adapter.manifest >>bisect.log 2>&1
grep --after-context 5 'is the first bad commit' bisect.log
git bisect reset >>bisect.log 2>&1
rm bisect.log

say 'Ben pulls everything, and has the same bytes.'
dvc push --quiet --all-commits
git push --quiet origin main experiment
cd "$top/ben"
git pull --quiet --no-rebase origin main
dvc pull --quiet
cmp adapters/support/adapter_model.safetensors "$top/ana/adapters/support/adapter_model.safetensors"
git soup fsck
say 'Both have the same adapter.'
