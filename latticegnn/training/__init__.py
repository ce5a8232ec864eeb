"""Training on Lightning: losses, optimisation, the run and its honest table. Import what you need from its modules."""
