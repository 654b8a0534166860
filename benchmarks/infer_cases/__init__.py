"""What ``benchmarks/infer.py`` measures, one module per question."""
