"""Tables, figures and pages from trials and analyses."""
