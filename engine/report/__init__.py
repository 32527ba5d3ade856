"""Make tables, figures and pages from trials and analyses."""
