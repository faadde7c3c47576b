"""How fast it is, in figures: one small file per question, each with QUESTION and `run(device, tiny)`, one runner.

Ratios come from one run on one machine, as medians where there are repetitions (column n). A baseline has a process of its own.
`python -m bench` runs all for a device and writes bench/results/ and BENCHMARKS.md; nobody writes those by hand. What needs a
card has `resume(device, tiny, call)` instead: it measures what its results file lacks.
"""
