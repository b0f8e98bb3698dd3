"""Live detection: cameras and their readers, scores that grow, alarms, and where events go."""
