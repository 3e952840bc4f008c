# fish completion for git soup and git-soup. Written by `make docs`; edit soup_git/manual/.

# The verbs typed so far are exactly those given: options stand after their verb.
function __git_soup_at
    set -l typed (commandline -opc)
    set -e typed[1]
    set -l verbs (string match -v -- '-*' $typed)
    set -l depth (count $argv)
    test (count $verbs) -ge $depth
    and test "$verbs[1..$depth]" = "$argv"
end

# The verb still to come is the next word.
function __git_soup_needs_verb
    set -l typed (commandline -opc)
    set -e typed[1]
    set -l verbs (string match -v -- '-*' $typed)
    test "$verbs" = "$argv"
end

function __git_soup_refs
    git for-each-ref --format='%(refname:lstrip=2)' $argv 2>/dev/null
end

function __git_soup_specs
    __git_soup_refs refs/heads refs/tags refs/remotes
    git for-each-ref --format='run/%(refname:lstrip=3)' refs/soup/runs 2>/dev/null
    __fish_complete_directories
end

complete -c git-soup -f

# fish's completion of git asks that of git-soup since fish 4; here for the ones before.
# Prints what is typed after `git soup`, and fails where that is not what is typed.
function __git_soup_through_git
    set -l typed (commandline -opc)
    set -e typed[1]
    while string match -q -- '-*' $typed[1]
        contains -- $typed[1] -C -c --git-dir --work-tree --namespace
        and set -e typed[1]
        set -e typed[1]
    end
    test "$typed[1]" = soup
    or return 1
    set -e typed[1]
    string escape -- $typed
    return 0
end
function __git_soup_ask
    complete -C "git-soup $(__git_soup_through_git | string join ' ') $(commandline -ct)"
