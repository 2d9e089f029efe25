"""What exposure is worth, and the best that a budget can buy."""
