"""Three-way decisions as a table: (origin, ours, theirs) -> what becomes of each module."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.core.adapter import AdapterConfig, parse_adapter_config
from soup_git.core.digests import sha256_hex
from soup_git.core.lock import Lock
from soup_git.core.lockmerge import merge_locks
from soup_git.core.manifest import (
    Manifest,
    Tensor,
    config_bytes,
    make_manifest,
    parse_manifest,
)
from soup_git.core.threeway import (
    Combination,
    Decision,
    decide,
    parse_combination,
    parse_recipe,
    pick,
    recipe_lines,
    whole,
)
from soup_git.errors import FatalError

CONFIG = AdapterConfig("LORA", "tiny/base", 8, 16.0)


def manifest(versions: dict[str, int], config: AdapterConfig = CONFIG, **more: str) -> Manifest:
    """An adapter by module -> number of its version: equal numbers are equal bytes."""
    tensors = []
    for module, version in versions.items():
        rank = config.rank_of(module) or 8
        for part, shape in (("A", (rank, 64)), ("B", (64, rank))):
            digest = sha256_hex(f"{module}{part}{version}{rank}".encode())
            name = f"base_model.model.{module}.lora_{part}.weight"
            tensors.append(Tensor(name, more.get("dtype", "F32"), shape, digest, 1.0))
    tensors += [
        Tensor(f"base_model.model.{name}.weight", "F32", (4, 4), sha256_hex(version.encode()), 1.0)
        for name, version in more.items()
        if name not in {"dtype", "file"}
    ]
    text = "".join(tensor.line() for tensor in tensors) + more.get("file", "")
    md5 = sha256_hex(text.encode())[:32]
    return make_manifest(config, tensors, weights_md5=md5, weights_size=100)


def kinds(decision: Decision) -> dict[str, str]:
    return {choice.module: choice.kind for choice in decision.choices}


def reasons(*versions: Manifest) -> list[str]:
    return [clash.reason for clash in decide(versions[0], versions[1:]).clashes]


def test_every_module_is_decided_by_itself() -> None:
    found = decide(
        manifest({"q": 0, "k": 0, "v": 0, "o": 0, "gone": 0}),
        [
            manifest({"q": 0, "k": 1, "v": 0, "o": 1, "mine": 1}),
            manifest({"q": 0, "k": 0, "v": 2, "o": 2, "gone": 0, "yours": 2}),
        ],
    )
    assert found.clashes == ()
    assert kinds(found) == {
        "q": "unchanged", "k": "taken", "v": "taken", "o": "combined",
        "gone": "deleted", "mine": "taken", "yours": "taken",
    }  # fmt: skip
    assert {c.module: c.changed_by for c in found.choices}["v"] == (1,)


def test_the_same_change_on_both_sides_is_taken_once() -> None:
    found = decide(
        manifest({"q": 0, "k": 0}), [manifest({"q": 1, "k": 2}), manifest({"q": 1, "k": 3})]
    )
    assert kinds(found) == {"q": "taken", "k": "combined"}


@pytest.mark.parametrize(
    ("origin", "ours", "theirs", "word"),
    [
        ({"q": 0, "k": 0}, {"k": 0}, {"q": 2, "k": 0}, "deleted on one side"),
        ({"q": 0}, {"q": 0, "n": 1}, {"q": 0, "n": 2}, "added on both sides"),
    ],
)
def test_modules_that_clash(origin, ours, theirs, word) -> None:
    found = decide(manifest(origin), [manifest(ours), manifest(theirs)])
    assert word in found.clashes[0].reason
    assert found.clashes[0].module in {"q", "n"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rank": 16}, "rank is 8 and 16"),
        ({"alpha": 8.0}, "alpha is 16 and 8"),
        ({"rslora": True}, "rslora is false and true"),
        ({"dora": True}, "dora is false and true"),
        ({"base_model": "other/base"}, "the base model differs: tiny/base and other/base"),
        ({"rank_pattern": {"q": 4}}, "rank is 8 and 4"),
        ({"alpha_pattern": {"q": 4}}, "alpha is 16 and 4"),
        ({"options": {"use_qalora": True}}, "use_qalora is not set and true"),
    ],
)
def test_a_config_that_one_side_changed_and_weights_that_both_did(change, word) -> None:
    theirs = manifest({"q": 2, "k": 2}, replace(CONFIG, **change))
    found = reasons(manifest({"q": 0, "k": 0}), manifest({"q": 1, "k": 1}), theirs)
    assert found
    assert word in found[0]
    # The other way round it is a conflict as well.
    assert reasons(manifest({"q": 0, "k": 0}), theirs, manifest({"q": 1, "k": 1}))


def test_a_pattern_is_a_matter_of_its_modules() -> None:
    """Ours changed q and its rank, theirs k: nobody's factors lose their rank."""
    pattern = replace(CONFIG, rank_pattern={"q": 4})
    found = decide(
        manifest({"q": 0, "k": 0}),
        [manifest({"q": 1, "k": 0}, pattern), manifest({"q": 0, "k": 2})],
    )
    assert found.clashes == ()
    assert kinds(found) == {"q": "taken", "k": "taken"}
    assert dict(parse_adapter_config(found.config, "x").rank_pattern) == {"q": 4}


