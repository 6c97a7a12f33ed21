"""Services of the operating system: files, locks, memory, threads, disk space, downloads."""
