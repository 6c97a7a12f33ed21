"""Scenes to judge: photographs, panoramas, rooms, patterns, and what befalls them."""
