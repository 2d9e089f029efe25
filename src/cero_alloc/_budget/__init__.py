"""What may be spent: horizon, ledger, reservations, deliveries, pacing."""
