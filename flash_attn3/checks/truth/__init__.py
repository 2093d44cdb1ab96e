"""Float64 references, and the rules that judge results against them."""
