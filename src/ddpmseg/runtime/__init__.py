"""Device, precision, processes, logs and progress: where and how a program computes."""
