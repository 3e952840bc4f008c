"""LoRA quality: kinds of adapters, their inits, and what happens to them while they train."""