def test_alpha_alone_and_weights_alone_go_together() -> None:
    origin, theirs = manifest({"q": 0}), manifest({"q": 2})
    ours = manifest({"q": 0}, replace(CONFIG, alpha=32.0))
    found = decide(origin, [ours, theirs])
    assert found.clashes == ()
    assert whole(found, origin, [ours, theirs]) == theirs
    assert parse_adapter_config(found.config, "x").alpha == 32.0


def test_both_sides_may_agree_on_another_rank() -> None:
    wide = replace(CONFIG, rank=16, alpha=32.0)
    found = decide(manifest({"q": 0}), [manifest({"q": 1}, wide), manifest({"q": 2}, wide)])
    assert found.clashes == ()
    assert kinds(found) == {"q": "combined"}


def test_a_base_that_both_replaced_is_nothing_to_start_from() -> None:
    other = replace(CONFIG, base_model="new/base")
    found = reasons(manifest({"q": 0}), manifest({"q": 1}, other), manifest({"q": 2}, other))
    assert "the merge base is for tiny/base" in found[0]


def test_what_is_no_plain_product_is_not_combined() -> None:
    ia3 = AdapterConfig("IA3", "tiny/base")
    named = [Tensor("base_model.model.k.ia3_l", "F32", (4,), str(v) * 64, 1.0) for v in (1, 2, 3)]
    three = [make_manifest(ia3, [t], weights_md5=t.sha256[:32], weights_size=1) for t in named]
    assert "only LoRA is combined, not IA3" in reasons(*three)[0]
    kasa = replace(CONFIG, options={"kasa_config": {"x": 1}})
    assert "no plain B·A" in reasons(*[manifest({"q": v}, kasa) for v in (0, 1, 2)])[0]
    whole_tensors = [manifest({"q": 0}, score=str(v)) for v in (0, 1, 2)]
    assert reasons(*whole_tensors) == []


def test_dora_integers_and_values_that_are_not_finite_are_refused_with_the_reason() -> None:
    dora = replace(CONFIG, dora=True)

    def with_magnitude(version: int) -> Manifest:
        plain = manifest({"q": version}, dora)
        name = "base_model.model.q.lora_magnitude_vector"
        more = Tensor(name, "F32", (64,), str(version) * 64, 1.0)
        return make_manifest(
            dora, [*plain.tensors, more], weights_md5=plain.weights_md5, weights_size=1
        )

    assert "DoRA" in reasons(*map(with_magnitude, (0, 1, 2)))[0]
    assert "integers" in reasons(*[manifest({"q": v}, dtype="I8") for v in (0, 1, 2)])[0]
    broken = manifest({"q": 2})
    broken = replace(
        broken, tensors=(replace(broken.tensors[0], norm=float("nan")), broken.tensors[1])
    )
    assert "not finite" in reasons(manifest({"q": 0}), manifest({"q": 1}), broken)[0]


