"""What ``benchmarks/train.py`` measures, one module per question."""
