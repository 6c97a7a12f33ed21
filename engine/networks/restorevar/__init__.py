"""RestoreVAR as published."""
