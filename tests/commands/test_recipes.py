"""Recipes: data that validates, says where it is from, and replaces nobody's config."""

from __future__ import annotations

import json
from pathlib import Path

from soup_git.training import upstream
from soup_git.training.config import load_config
from soup_git.training.recipes import recipes


def test_every_recipe_is_a_valid_config_with_a_source():
    families = ("qwen3", "llama3", "gemma3", "ministral", "phi4", "smollm2", "smollm3", "olmo")
    assert all(any(name.startswith(family) for name in recipes()) for family in families)
    for name, recipe in recipes().items():
        quantizes = "bit" in recipe.text()
        here = not quantizes or upstream.installed("bitsandbytes")
        config = load_config(recipe.text(), check_upstream=here)
        assert (config.base, config.task) == (recipe.base, recipe.task), name
        assert config.training.lora.r == recipe.training["lora"]["r"]
        assert recipe.source.startswith("https://github.com/")
        assert recipe.source in recipe.text()
        assert recipe.licence in recipe.text()
        assert recipe.parameters > 0
        assert recipe.gpus > 0


def test_list_search_show_and_use(in_tmp_path, git, soup):
    git("init", "-q", ".")
    listed = json.loads(soup("recipes", "list", "--json").stdout)
    assert listed["schema"] == "soup.recipes/1"
    assert len(listed["recipes"]) == len(recipes())
    found = json.loads(soup("recipes", "search", "qwen3", "0.6b", "--json").stdout)
    assert [recipe["name"] for recipe in found["recipes"]] == ["qwen3-0.6b"]
    assert soup("recipes", "search", "nothing-like-it", check=False).returncode == 1
    shown = soup("recipes", "show", "llama3.1-8b").stdout
    soup("recipes", "use", "llama3.1-8b")
    assert Path("soup.yaml").read_text() == shown
    assert "  https://github.com/pytorch/torchtune/blob/" in shown
    assert "(gated)" in shown
    refused = soup("recipes", "use", "phi4-14b", check=False)
    assert refused.returncode == 128
    assert refused.stderr.startswith("fatal: soup.yaml is there already\nhint: ")
    soup("recipes", "use", "phi4-14b", "--force")
    assert load_config(Path("soup.yaml")).base == "microsoft/phi-4"
    soup("recipes", "use", "phi4-14b", "-o", "sub/other.yaml")
    assert Path("sub/other.yaml").is_file()
    unknown = soup("recipes", "show", "lama3.1-8b", check=False)
    assert "did you mean llama3.1-8b?" in unknown.stderr
