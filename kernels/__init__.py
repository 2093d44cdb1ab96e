"""What runs on the GPU, and how it is compiled. Knows neither the Python package nor the farm."""
