"""VarFormer as published."""
