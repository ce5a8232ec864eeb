"""What the command line does, a function a command; each imports what it needs when it is called."""
