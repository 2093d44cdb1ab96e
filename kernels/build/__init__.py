"""From a row of the table and a toolkit to a cubin, a pack, the host libraries and the payload of a wheel."""
