"""The limits of one client; `net/connection.pyx` says what they bound, and `stats` shows them."""

cdef enum:
    INPUT_LIMIT = 65536         # received bytes that wait after a command without a reply
    OUTPUT_LIMIT = 262144       # unsent bytes at which none of its commands runs
    STEPS_PER_ITERATION = 512   # lines and bodies of one client
