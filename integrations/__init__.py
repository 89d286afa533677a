"""Bridges to transformers, diffusers, accelerate and lm-eval; each is imported only when used."""
