"""Noise of videos: frames are averaged with their neighbors where they agree."""
