"""What is known of each prompt: ids, evidence, prior, calibration."""