end
complete -c git -f -n '__git_soup_through_git >/dev/null' -a '(__git_soup_ask)'
complete -c git-soup -n '__git_soup_needs_verb' -a init -d 'Make this repository a workspace; what is there already stays.'
complete -c git-soup -n '__git_soup_needs_verb' -a add -d 'Track adapters: weights to the cache, manifest and pointer staged.'
complete -c git-soup -n '__git_soup_needs_verb' -a show -d 'Show one adapter: config, base, rank, modules, size, digest, origin.'
complete -c git-soup -n '__git_soup_needs_verb' -a status -d 'Say what is clean, modified, missing or drifted: adapters, data, lock.'
complete -c git-soup -n '__git_soup_needs_verb' -a fsck -d 'Check that every manifest, lock and object that a ref reaches agrees; exit 1 if not.'
complete -c git-soup -n '__git_soup_needs_verb' -a branch -d 'Make a branch that pins config, dataset, base and environment.'
complete -c git-soup -n '__git_soup_needs_verb' -a branches -d 'List the branches that pin something, and whether each still holds.'
complete -c git-soup -n '__git_soup_needs_verb' -a checkout -d 'Switch to a branch and bring back its config, data and adapters, or say what drifted.'
complete -c git-soup -n '__git_soup_needs_verb' -a lock -d 'The pins that make a run reproducible: soup.lock.'
complete -c git-soup -n '__git_soup_needs_verb' -a env -d 'The environment behind the lock\'s env_hash.'
complete -c git-soup -n '__git_soup_needs_verb' -l version -d 'Print the version.'
complete -c git-soup -n '__git_soup_needs_verb' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at init' -l check -d 'Only say what is missing; exit 1 when something is.'
complete -c git-soup -n '__git_soup_at init' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at init' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at init' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at add' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at add' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at add' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at add' -a '(__fish_complete_directories)'
complete -c git-soup -n '__git_soup_at show' -l adapter -r -F -d 'Which adapter, where a revision has several.'
complete -c git-soup -n '__git_soup_at show' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at show' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at show' -s o -l output -r -F -d 'Write the report to FILE, whole or not at all.'
complete -c git-soup -n '__git_soup_at show' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at show' -a '(__git_soup_specs)'
complete -c git-soup -n '__git_soup_at status' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at status' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at status' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at fsck' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at fsck' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at fsck' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at branch' -s c -l config -r -F -d 'The training config to pin. [default: soup.yaml]'
complete -c git-soup -n '__git_soup_at branch' -l base -l base-model -x -a '(__fish_complete_directories)' -d 'The base model. [default: the config\'s]'
complete -c git-soup -n '__git_soup_at branch' -l dataset -r -F -d 'The dataset to pin. [default: the config\'s data.train]'
complete -c git-soup -n '__git_soup_at branch' -l from -x -a '(__git_soup_refs refs/heads refs/tags refs/remotes)' -d 'The revision to build on.'
complete -c git-soup -n '__git_soup_at branch' -l switch -d 'Check the branch out afterwards.'
complete -c git-soup -n '__git_soup_at branch' -s f -l force -d 'Move a branch that exists; its reflog keeps the old tip.'
complete -c git-soup -n '__git_soup_at branch' -s d -l delete -d 'Delete NAME, as git does.'
complete -c git-soup -n '__git_soup_at branch' -s m -l move -d 'Rename OLD to NEW, as git does.'
complete -c git-soup -n '__git_soup_at branch' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at branch' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at branch' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at branch' -a '(__git_soup_refs refs/heads)'
complete -c git-soup -n '__git_soup_at branches' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at branches' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at branches' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at checkout' -s o -l output -r -F -d 'Only write the locked config to FILE.'
complete -c git-soup -n '__git_soup_at checkout' -s f -l force -d 'Take a branch that drifted as it is; give up local changes.'
complete -c git-soup -n '__git_soup_at checkout' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at checkout' -a '(__git_soup_refs refs/heads)'
complete -c git-soup -n '__git_soup_needs_verb lock' -a write -d 'Compute the pins from soup.yaml and the work tree, and write soup.lock.'
complete -c git-soup -n '__git_soup_needs_verb lock' -a show -d 'Show a lock and validate its closure.'
complete -c git-soup -n '__git_soup_needs_verb lock' -a check -d 'Compare soup.lock with the world; exit 3 when a pin drifted.'
complete -c git-soup -n '__git_soup_at lock' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at lock write' -l base-model -x -a '(__fish_complete_directories)' -d 'The base model\'s folder or hub id.'
complete -c git-soup -n '__git_soup_at lock write' -l base-sha -x -d 'The base model\'s digest.'
complete -c git-soup -n '__git_soup_at lock write' -l dataset-sha -x -d 'The dataset\'s digest.'
complete -c git-soup -n '__git_soup_at lock write' -l env-hash -x -d 'The environment\'s digest.'
complete -c git-soup -n '__git_soup_at lock write' -s o -l output -r -F -d 'Write FILE instead of soup.lock.'
complete -c git-soup -n '__git_soup_at lock write' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at lock write' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at lock write' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at lock show' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at lock show' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at lock show' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at lock show' -F
complete -c git-soup -n '__git_soup_at lock check' -l base-model -x -a '(__fish_complete_directories)' -d 'The base model\'s folder or hub id.'
complete -c git-soup -n '__git_soup_at lock check' -l base-sha -x -d 'The base model\'s digest.'
complete -c git-soup -n '__git_soup_at lock check' -l dataset-sha -x -d 'The dataset\'s digest.'
complete -c git-soup -n '__git_soup_at lock check' -l env-hash -x -d 'The environment\'s digest.'
complete -c git-soup -n '__git_soup_at lock check' -l staged -d 'Compare what is staged, as the pre-commit hook does.'
complete -c git-soup -n '__git_soup_at lock check' -l strict -d 'A pin that is not pinned is drift.'
complete -c git-soup -n '__git_soup_at lock check' -l env -d 'Environment drift counts, wherever this runs.'
complete -c git-soup -n '__git_soup_at lock check' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at lock check' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at lock check' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_needs_verb env' -a show -d 'Show the environment that training would run in, and its digest.'
complete -c git-soup -n '__git_soup_needs_verb env' -a check -d 'Say which packages differ from the lock\'s environment; exit 3 when one does.'
complete -c git-soup -n '__git_soup_at env' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at env show' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at env show' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at env show' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at env check' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at env check' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at env check' -s h -l help -d 'Show this message and exit.'
