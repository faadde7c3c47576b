"""The machine: NVML, durable writes, locks, sleep, memory, redaction. Knows nothing of training."""
