"""What several benchmarks share: clocks, and the operators of the reference."""
