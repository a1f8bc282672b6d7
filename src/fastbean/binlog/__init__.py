"""The binlog: what a server stores with ``-b DIR``. ``binlog`` is its top; ``tool`` is its command line.

Of the engine it imports ``engine.journal`` alone.
"""
