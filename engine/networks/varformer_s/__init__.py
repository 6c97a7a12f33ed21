"""VarFormer-S, the default network."""
