"""The replicated binlog: a stream on other machines takes the place of the files, and several nodes form one queue.

Nothing of this is imported without ``--replicate``.
"""
