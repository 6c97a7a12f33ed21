"""Networks written to ONNX files; needs the `train` extra."""
