"""What is known about each prompt: ids, evidence, prior, drift and calibration."""