def test_files_of_equal_tensors_are_not_written_anew() -> None:
    origin, ours, theirs = (manifest({"q": v}, file=f) for v, f in ((0, "a"), (0, "b"), (1, "c")))
    assert whole(decide(origin, [ours, theirs]), origin, [ours, theirs]) == theirs
    resaved = manifest({"q": 0}, file="d")
    assert whole(decide(origin, [ours, resaved]), origin, [ours, resaved]) in {ours, resaved}


versions = st.dictionaries(st.sampled_from("qkvo"), st.integers(0, 3), min_size=1)


@settings(max_examples=150, deadline=None)
@given(versions, versions, versions)
def test_the_laws_of_three_way_merges(o, a, b) -> None:
    origin, ours, theirs = manifest(o), manifest(a), manifest(b)
    unchanged = decide(origin, [origin, theirs])
    assert unchanged.clashes == ()
    assert whole(unchanged, origin, [origin, theirs]) in {theirs, origin}
    assert set(kinds(unchanged).values()) <= {"unchanged", "taken", "deleted"}
    same = decide(origin, [ours, ours])
    assert same.clashes == ()
    assert whole(same, origin, [ours, ours]) == ours
    there, back = decide(origin, [ours, theirs]), decide(origin, [theirs, ours])
    assert there.clashes == back.clashes
    assert there.config == back.config
    assert kinds(there) == kinds(back)
    assert [sorted(1 - i for i in c.changed_by) for c in there.choices] == [
        sorted(c.changed_by) for c in back.choices
    ]


@settings(max_examples=60, deadline=None)
@given(versions, st.lists(versions, min_size=3, max_size=4))
def test_of_many_sides_the_order_decides_nothing(o, many) -> None:
    sides = [manifest(side) for side in many]
    there, back = decide(manifest(o), sides), decide(manifest(o), sides[::-1])
    assert kinds(there) == kinds(back)
    assert {c.module for c in there.clashes} == {c.module for c in back.clashes}


@given(st.integers(0, 3), st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_pick_is_the_rule_of_every_text_merge(origin, values) -> None:
    agreed, value = pick(origin, values)
    changed = {v for v in values if v != origin}
    assert agreed == (len(changed) <= 1)
    assert value in {*changed, origin}
    if not changed:
        assert value == origin


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, alpha=0.1, rslora=True),
        replace(CONFIG, base_model="/models/a b"),
        replace(CONFIG, base_model="/models/a\nb"),
        replace(CONFIG, base_model=None),
        replace(CONFIG, rank_pattern={"q": 4, r"k\d+": 2}, alpha_pattern={"q": 0.5}),
        replace(CONFIG, options={"trainable_token_indices": {"embed_tokens": [1, 2]}}),
        AdapterConfig("IA3", None),
    ],
)
def test_a_header_holds_the_config_that_the_arithmetic_needs(config) -> None:
    made = (
        manifest({"q": 0}, config)
        if config.is_lora
        else make_manifest(config, [], weights_md5="0" * 32, weights_size=1)
    )
    again = parse_adapter_config(config_bytes(made.header), "x")
    assert again == config


# -- settings and recipes ---------------------------------------------------------------------


def test_weights_are_of_the_sides() -> None:
    assert Combination().of_sides(3) == [None, None, None]
    assert Combination(weights="1").of_sides(3) == [1.0, 1.0, 1.0]
    assert Combination(weights="0.5").of_sides(2) == [0.5, 0.5]
    assert Combination(weights="0.7,0.3").of_sides(2) == [0.7, 0.3]
    assert Combination(weights="mean").of_sides(2) == [None, None]


@pytest.mark.parametrize("text", ["", "a", "1,2,3", "nan", "inf", "1;2"])
def test_weights_that_are_none(text) -> None:
    with pytest.raises(FatalError):
        Combination(weights=text).of_sides(2)


