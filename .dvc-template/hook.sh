#!/bin/sh
# Written by `git soup init`: git-soup's @HOOK@ first, then the hook that was here before.
# GIT_SOUP_IN_@NAME@ ends the circle when another tool has chained this file in turn; a hook
# that works on another repository (a submodule) is no circle.
if [ "$GIT_SOUP_IN_@NAME@" = "$PWD" ]; then exit 0; fi
GIT_SOUP_IN_@NAME@=$PWD; export GIT_SOUP_IN_@NAME@
python=@PYTHON@
before="$(dirname "$0")/@HOOK@.before-soup"
ours() {
    case @HOOK@ in prepare-commit-msg|commit-msg)
        # Opted into: without it, a commit starts no Python for them.
        if [ "$(git config --type=bool soup.summary)" != true ]; then return 0; fi
    esac
    if [ -x "$python" ]; then
        "$python" -P -m soup_git.hooks.@NAME@ "$@"
    else
        echo "warning: git-soup's @HOOK@ hook did not run: $python is gone" >&2
        echo "hint: git soup init, from where git-soup is installed now" >&2
    fi
}
if [ @HOOK@ = pre-push ] || [ @HOOK@ = post-rewrite ]; then
    # git says on stdin what goes or went where, once; both hooks are told.
    told=$(cat; echo .); told=${told%.}
    printf %s "$told" | ours "$@" || exit $?
    if [ -x "$before" ]; then printf %s "$told" | "$before" "$@"; fi
else
    ours "$@" || exit $?
    if [ -x "$before" ]; then exec "$before" "$@"; fi
fi
