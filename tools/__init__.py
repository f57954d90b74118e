"""Programs that inspect, convert and compare runs."""
