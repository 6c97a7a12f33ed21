"""ONNX files without ONNX Runtime: cards, paths, installed models."""
