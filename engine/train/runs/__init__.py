"""Do one training run in its folder: begin, resume, interrupt, and keep its result."""
