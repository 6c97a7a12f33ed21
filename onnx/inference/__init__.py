"""Models opened and run with ONNX Runtime; never imports torch."""
