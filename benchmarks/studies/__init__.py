"""The benchmarks, one package per subject; the scripts beside this folder only start them."""
