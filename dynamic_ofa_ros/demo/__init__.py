"""The demo: processes, calibration, runs with a load, a live view and a recorder."""
