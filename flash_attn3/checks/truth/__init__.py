"""Float64 references and the rules that hold results to them."""
