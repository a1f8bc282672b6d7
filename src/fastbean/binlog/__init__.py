"""The binlog: what a server stores with ``-b DIR``. ``binlog`` puts it together; ``tool`` is its command line.

Of the engine it knows ``engine.journal`` alone.
"""
