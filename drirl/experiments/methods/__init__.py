"""Method files of experiments that are no baselines of their own; the interface is that of ``baselines/``."""
