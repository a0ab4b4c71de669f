"""Cortex-M: an int8 .tflite becomes a folder of C99 that computes what TFLite Micro computes, byte for byte."""
