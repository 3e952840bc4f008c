#!/bin/sh
# The same two people, with git-soup's own verbs where they say more in fewer words.
#
#     sh examples/two_people_soup.sh FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir "$1"
cd "$1"
top=$(pwd)
learn() { "${PYTHON:-python3}" "$here/fake_training.py" adapters/support "$@"; }
say() { printf '\n── %s\n' "$*"; }
export GIT_PAGER=cat GIT_EDITOR=true

say 'Ana tracks her adapter; one push sends weights, then commits.'
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
git soup push
git soup tag support

say 'Ben clones, and tunes the upper layers.'
cd "$top"
git clone --quiet remote.git ben
cd ben
git config user.name Ben && git config user.email ben@example.org
git soup init
git soup pull
learn --tune 'layers.[23].*'
git soup add adapters/support
git commit --quiet --message 'Refund questions'
git soup push

say 'Ana tunes the lower ones, and one that Ben has tuned, too.'
cd "$top/ana"
learn --tune 'layers.[012].mlp.*'
git soup add adapters/support
git commit --quiet --message 'Opening hours'
git fetch --quiet
git soup diff HEAD origin/main --top-k 3
git soup merge origin/main --strategy ties --weights 1 --density 0.5
git soup status

say 'What came of it: who changed which modules, and the history of the adapter.'
git soup blame HEAD
git soup log --graph
git soup verify
git soup tag support
git soup tag support --as prod
git soup tag
git soup push

say 'Ben has it, too.'
cd "$top/ben"
git soup pull
git soup fsck
cmp adapters/support/adapter_model.safetensors "$top/ana/adapters/support/adapter_model.safetensors"
git soup gc
say 'Both have the same adapter.'
