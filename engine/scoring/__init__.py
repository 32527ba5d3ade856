"""Score the outputs of any classifier: probabilities, their calibration, and what a trial keeps of them."""
