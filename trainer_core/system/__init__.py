"""The machine: NVML, durable writes, locks, sleep, memory, redaction. Independent of training."""
