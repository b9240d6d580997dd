-- Replaces a damaged number by the highest field of a hash, unless another process was faster. Returns the number.
-- ARGV: the name of the number, and of the hash ('' for none: 0).
-- include: number
return number_of(KEYS[1], ARGV[1], ARGV[2])
