"""Slow and obvious twins of the ledger's accounts."""


def lend(rows, units, g, accounts):
    accounts = [list(account) for account in accounts]
    for row, n in zip(rows, units, strict=True):
        accounts[row][0] += n
        accounts[row][1] += n * g
    return accounts  # the kernel returns the sum of the units


def count_offers(rows, accounts):
    return [[dealt, out, offers + list(rows).count(row)] for row, (dealt, out, offers) in enumerate(accounts)]


def settle(rows, rollouts, accounts):
    accounts = [list(account) for account in accounts]
    for row, n in zip(rows, rollouts, strict=True):
        accounts[row][1] = max(accounts[row][1] - n, 0)
    return accounts  # the kernel returns by how much less is outstanding


def first_bad_count(n, unit_size, most):
    bad = [r for r, count in enumerate(n) if count not in range(0, most + 1, unit_size)]
    return (bad[0], sum(n[: bad[0]])) if bad else (-1, sum(n))
