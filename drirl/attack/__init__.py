"""White-box attacks on a policy, to measure how well it holds: GCG and an AutoDAN-style search."""
