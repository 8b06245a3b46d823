"""The file that ships: a student as ONNX, float32 or int8, checked against torch and measured as it is used."""
