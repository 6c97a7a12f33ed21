"""Kinds of sources that need more than FFmpeg's demuxers."""
