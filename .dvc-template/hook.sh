#!/bin/sh
# Written by `git soup init`: git-soup's @HOOK@ first, then the hook that was here before.
# GIT_SOUP_IN_@NAME@ ends the circle when another tool has chained this file in turn.
if [ -n "$GIT_SOUP_IN_@NAME@" ]; then exit 0; fi
GIT_SOUP_IN_@NAME@=1; export GIT_SOUP_IN_@NAME@
python=@PYTHON@
if [ -x "$python" ]; then
    "$python" -P -m soup_git.hooks.@NAME@ "$@" || exit $?
else
    echo "warning: git-soup's @HOOK@ hook did not run: $python is gone" >&2
    echo "hint: git soup init, from where git-soup is installed now" >&2
fi
before="$(dirname "$0")/@HOOK@.before-soup"
if [ -x "$before" ]; then exec "$before" "$@"; fi
