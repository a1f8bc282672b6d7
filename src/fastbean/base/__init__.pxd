# Lets other modules cimport from this package.
