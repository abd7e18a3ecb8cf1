"""Speed, memory and compile time as paired ratios: `python -m benchmarks`.

Counts (dots, bytes) are exact and also tests; times are medians of interleaved rounds.
"""