@pytest.mark.parametrize(
    "bad", [{"density": "x"}, {"density": "0"}, {"seed": "-1"}, {"density": "nan"}]
)
def test_settings_that_are_none(bad) -> None:
    with pytest.raises(FatalError, match=r"soup\.merge"):
        parse_combination(bad)


def test_a_recipe_is_read_back() -> None:
    versions = [manifest({"q": v}) for v in (0, 1, 2)]
    how = Combination("ties", density=0.4)
    sides = [(versions[1], 1.0), (versions[2], None)]
    lines = recipe_lines(how, {"density": 0.4}, versions[0], sides)
    made = replace(versions[0], recipe=tuple(lines))
    assert parse_manifest(made.text().encode(), "m") == made
    recipe = parse_recipe(made, "m")
    assert (recipe.how, recipe.weights) == (how, (1.0, None))
    assert recipe.sides[1] == (versions[2].weights_md5, config_bytes(versions[2].header))


@pytest.mark.parametrize("edit", [slice(1), slice(4), slice(1, None)])
def test_a_recipe_that_somebody_edited_is_refused(edit) -> None:
    versions = [manifest({"q": v}) for v in (0, 1, 2)]
    lines = recipe_lines(Combination(), {}, versions[0], [(v, 1.0) for v in versions[1:]])
    with pytest.raises(FatalError, match="recipe"):
        parse_recipe(replace(versions[0], recipe=tuple(lines[edit])), "m")
    lines[1] = "settings {"
    with pytest.raises(FatalError, match="recipe"):
        parse_recipe(replace(versions[0], recipe=tuple(lines)), "m")


# -- soup.lock --------------------------------------------------------------------------------

LOCK = Lock("git-soup 1", "2026-01-01", "b", "a" * 64, "d" * 64, "e" * 64, "c" * 64, "0" * 32, "soup.yaml", "rows", 1, {"x": "1" * 32})  # fmt: skip


def no_weights(origin, sides):
    agreed, value = pick(origin, sides)
    assert agreed
    return value


def test_locks_merge_pin_by_pin() -> None:
    ours = replace(LOCK, config_sha="1" * 64, created_at="2026-01-02")
    theirs = replace(LOCK, dataset_sha="2" * 64, dataset_md5="3" * 32, created_at="2026-01-03")
    merged, nulled = merge_locks(LOCK, [ours, theirs], no_weights)
    assert nulled == []
    assert (merged.config_sha, merged.dataset_sha) == ("1" * 64, "2" * 64)
    assert (merged.dataset_md5, merged.created_at) == ("3" * 32, "2026-01-03")
    assert merged == merge_locks(LOCK, [theirs, ours], no_weights)[0]


def test_a_pin_that_both_changed_is_null_and_the_closure_with_it() -> None:
    sides = [replace(LOCK, dataset_sha=c * 64, env_hash="9" * 64) for c in "12"]
    merged, nulled = merge_locks(LOCK, sides, no_weights)
    assert nulled == ["dataset"]
    assert merged.dataset_sha is merged.dataset_md5 is merged.closure_sha is None
    assert (merged.dataset_path, merged.env_hash) == ("rows", "9" * 64)


def test_adapters_of_a_lock_come_go_and_are_merged() -> None:
    ours = replace(LOCK, adapters={"x": "2" * 32, "mine": "4" * 32})
    theirs = replace(LOCK, adapters={"x": "3" * 32, "yours": "5" * 32})

    def weights(origin, sides):
        return "6" * 32 if None not in sides and sides[0] != sides[1] else no_weights(origin, sides)

    merged, _ = merge_locks(LOCK, [ours, theirs], weights)
    assert merged.adapters == {"mine": "4" * 32, "x": "6" * 32, "yours": "5" * 32}
    gone, _ = merge_locks(LOCK, [replace(LOCK, adapters={}), LOCK], weights)
    assert gone.adapters == {}
