"""Pure functions of arrays: prices, whole units, tables, ranking, sampling."""
