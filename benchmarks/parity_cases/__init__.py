"""Cases of ``benchmarks/parity.py``: each compares this implementation with recorded reference tensors."""
