"""The process: signals, the time a shutdown may take, and the watchdog."""
