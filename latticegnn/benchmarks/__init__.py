"""What the package claims about its speed, as code that measures it."""
