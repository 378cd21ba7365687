"""Many files on many machines, by Ray: names and URLs, the record of a run, workers and their driver (dlfc[ray])."""
