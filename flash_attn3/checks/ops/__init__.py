"""One check an operator: cases, call, truth, judge."""
