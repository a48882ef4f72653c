"""The process: signals, the time that a shutdown may take, and the watchdog."""
