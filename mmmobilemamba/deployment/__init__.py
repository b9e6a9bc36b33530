"""Export of models to ONNX and to mobile and server runtimes, used by tools/deployment."""
