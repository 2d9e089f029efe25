"""What the studies share: tables and files, pictures without a screen, and runs in several processes."""
