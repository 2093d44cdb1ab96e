"""Makes and reads wheels, and audits their libraries; the same for the compatibility wheel."""
