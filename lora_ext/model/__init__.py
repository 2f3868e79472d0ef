"""Checkpoint tensors -> architecture, layer table, diffusers / transformers modules over the same storage."""
