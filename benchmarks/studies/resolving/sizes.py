"""Sizes of the studies of the re-solving allocator; read as ``sizes.M``, so that tests can make them smaller."""

M, BATCH, PER_VISIT, MOST = 1000, 50, 8, 32  # the learnt part: prompts, prompts per batch, mean and most rollouts
WHOLE, ROUNDS = 200, 100  # the pools offered as a whole: prompts, rounds
EPOCHS = (1, 2, 4, 8, 16)
FIRST_SEED = 1000  # the settings of these studies were chosen on seeds 0 to 3
