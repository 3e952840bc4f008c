#!/usr/bin/env bash
# Puts git-soup, as this action has it, into an environment of its own, and says where it is.
# Nothing of the repository under review is installed, or imported: its folder is on no path.
set -euo pipefail
: "${RUNNER_TEMP:?}" "${GITHUB_ACTION_PATH:?}" "${GITHUB_OUTPUT:?}"

python=${SOUP_PYTHON:-}
if [[ -z $python ]]; then
    extras=${SOUP_EXTRAS:-}
    if [[ -n $extras && ! $extras =~ ^[a-z-]+(,[a-z-]+)*$ ]]; then
        echo "::error title=git-soup::extras: one or more of train, eval, lm-eval, dask"
        exit 129
    fi
    read -r -a packages <<<"${SOUP_PACKAGES:-}"
    python3 -m venv "$RUNNER_TEMP/git-soup/venv"
    python=$RUNNER_TEMP/git-soup/venv/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$GITHUB_ACTION_PATH/constraints.txt" \
        -- "$GITHUB_ACTION_PATH${extras:+[$extras]}" ${packages[@]+"${packages[@]}"}
fi
"$python" -I -c 'import soup_git.action; print("git-soup", soup_git.__version__)'
echo "python=$python" >>"$GITHUB_OUTPUT"
