"""What the machine offers: files, locks, memory, threads, disk space, downloads."""
