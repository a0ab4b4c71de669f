"""ONNX's reference evaluator as a deployment target: an example of a target that lives outside of edge-deploy."""
