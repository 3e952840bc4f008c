"""What adapters are worth: suites, scorers, the runner on the real model, gates, statistics,
searches and probes, and where they run."""
