"""What knows the device: arrays, memory, recorded calls, errors."""
