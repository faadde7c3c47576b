"""How fast it is, as ratios in one run: one small file per question. `python -m bench` runs them and writes BENCHMARKS.md."""
