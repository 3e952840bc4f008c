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
complete -c git-soup -n '__git_soup_needs_verb' -a blame -d 'Say for each module which commit last changed it, and how much it changed then.'
complete -c git-soup -n '__git_soup_needs_verb' -a log -d 'Show the history of adapters: trained, added, merged, pinned, and how they scored.'
complete -c git-soup -n '__git_soup_needs_verb' -a tag -d 'Release a version of an adapter as tag NAME/vN, or move a label such as NAME/prod.'
complete -c git-soup -n '__git_soup_needs_verb' -a gc -d 'Find objects in the DVC cache that no ref, reflog, index or work tree names.'
complete -c git-soup -n '__git_soup_needs_verb' -a push -d 'Send weights and data to the DVC remote, then branch, runs, locks and notes in one push.'
complete -c git-soup -n '__git_soup_needs_verb' -a pull -d 'Bring in a remote\'s commits, runs, locks and notes, and the data and weights of HEAD.'
complete -c git-soup -n '__git_soup_needs_verb' -a train -d 'Run the pipeline of dvc.yaml (dvc repro), or offer the result that is there already.'
complete -c git-soup -n '__git_soup_needs_verb' -a plan -d 'Say what dvc repro would do, and why; exit 3 when something would run.'
complete -c git-soup -n '__git_soup_needs_verb' -a verify -d 'Rebuild the adapter of REV from its lock, or its recipe, and compare digests.'
complete -c git-soup -n '__git_soup_needs_verb' -a demo -d 'Play the whole story in a throw-away repository: train, branch, drift, come back.'
complete -c git-soup -n '__git_soup_needs_verb' -a diff -d 'Compare two adapters: how far each module\'s update moved, whatever the factors\' basis.'
complete -c git-soup -n '__git_soup_needs_verb' -a merge -d 'Merge adapters into DIR on their updates ΔW = s·B·A, or revisions in a merge commit.'
complete -c git-soup -n '__git_soup_needs_verb' -a data -d 'The training data, as training sees it.'
complete -c git-soup -n '__git_soup_needs_verb' -a config -d 'The training config, soup.yaml.'
complete -c git-soup -n '__git_soup_needs_verb' -a lock -d 'The pins that make a run reproducible: soup.lock.'
complete -c git-soup -n '__git_soup_needs_verb' -a env -d 'The environment behind the lock\'s env_hash.'
complete -c git-soup -n '__git_soup_needs_verb' -l version -d 'Print the version.'
complete -c git-soup -n '__git_soup_needs_verb' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at init' -l check -d 'Only say what is missing; exit 1 when something is.'
complete -c git-soup -n '__git_soup_at init' -l template -x -d 'Also write soup.yaml and dvc.yaml: chat.'
complete -c git-soup -n '__git_soup_at init' -l base -x -a '(__fish_complete_directories)' -d 'The template\'s base model.'
complete -c git-soup -n '__git_soup_at init' -l dataset -r -F -d 'The template\'s dataset.'
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
complete -c git-soup -n '__git_soup_at blame' -l adapter -r -F -d 'Which adapter, where a revision has several.'
complete -c git-soup -n '__git_soup_at blame' -l module -x -d 'Only modules like \'layers.*.mlp.*\'.'
complete -c git-soup -n '__git_soup_at blame' -l format -x -a 'table json markdown html' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at blame' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at blame' -s o -l output -r -F -d 'Write the report to FILE, whole or not at all.'
complete -c git-soup -n '__git_soup_at blame' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at log' -l graph -d 'Draw how the versions descend from each other.'
complete -c git-soup -n '__git_soup_at log' -l all -d 'Start at every branch and tag.'
complete -c git-soup -n '__git_soup_at log' -s n -l max-count -x -d 'At most N commits.'
complete -c git-soup -n '__git_soup_at log' -l format -x -a 'table json markdown html' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at log' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at log' -s o -l output -r -F -d 'Write the report to FILE, whole or not at all.'
complete -c git-soup -n '__git_soup_at log' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at tag' -l as -x -a 'vN' -d 'A version, or a label to move. [default: next version]'
complete -c git-soup -n '__git_soup_at tag' -l adapter -r -F -d 'Which adapter, where a revision has several.'
complete -c git-soup -n '__git_soup_at tag' -l format -x -a 'table json markdown html' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at tag' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at tag' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at tag' -a '(__git_soup_refs refs/heads refs/tags refs/remotes)'
complete -c git-soup -n '__git_soup_at gc' -l dry-run -d 'Only say how much: what it does by itself.'
complete -c git-soup -n '__git_soup_at gc' -l prune -l force -d 'Delete it.'
complete -c git-soup -n '__git_soup_at gc' -l older-than -x -d 'Keep what is younger: now, 12h, 14d.'
complete -c git-soup -n '__git_soup_at gc' -l shared-cache -d 'Also look into a cache that other repositories may use.'
complete -c git-soup -n '__git_soup_at gc' -l format -x -a 'table json markdown html' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at gc' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at gc' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at push' -l all -d 'Push every branch, not only the current one.'
complete -c git-soup -n '__git_soup_at push' -l recheck -d 'Ask the DVC remote about every object anew, as after dvc gc --cloud.'
complete -c git-soup -n '__git_soup_at push' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at push' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at push' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at push' -a '(git remote 2>/dev/null)'
complete -c git-soup -n '__git_soup_at pull' -l all -d 'Also fetch the objects of every branch and run.'
complete -c git-soup -n '__git_soup_at pull' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at pull' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at pull' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at pull' -a '(git remote 2>/dev/null)'
complete -c git-soup -n '__git_soup_at train' -l again -d 'Train even when exactly this was trained before.'
complete -c git-soup -n '__git_soup_at train' -l reuse -d 'Take the adapter that was trained from exactly this.'
complete -c git-soup -n '__git_soup_at train' -l restart -d 'Give up an interrupted run instead of resuming it.'
complete -c git-soup -n '__git_soup_at train' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at train' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at train' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at plan' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at plan' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at plan' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at verify' -l tolerance -x -d 'Accept relative differences of the update up to X, as GPUs need.'
complete -c git-soup -n '__git_soup_at verify' -l adapter -r -F -d 'Which adapter, where a revision has several.'
complete -c git-soup -n '__git_soup_at verify' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at verify' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at verify' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at verify' -a '(__git_soup_refs refs/heads refs/tags refs/remotes)'
complete -c git-soup -n '__git_soup_at demo' -l base-only -d 'Only make the small base model, in DIR.'
complete -c git-soup -n '__git_soup_at demo' -l base -x -a '(__fish_complete_directories)' -d 'Use a base model that --base-only made.'
complete -c git-soup -n '__git_soup_at demo' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at demo' -a '(__fish_complete_directories)'
complete -c git-soup -n '__git_soup_at diff' -l adapter -r -F -d 'Which adapter, where a revision has several.'
complete -c git-soup -n '__git_soup_at diff' -l top-k -x -d 'Only the N modules that drifted most. [table: 20]'
complete -c git-soup -n '__git_soup_at diff' -l exit-code -d 'Exit 1 when the two differ, as git diff.'
complete -c git-soup -n '__git_soup_at diff' -l format -x -a 'table json markdown html' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at diff' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at diff' -s o -l output -r -F -d 'Write the report to FILE, whole or not at all.'
complete -c git-soup -n '__git_soup_at diff' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at diff' -a '(__git_soup_specs)'
complete -c git-soup -n '__git_soup_at merge' -l adapter -x -a '(__git_soup_specs)' -d 'One more adapter.'
complete -c git-soup -n '__git_soup_at merge' -s o -l output -x -a '(__fish_complete_directories)' -d 'Write the merged adapter to DIR.'
complete -c git-soup -n '__git_soup_at merge' -s s -l strategy -x -d 'How to merge: --list names all. [default: linear]'
complete -c git-soup -n '__git_soup_at merge' -l weights -x -d 'One per adapter. [default: 1/N each; without -o, 1 each]'
complete -c git-soup -n '__git_soup_at merge' -l expr -x -d 'Weights as a sum: \'a + 0.5*b - c\'.'
complete -c git-soup -n '__git_soup_at merge' -l density -x -d 'The share of entries to keep. [default: 0.5]'
complete -c git-soup -n '__git_soup_at merge' -l seed -x -d 'Of random masks. [default: 0]'
complete -c git-soup -n '__git_soup_at merge' -l rank -x -a 'full' -d 'The result\'s rank. [default: full for linear, else the largest input rank]'
complete -c git-soup -n '__git_soup_at merge' -l space -x -a 'shared delta factors' -d 'Where entries are compared. [default: shared]'
complete -c git-soup -n '__git_soup_at merge' -l normalize -d 'Divide the weights by their sum.'
complete -c git-soup -n '__git_soup_at merge' -l base -x -a '(__fish_complete_directories)' -d 'The base model\'s folder: DoRA and whole tensors need it.'
complete -c git-soup -n '__git_soup_at merge' -l allow-cross-base -d 'Merge although the configs name different base models.'
complete -c git-soup -n '__git_soup_at merge' -s f -l force -d 'Replace an adapter that DIR holds.'
complete -c git-soup -n '__git_soup_at merge' -l freeze -d 'Without -o: freeze the DVC stage, so that dvc repro keeps the merge.'
complete -c git-soup -n '__git_soup_at merge' -l no-commit -d 'Without -o: merge, and leave the commit to you.'
complete -c git-soup -n '__git_soup_at merge' -s m -l message -x -d 'Without -o: of the merge commit.'
complete -c git-soup -n '__git_soup_at merge' -l list -d 'List the strategies with their papers.'
complete -c git-soup -n '__git_soup_at merge' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at merge' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at merge' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at merge' -a '(__git_soup_specs)'
complete -c git-soup -n '__git_soup_needs_verb data' -a show -d 'Show a row of the training data (1 is the first), as training sees it.'
complete -c git-soup -n '__git_soup_at data' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at data show' -l tokens -d 'As tokens, with what is and is not in the loss.'
complete -c git-soup -n '__git_soup_at data show' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at data show' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at data show' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_needs_verb config' -a check -d 'Check soup.yaml without training: every error at once, with its line.'
complete -c git-soup -n '__git_soup_needs_verb config' -a schema -d 'Print the JSON Schema of soup.yaml, for editors.'
complete -c git-soup -n '__git_soup_at config' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at config check' -l format -x -a 'table json' -d 'How to write the report.'
complete -c git-soup -n '__git_soup_at config check' -l json -d 'Short for --format json.'
complete -c git-soup -n '__git_soup_at config check' -s h -l help -d 'Show this message and exit.'
complete -c git-soup -n '__git_soup_at config schema' -s o -l output -r -F -d 'Write the report to FILE, whole or not at all.'
complete -c git-soup -n '__git_soup_at config schema' -s h -l help -d 'Show this message and exit.'
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
